"""Files that are either absent or complete: atomic writes, directories with a manifest, verified reads."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from tasks.runtime.errors import EnvironmentFault, IntegrityError

MANIFEST = "MANIFEST.json"
SCHEMA = 1
FOREIGN = {"registered_model_meta"}
"""What MLflow adds to a package that it downloads; nobody here reads it."""
LONGEST_HEADER = 100 << 20
"""Bytes; safetensors' own limit."""
MEND = "run python -m tasks.doctor, which removes what is damaged, then the same command again"
"""What a reader of a damaged output is told."""


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing_digest(path: Path) -> str:
    """Digest of the names, sizes and times of all files below ``path``, or of ``path`` if it is a file.

    Nothing is opened. Of a link to a file it is that of both, so that another target shows; links to folders are not followed.
    """
    below = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    lines = [f"{p.relative_to(path)}\0{_times(p)}" for p in ([path] if path.is_file() else below)]
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def _times(path: Path) -> str:
    try:
        status = path.lstat()
    except OSError:
        return "gone"
    own = f"{status.st_size}\0{status.st_mtime_ns}\0{status.st_mode}"  # no inode: network disks give new ones
    if not stat.S_ISLNK(status.st_mode):
        return own
    with contextlib.suppress(OSError):
        target = path.stat()
        own += f"\0{path.readlink()}\0{target.st_size}\0{target.st_mtime_ns}"
    return own


def to_json(value: Any) -> str:
    """JSON that is the same for the same value: sorted keys, no NaN, final newline."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def check_space(target: Path, needed: int, remedy: str) -> None:
    """Before the work: whether so many bytes fit on the disk of ``target``.

    Raises:
        EnvironmentFault: they do not.
    """
    place = next(place for place in (target, *target.absolute().parents) if place.exists())  # it may be a disk of its own
    free = shutil.disk_usage(place).free
    if needed > free:
        raise EnvironmentFault(f"{target} needs about {needed / 1e6:,.0f} MB but {free / 1e6:,.0f} MB are free there; {remedy}")


def beside(path: Path) -> Path:
    """A name next to ``path`` for what is not whole yet; ``remove_leftovers`` knows it."""
    return path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``path`` so that a crash leaves the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = beside(path)
    try:
        with temp.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """``write_bytes`` of ``to_json``."""
    write_text(path, to_json(value))


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        IntegrityError: absent, not JSON, or a key is written twice.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; run the stage that makes it (dvc repro)") from None
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: {error}; {MEND}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key of {', '.join(values)} is written twice")
    return values


def sync_directory(path: Path) -> None:
    """Make a rename in ``path`` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_directory(path: Path, fill: Callable[[Path], None], **facts: Any) -> None:
    """Replace the directory ``path`` by what ``fill(temp)`` writes, with a manifest of sizes and hashes, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = beside(path)
    temp.mkdir()
    try:
        fill(temp)
        seal(temp, **facts)
        replace_directory(temp, path)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def seal(directory: Path, **facts: Any) -> None:
    """Flush every file of ``directory`` and write its manifest last."""
    write_json(directory / MANIFEST, manifest_of(directory, **facts))


def manifest_of(directory: Path, **facts: Any) -> dict[str, Any]:
    """Size and hash of every file of ``directory``, which are flushed; what ``verify`` compares with."""
    files = {}
    for name, file in _parts(directory).items():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        files[name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    return {"schema": SCHEMA, "files": files, **facts}


def _parts(directory: Path) -> dict[str, Path]:
    """The files of a sealed directory by their names in its manifest."""
    below = sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / MANIFEST)
    return {p.relative_to(directory).as_posix(): p for p in below}


def replace_directory(source: Path, target: Path) -> None:
    """Rename ``source`` over ``target``; a crash in between leaves no target, never a mixed one."""
    if target.exists():
        old = beside(target)
        target.rename(old)
        source.rename(target)
        shutil.rmtree(old)
    else:
        source.rename(target)
    sync_directory(target.parent)


def verify(directory: Path, manifest: Path | None = None) -> dict[str, Any]:
    """Check that a directory holds the files of its manifest and nothing else; returns the manifest.

    Args:
        manifest: default the one inside.

    Raises:
        IntegrityError: the manifest is none; or a file is missing, extra, of another size or of another hash.
    """
    source = manifest or directory / MANIFEST
    facts, parts = read_manifest(source), _parts(directory)
    for name in sorted(facts["files"].keys() | (parts.keys() - FOREIGN)):
        _compare(directory / name, facts["files"].get(name))
    return facts


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest as ``seal`` writes it, to the byte.

    Raises:
        IntegrityError: absent, damaged, or it lists no file.
    """
    facts: dict[str, Any] = read_json(path)
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA or not _lists_files(facts.get("files")):
        raise IntegrityError(f"{path} is no manifest of this version that lists files; {MEND}")
    if path.read_bytes() != to_json(facts).encode():
        raise IntegrityError(f"{path} is damaged; {MEND}")
    return facts


def _lists_files(files: Any) -> bool:
    def entry(value: Any) -> bool:
        return isinstance(value, dict) and isinstance(value.get("bytes"), int) and isinstance(value.get("sha256"), str)

    return isinstance(files, dict) and bool(files) and all(map(entry, files.values()))


def _compare(file: Path, expected: Mapping[str, Any] | None) -> None:
    if expected is None:
        raise IntegrityError(f"{file} is not listed in its manifest; {MEND}")
    if not file.is_file() or file.stat().st_size != expected["bytes"] or sha256(file) != expected["sha256"]:
        raise IntegrityError(f"{file} does not match its manifest; {MEND}")


def read_sealed_json(directory: Path, name: str) -> Any:
    """``read_json`` of one file of a sealed directory, compared with the manifest; the other files are not looked at.

    Raises:
        IntegrityError: the file or the manifest is absent or damaged.
    """
    _compare(directory / name, read_manifest(directory / MANIFEST)["files"].get(name))
    return read_json(directory / name)


def remove(path: Path) -> None:
    """Delete a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> list[Path]:
    """Delete temporary files of dead processes in ``directory``; returns what was deleted."""
    removed = []
    for path in directory.glob(".*.tmp"):
        parts = path.name.split(".")
        pid = parts[-3] if len(parts) >= 4 else ""
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            remove(path)
            removed.append(path)
    return removed


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any] | None = None) -> None:
    """Write arrays as safetensors; ``facts`` go into its header as JSON strings."""
    header = {k: json.dumps(v, sort_keys=True) for k, v in (facts or {}).items()}
    write_bytes(path, safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, header or None))


def load_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file.

    Raises:
        IntegrityError: absent or malformed.
    """
    try:
        with path.open("rb") as file:  # safetensors calls every file that it cannot open missing, and takes a name twice
            size = int.from_bytes(file.read(8), "little")
            json.loads(file.read(min(size, LONGEST_HEADER)), object_pairs_hook=_once)
        return safetensors.numpy.load_file(path)
    except (FileNotFoundError, safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{path}: {error}; {MEND}") from None
