"""``source: folder``: images in a folder, or in several, found by name and read one after another."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def _renamed(around: str, mark: str, name: str) -> str:
    """The name of a file without the folders around everything, with the name of the folder that ``data.more`` reads."""
    return marked(name.removeprefix(around), mark)


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
        roots = {"": path, **(more or {})}
        super().__init__(path.resolve().name, ", ".join(root.resolve().name for root in roots.values()), OWN_LICENSE)
        self.class_folder = class_folder
        self.folder, self.given = path.resolve(), Path(os.path.abspath(path))  # noqa: PTH100  as the user writes it, links and all
        self._files: dict[str, tuple[Listing, str]] = {}
        names: list[str] = []
        folders: list[str] = []
        renaming: dict[str, Callable[[str], str]] = {}
        listings = {mark: Listing(root, follow_links) for mark, root in roots.items()}
        for mark, listing in listings.items():
            images = [name for name in listing.names if is_image(name)]
            around = folders_around(images) if more and images else ""
            if mark and not images:
                raise DataError(f"data.more.{mark}: {roots[mark]} holds no images; is its disk there?")
            found = {_renamed(around, mark, name): name for name in listing.names}
            if twice := sorted(name for name in found.keys() & self._files.keys() if is_image(name)):
                raise DataError(f"data.more.{mark}: an image is called {twice[0]!r} already; give the folder another name")
            self._files |= {name: (listing, own) for name, own in found.items()}
            names += found
            folders += [name.removeprefix(around) for name in listing.folders if not around.startswith(f"{name}/")]
            self.bad += [(_renamed(around, mark, name), reason) for name, reason in listing.bad]
            renaming[mark] = functools.partial(_renamed, around, mark)
            self.ignored += listing.ignored
            own = [f"all images lie in {around[:-1]}: its folders are taken for those of {roots[mark]}"] if around else []
            self.warnings += [f"{mark}: {text}" if mark else text for text in (*listing.warnings, *own)]
        self.place(names, folders, " and ".join(map(str, roots.values())))
        for mark, listing in listings.items():
            if SUMS in listing.names:
                text = listing.content(SUMS)
                self.check_sums(text if isinstance(text, bytes) else b"unreadable", renaming[mark])

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""
        for row in rows:
            yield row, self.content(self.items[row].name)

    def content(self, name: str) -> bytes | BadImage:
        """The bytes of a file, or why there are none."""
        listing, own = self._files[name]
        return listing.content(own)
