"""``source: folder``: images in a folder, found by name and read one after another."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.prepare import images
from tasks.prepare.images import BadImage
from tasks.prepare.layout import SUMS, is_image
from tasks.prepare.source import OWN_LICENSE, Content, FileSource, Source
from tasks.runtime.errors import UsageError
from tasks.runtime.params import DataConfig, images_path


def open_source(config: DataConfig) -> Source:
    """The folder at ``data.path``.

    Raises:
        UsageError: no folder there.
        DataError: the folder holds nothing usable.
    """
    path = images_path(config.path)
    if not path.is_dir():
        raise UsageError(f"data.path: {path} is not a folder; use data.source: archive for a tar or zip file")
    return FolderSource(path)


class FolderSource(FileSource):
    """A folder of images; links that lead outside, pipes, devices and unreadable folders are quarantined, never opened."""

    def __init__(self, path: Path):
        super().__init__(path.resolve().name, path.resolve().name, OWN_LICENSE)
        self._root = path.resolve()
        self._links: dict[str, Path] = {}
        names: list[str] = []
        folders: list[str] = []
        pending = [""]
        while pending:
            folder = pending.pop()
            for entry in self._list(folder):
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False) and is_image(f"{entry.name}/x"):
                    folders.append(name)
                    pending.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    self.ignored.append(name + "/")
                elif not is_image(name) or self._accept(name, entry):
                    names.append(name)
        self.place(names, folders, str(path))
        if SUMS in names:
            text = self._content(SUMS)
            self.check_sums(text if isinstance(text, bytes) else b"unreadable")

    def _list(self, folder: str) -> list["os.DirEntry[str]"]:
        try:
            with os.scandir(self._root / folder) as entries:
                return sorted(entries, key=lambda e: e.name)
        except OSError as error:
            self.bad.append((folder or ".", f"cannot be listed ({error.strerror})"))
            return []

    def _accept(self, name: str, entry: "os.DirEntry[str]") -> bool:
        """Whether this is a regular file, or a link to one inside the folder."""
        if not entry.is_symlink():
            if not entry.is_file(follow_symlinks=False):
                self.bad.append((name, "not a regular file (pipe, socket or device)"))
                return False
            return True
        target = Path(os.path.realpath(entry.path))  # unlike Path.resolve, no exception for a loop
        if not target.is_relative_to(self._root):
            self.bad.append((name, "a link that leads out of the folder"))
        elif not target.exists():
            self.bad.append((name, "a link that leads nowhere"))
        elif target.is_dir():
            self.ignored.append(f"{name} (a link to a folder that is read anyway)")
        else:
            self._links[name] = target
            return True
        return False

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""
        for row in rows:
            yield row, self._content(self.items[row].name)

    def _content(self, name: str) -> bytes | BadImage:
        path = self._links.get(name) or self._root / name
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                status = os.fstat(handle)
                if not stat.S_ISREG(status.st_mode):
                    return BadImage("not a regular file")
                if status.st_size > images.MAX_BYTES:
                    return BadImage(f"{status.st_size:,} bytes is more than {images.MAX_BYTES:,}")
                return file.read(images.MAX_BYTES)
        except OSError as error:
            return BadImage(f"cannot be read ({error.strerror})")
