"""What lies in a folder: the files to read, by name, and the links and odd things that are refused."""

import errno
import functools
import os
import stat
import subprocess
import sys
from pathlib import Path

from tasks.prepare import decoding
from tasks.prepare.decoding import BadImage
from tasks.prepare.names import OWN, is_image, left_out
from tasks.runtime.audit import UNWATCHED
from tasks.runtime.words import counted, few

SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What the machine lacks, which says nothing of the file."""
LEADS_OUT = "a link that leads out of the folder (data.follow_links: true reads it)"
READ_ANYWAY = " (a link to a folder that is read anyway)"
AROUND = " (a link to a folder that it lies in)"
"""What only that folder holds is not read; a link to it would never end."""


class Listing:
    """A folder of images; pipes, devices, unreadable folders and most links that lead outside are refused, never opened.

    Args:
        follow_links: read what links out of the folder point to. Links into this project's DVC cache are always read: with
            ``cache.type symlink`` they are what ``dvc add`` leaves of the images.
    """

    def __init__(self, path: Path, follow_links: bool = False):
        self.names: list[str] = []
        """Of files, images or not, relative to the folder."""
        self.folders: list[str] = []
        self.ignored: list[str] = []
        self.bad: list[tuple[str, str]] = []
        """(name, reason) of what is refused."""
        self.warnings: list[str] = []
        self._root, self._follow_links = path.resolve(), follow_links
        self._elsewhere: dict[str, Path] = {}
        self._linked: list[str] = []
        self._tops = [self._root]  # and whatever links led to: what lies below is read
        self._pending: list[tuple[str, tuple[Path, ...]]] = [("", (self._root,))]
        hidden: list[str] = []
        while self._pending:
            folder, way = self._pending.pop()
            for entry in self._list(folder, way[-1]):
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False) and is_image(f"{entry.name}/x"):
                    self.folders.append(name)
                    self._pending.append((name, (*way[:-1], way[-1] / entry.name)))
                elif entry.is_dir(follow_symlinks=False):
                    self.ignored.append(name + "/")
                    if entry.name not in OWN:
                        hidden += _files_in(entry, name)
                elif is_image(name):
                    self.names += [name] if self._accept(name, entry, way) else []
                else:
                    self.names.append(name)
                    self._look_up(name, entry)
        if self._linked:
            named = f"{len(self._linked)} linked folders are read, {min(self._linked)!r} first"
            self.warnings.append(f"{named}, but {UNWATCHED}")
        for kind, said in ((READ_ANYWAY, "to folders that are read anyway"), (AROUND, "to folders around their own")):
            if links := [name.removesuffix(kind) for name in self.ignored if name.endswith(kind)]:
                named = few(map(repr, sorted(links)))
                self.warnings.append(f"{counted(len(links), 'link', 'links')} {said}, not followed: {named}")
        self.warnings += left_out(hidden, ())

    def _list(self, folder: str, place: Path) -> list["os.DirEntry[str]"]:
        try:
            with os.scandir(place) as entries:
                return sorted(entries, key=lambda e: e.name)
        except OSError as error:
            self.bad.append((folder or ".", f"cannot be listed ({error.strerror})"))
            return []

    def _accept(self, name: str, entry: "os.DirEntry[str]", way: tuple[Path, ...]) -> bool:
        """Whether this is a file to read; a link to a folder that may be read is noted for later.

        Args:
            way: the real folders that links led to on the way here; the last is the one this entry lies in.
        """
        if entry.is_symlink():
            return self._follow(name, Path(os.path.realpath(entry.path)), way)  # unlike Path.resolve: no exception for a loop
        if not entry.is_file(follow_symlinks=False):
            self.bad.append((name, "not a regular file (pipe, socket or device)"))
            return False
        if len(way) > 1:
            self._elsewhere[name] = Path(entry.path)
        return True

    def _look_up(self, name: str, entry: "os.DirEntry[str]") -> None:
        """Where a list or a file of hashes is, if it is a link that may be read; others fail when they are."""
        target = Path(os.path.realpath(entry.path))
        if entry.is_symlink() and self._may_be_read(target) and os.path.isfile(target):  # noqa: PTH113  False where it is closed
            self._elsewhere[name] = target

    def _may_be_read(self, target: Path) -> bool:
        return target.is_relative_to(self._root) or self._follow_links or _in_dvc_cache(target)

    def _follow(self, name: str, target: Path, way: tuple[Path, ...]) -> bool:
        inside = target.is_relative_to(self._root)
        hidden = inside and target != self._root and not is_image(f"{target.relative_to(self._root)}/x")
        if not os.path.exists(target):  # noqa: PTH110  no exception where this user may not look
            self.bad.append((name, "a link that leads nowhere, or where this user may not look"))
        elif not self._may_be_read(target):
            self.bad.append((name, LEADS_OUT))
        elif target.is_dir() and inside and not hidden:
            self.ignored.append(f"{name}{READ_ANYWAY}")
        elif target.is_dir() and any(place.is_relative_to(target) for place in way):
            read = any(target.is_relative_to(top) for top in self._tops)
            self.ignored.append(f"{name}{READ_ANYWAY if read else AROUND}")
        elif target.is_dir():
            self._tops.append(target)
            if not inside:
                self._linked.append(name)
            self._pending.append((name, (*way, target)))
        else:
            self._elsewhere[name] = target
            return True
        return False

    def content(self, name: str) -> bytes | BadImage:
        """The bytes of a file, or why there are none."""
        path = self._elsewhere.get(name) or self._root / name
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                status = os.fstat(handle)
                if not stat.S_ISREG(status.st_mode):
                    return BadImage("not a regular file")
                if status.st_size > decoding.MAX_BYTES:
                    return BadImage(f"{status.st_size:,} bytes is more than {decoding.MAX_BYTES:,}")
                return file.read(decoding.MAX_BYTES)
        except OSError as error:
            if error.errno in SHORT:
                raise
            if error.errno == errno.ELOOP and path.is_symlink():
                return BadImage(LEADS_OUT)
            return BadImage(f"cannot be read ({error.strerror})")


def _files_in(folder: "os.DirEntry[str]", name: str) -> list[str]:
    """Of a hidden folder, to be counted."""
    found = [Path(place) / file for place, _, files in os.walk(folder) for file in files]
    return [f"{name}/{path.relative_to(folder.path)}" for path in found]


def _in_dvc_cache(path: Path) -> bool:
    cache = dvc_cache(Path.cwd())
    return cache is not None and path.is_relative_to(cache)


@functools.cache
def dvc_cache(project: Path) -> Path | None:
    """Where DVC keeps the files of ``project``, as ``dvc cache dir`` says; None where DVC does not manage it."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    return Path(done.stdout.strip()).resolve() if done.returncode == 0 else None
