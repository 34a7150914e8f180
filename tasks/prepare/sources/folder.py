"""``source: folder``: images in a folder, or in several, found by name and read one after another."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.prepare.class_folders import ClassFolder
from tasks.prepare.decoding import BadImage
from tasks.prepare.layout import folders_around
from tasks.prepare.listing import Listing
from tasks.prepare.names import SUMS, is_image
from tasks.prepare.source import OWN_LICENSE, Content, FileSource, Source, marked
from tasks.runtime.errors import DataError, UsageError
from tasks.runtime.image_folders import images_path, more_paths
from tasks.runtime.params import DataConfig


def open_source(config: DataConfig) -> Source:
    """The folder at ``data.path``, with those of ``data.more``.

    Raises:
        UsageError: no folder there.
        DataError: the folder holds nothing usable.
    """
    path = images_path(config.path)
    if not path.is_dir():
        raise UsageError(f"data.path: {path} is not a folder; use data.source: archive for a tar or zip file")
    return FolderSource(path, config.follow_links, config.class_folder, more_paths(config))


@dataclass(frozen=True)
class _Part:
    """One of several folders."""

    mark: str
    """Its name in ``data.more``; empty: the one at ``data.path``."""
    root: Path
    listing: Listing
    around: str = ""
    """The folders around all of its images, as ``dataset/images/``, which are looked through."""

    def renamed(self, name: str) -> str:
        """The name in the source of what has this one in the folder."""
        return marked(name.removeprefix(self.around), self.mark)

    @property
    def folders(self) -> list[str]:
        """The folders in it, but those around all of its images."""
        return [name.removeprefix(self.around) for name in self.listing.folders if not self.around.startswith(f"{name}/")]

    @property
    def warnings(self) -> list[str]:
        """What to say of it."""
        around = (
            [f"all images lie in {self.around[:-1]}: its folders are taken for those of {self.root}"] if self.around else []
        )
        return [f"{self.mark}: {text}" if self.mark else text for text in (*self.listing.warnings, *around)]


class FolderSource(FileSource):
    """A folder of images, or several that are read as one: what lies in the same place below each of them is alike.

    Args:
        follow_links: as ``Listing`` takes it.
        class_folder: which folder names an image's class.
        more: further folders by name. The name stands before those of their images: ``cat/NAME:1.jpg`` is their ``cat/1.jpg``.
    """

    def __init__(
        self,
        path: Path,
        follow_links: bool = False,
        class_folder: ClassFolder | None = None,
        more: Mapping[str, Path] | None = None,
    ):
        first = Listing(path, follow_links)
        parts = [_Part("", path, first)]
        for mark, root in (more or {}).items():
            listing = Listing(root, follow_links)
            if not any(map(is_image, listing.names)):
                raise DataError(f"data.more.{mark}: {root} holds no images; is its disk there?")
            parts.append(_Part(mark, root, listing))
        parts = _looked_through(parts)
        super().__init__(path.resolve().name, ", ".join(part.root.resolve().name for part in parts), OWN_LICENSE)
        self.class_folder = class_folder
        self.folder, self.given = path.resolve(), Path(os.path.abspath(path))  # noqa: PTH100  as the user writes it, links and all
        self._first, self._elsewhere = first, self._elsewhere_in(parts)
        for part in parts:
            self.bad += [(part.renamed(name), reason) for name, reason in part.listing.bad]
            self.ignored += part.listing.ignored
            self.warnings += part.warnings
        names = [part.renamed(name) for part in parts for name in part.listing.names]
        folders = [name for part in parts for name in part.folders]
        self.place(names, folders, " and ".join(str(part.root) for part in parts))
        self._check_used(parts)
        for part in parts:
            if SUMS in part.listing.names:
                text = part.listing.content(SUMS)
                self.check_sums(text if isinstance(text, bytes) else b"unreadable", part.renamed)

    def _check_used(self, parts: Sequence[_Part]) -> None:
        """Refuse a folder of several of which no image is used, for the others have splits and it has none."""
        used = {id(self._elsewhere[item.name][0]) for item in self.items} if len(parts) > 1 else set()
        for part in parts if used else ():
            if id(part.listing) not in used:
                key = f"data.more.{part.mark}" if part.mark else "data.path"
                raise DataError(
                    f"{key}: none of its images is used beside the others; give all of them train and test, or none"
                )

    def _elsewhere_in(self, parts: Sequence[_Part]) -> dict[str, tuple[Listing, str]]:
        """By their names here, the images that have another one in their folder, and which folder.

        Raises:
            DataError: two have one name.
        """
        found: dict[str, tuple[Listing, str]] = {}
        for part in parts if len(parts) > 1 else ():
            for own in filter(is_image, part.listing.names):
                if (name := part.renamed(own)) in found:
                    raise DataError(f"data.more.{part.mark}: an image is called {name!r} already; give the folder another name")
                found[name] = part.listing, own
        return found

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""
        for row in rows:
            yield row, self.content(self.items[row].name)

    def content(self, name: str) -> bytes | BadImage:
        """The bytes of a file, or why there are none."""
        listing, own = self._elsewhere.get(name, (self._first, name))
        return listing.content(own)


def _looked_through(parts: Sequence[_Part]) -> list[_Part]:
    """Several folders, each without the folders around all of its images, but where one of these is a folder of another one."""
    if len(parts) == 1:
        return list(parts)
    images = [[name for name in part.listing.names if is_image(name)] for part in parts]
    arounds = [folders_around(names) if names else "" for names in images]
    plain = {name.partition("/")[0] for names, around in zip(images, arounds, strict=True) for name in names if not around}
    kept = ["" if around.partition("/")[0] in plain else around for around in arounds]
    return [replace(part, around=around) for part, around in zip(parts, kept, strict=True)]
