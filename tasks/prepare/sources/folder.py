"""``source: folder``: images in a folder, or in several, found by name and read one after another."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tasks.prepare.class_folders import ClassFolder
from tasks.prepare.decoding import BadImage
from tasks.prepare.listing import Listing
from tasks.prepare.names import SUMS
from tasks.prepare.source import OWN_LICENSE, Content, FileSource, Source, marked
from tasks.runtime.errors import UsageError
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
        self.folder = path.resolve()
        self._files: dict[str, tuple[Listing, str]] = {}
        names: list[str] = []
        folders: list[str] = []
        listings = {mark: Listing(root, follow_links) for mark, root in roots.items()}
        for mark, listing in listings.items():
            found = {marked(name, mark): name for name in listing.names}
            self._files |= {name: (listing, own) for name, own in found.items()}
            names += found
            folders += listing.folders
            self.bad += [(marked(name, mark), reason) for name, reason in listing.bad]
            self.ignored += listing.ignored
            self.warnings += listing.warnings
        self.place(names, folders, " and ".join(map(str, roots.values())))
        for mark, listing in listings.items():
            if SUMS in listing.names:
                text = listing.content(SUMS)
                self.check_sums(text if isinstance(text, bytes) else b"unreadable", mark)

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""
        for row in rows:
            yield row, self.content(self.items[row].name)

    def content(self, name: str) -> bytes | BadImage:
        """The bytes of a file, or why there are none."""
        listing, own = self._files[name]
        return listing.content(own)
