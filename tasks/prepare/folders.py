"""Images in a folder or an archive, found by name and read one after another."""

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.prepare import images
from tasks.prepare.archives import Archive
from tasks.prepare.images import BadImage
from tasks.prepare.layout import SUMS, Item, is_image, understand
from tasks.runtime.dataset import Array
from tasks.runtime.errors import DataError

Content = bytes | Array | BadImage
OWN_LICENSE = "not stated (the user's own images)"


@dataclass
class Source(ABC):
    """A list of images that are not read yet.

    ``read(rows)`` yields (row, content) in any order; the content is the file's bytes, decoded pixels (H, W) or (H, W, 3)
    uint8, or why it cannot be read.
    """

    name: str
    origin: str
    license: str
    items: list[Item] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of what was refused without being read."""
    warnings: list[str] = field(default_factory=list)
    sums: dict[str, str] = field(default_factory=dict)
    """sha256 by name, from a SHA256SUMS file."""

    @abstractmethod
    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""

    def _arrange(self, names: Sequence[str], folders: Sequence[str], where: str) -> None:
        self.ignored += sorted(n for n in names if not is_image(n) and n != SUMS)
        layout = understand((n for n in names if is_image(n)), folders, where)
        self.items, self.classes = layout.items, layout.classes
        self.warnings += layout.warnings

    def _check_sums(self, text: bytes) -> None:
        """Take the hashes of a SHA256SUMS file (``sha256sum``'s format); a listed image that is absent is bad."""
        known = {item.name for item in self.items}
        refused = {name for name, _ in self.bad}
        for number, line in enumerate(os.fsdecode(text).splitlines(), 1):
            digest, _, name = line.partition(" ")
            name = name.lstrip(" *").removeprefix("./")
            if not line.strip():
                continue
            if len(digest) != 64 or not name:
                raise DataError(f"{self.name}: line {number} of {SUMS} is not 'sha256  name'; make it with sha256sum")
            if name in known:
                self.sums[name] = digest.lower()
            elif is_image(name) and name not in refused:
                self.bad.append((name, f"listed in {SUMS} but not there"))


class ArchiveSource(Source):
    """A tar or zip archive of a folder of images; one folder around everything is looked through."""

    def __init__(self, path: Path):
        super().__init__(path.name.partition(".")[0] or path.name, path.name, OWN_LICENSE)
        self._archive = Archive(path)
        names = list(self._archive.members)
        visible = [n for n in names if is_image(n)]
        tops = {n.partition("/")[0] for n in visible}
        wrapped = len(tops) == 1 and all("/" in n for n in visible) and not tops & {"train", "test"}
        self._prefix = f"{tops.pop()}/" if wrapped else ""
        inside = [n.removeprefix(self._prefix) for n in names if n.startswith(self._prefix)]
        folders = [f.removeprefix(self._prefix) for f in self._archive.folders if f.startswith(self._prefix)]
        self._arrange(inside, folders, str(path))
        if SUMS in inside:
            self._check_sums(next(c for _, c in self._archive.read([self._prefix + SUMS]) if isinstance(c, bytes)))

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""
        by_name = {self._prefix + self.items[row].name: row for row in rows}
        for name, content in self._archive.read(list(by_name)):
            yield by_name[name], content


class FolderSource(Source):
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
        self._arrange(names, folders, str(path))
        if SUMS in names:
            text = self._content(SUMS)
            self._check_sums(text if isinstance(text, bytes) else b"unreadable")

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
