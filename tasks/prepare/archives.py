"""Reads images out of a tar or zip archive without unpacking it to disk.

The whole archive is checked first, member by member: a link, a device, a name that leads outside, a name given twice, an
encrypted or nested archive, an impossible size, damage or a cut-off end rejects it before anything is written.
"""

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tasks.prepare import decoding
from tasks.prepare.decoding import BadImage
from tasks.runtime.errors import DataError

MAX_MEMBERS = 5_000_000
RATIO, SLACK = 200, 16 << 20
"""An archive may expand to this many times its size plus the slack in bytes; images hardly compress."""
BLOCK = 512
EMPTY = 20 * BLOCK
"""Bytes, all zero, that tar writes of no members."""
ARCHIVES = (".zip", ".tar", ".tgz", ".txz", ".tar.gz", ".tar.xz", ".tar.bz2", ".7z", ".rar", ".gz", ".xz", ".bz2", ".zst")
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
)
OPENERS = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\0": lzma.open, b"BZh": bz2.open}


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in the archive: ``position`` is its byte offset in the tar or its index in the zip."""

    name: str
    position: int
    size: int


class Archive:
    """A checked archive.

    Args:
        remedy: what a user may do where a member could do harm.

    Attributes:
        members: the regular files by normalized name.
        folders: names of the folders.

    Raises:
        DataError: not an archive, damaged, or with a member that could do harm.
    """

    def __init__(self, path: Path, remedy: str = "unpack it yourself and use data.source: folder if you trust it"):
        self.path, self._remedy = path, remedy
        self.limit = RATIO * path.stat().st_size + SLACK
        self.members: dict[str, Member] = {}
        self.folders: set[str] = set()
        with path.open("rb") as file:
            start = file.read(262)
        self._zip = start[:4] in (b"PK\x03\x04", b"PK\x05\x06")
        self._open: Any = next((o for magic, o in OPENERS.items() if start.startswith(magic)), None)
        if not (self._zip or self._open or start[257:] == b"ustar" or _is_empty(path)):
            raise DataError(f"{path} is not a tar (plain, gz, xz, bz2) or zip archive")
        try:
            if self._zip:
                self._check_zip()
            else:
                self._check_tar()
        except BROKEN as error:
            raise DataError(f"{path} is damaged or cut off ({decoding.one_line(error)}); copy or download it again") from None

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes | BadImage]]:
        """The bytes of the named members, in the archive's own order.

        Raises:
            DataError: the archive changed since it was checked.
        """
        chosen = sorted((self.members[n] for n in names), key=lambda m: m.position)
        try:
            if self._zip:
                yield from self._read_zip(chosen)
            else:
                yield from self._read_tar(chosen)
        except BROKEN as error:
            raise DataError(f"{self.path} cannot be read any more ({decoding.one_line(error)})") from None

    # ------------------------------------------------------------------ both kinds

    def _reject(self, name: str, why: str) -> None:
        raise DataError(f"{self.path} is rejected: {name!r} {why}; {self._remedy}")

    def _add(self, name: str, position: int, size: int, folder: bool) -> None:
        if name.startswith("/") or (len(name) > 1 and name[1] == ":") or "\0" in name:
            self._reject(name, "is an absolute or impossible name")
        path = PurePosixPath(name)
        if ".." in path.parts:
            self._reject(name, "leads outside the archive")
        clean = path.as_posix()
        if clean == ".":
            return
        if folder:
            self.folders.add(clean)
            return
        if clean in self.members:
            self._reject(name, "is there twice")
        if clean.lower().endswith(ARCHIVES):
            self._reject(name, "is an archive inside the archive")
        if size > decoding.MAX_BYTES:
            self._reject(name, f"claims {size:,} bytes")
        if len(self.members) >= MAX_MEMBERS:
            self._reject(name, f"is one of more than {MAX_MEMBERS:,} members")
        self.members[clean] = Member(clean, position, size)

    # ------------------------------------------------------------------ tar

    def _stream(self) -> "_Limited":
        file: Any = (self._open or open)(self.path, "rb")
        return _Limited(file, self.limit, self.path)

    def _check_tar(self) -> None:
        with self._stream() as stream, tarfile.open(fileobj=stream, mode="r:", errorlevel=2) as tar:  # type: ignore[call-overload]
            for info in tar:
                if info.issparse() or not (info.isreg() or info.isdir()):
                    self._reject(info.name, "is a link, a device or another special file")
                self._add(info.name, info.offset_data, info.size, info.isdir())
                tar.members.clear()  # tarfile keeps every header otherwise
            stream.seek(tar.offset if self.members or self.folders else 0)
            if stream.read(BLOCK) != bytes(BLOCK):  # tarfile takes a damaged header for the end
                raise EOFError("the end mark is missing")
            while stream.read(1 << 20):  # to the end, where the compression's own checksum is
                pass

    def _read_tar(self, chosen: Sequence[Member]) -> Iterator[tuple[str, bytes | BadImage]]:
        with self._stream() as stream:
            for member in chosen:
                stream.seek(member.position)
                data = stream.read(member.size)
                if len(data) != member.size:
                    raise EOFError("it is shorter than before")
                yield member.name, data

    # ------------------------------------------------------------------ zip

    def _check_zip(self) -> None:
        total = 0
        with zipfile.ZipFile(self.path) as archive:
            for index, info in enumerate(archive.infolist()):
                mode = info.external_attr >> 16
                if info.flag_bits & 1:
                    self._reject(info.filename, "is encrypted")
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    self._reject(info.filename, "is a link, a device or another special file")
                total += info.file_size
                if total > self.limit:
                    self._reject(info.filename, f"expands the archive to more than {RATIO} times its size")
                self._add(info.filename.replace("\\", "/"), index, info.file_size, info.is_dir())

    def _read_zip(self, chosen: Sequence[Member]) -> Iterator[tuple[str, bytes | BadImage]]:
        with zipfile.ZipFile(self.path) as archive:
            infos = archive.infolist()
            for member in chosen:
                try:
                    yield member.name, archive.read(infos[member.position])
                except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
                    yield member.name, BadImage(f"damaged in the archive: {decoding.one_line(error)}")


def _is_empty(path: Path) -> bool:
    """Whether it is a tar without members: some zeros."""
    return 0 < path.stat().st_size <= EMPTY and not any(path.read_bytes())


class _Limited:
    """A forward-reading stream that refuses to expand without bound."""

    def __init__(self, file: IO[bytes], limit: int, path: Path):
        self._file, self._limit, self._path, self._position = file, limit, path, 0

    def __enter__(self) -> "_Limited":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET:
            raise OSError("only absolute positions")
        self._check(position)
        self._position = self._file.seek(position)
        return self._position

    def read(self, count: int = -1) -> bytes:
        if count < 0 or count > decoding.MAX_BYTES:
            raise DataError(f"{self._path} is rejected: it claims a header or file of {count:,} bytes")
        data = self._file.read(count)
        self._position += len(data)
        self._check(self._position)
        return data

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise DataError(
                f"{self._path} is rejected: it expands to more than {RATIO} times its size; unpack it yourself and use"
                " data.source: folder if you trust it"
            )
