"""Outputs and objects of DVC's cache whose content is not what it was: found, and removed so that they are made again.

DVC takes an object of its cache for what its name says, and an output for what it was while size and time are the same. So
damage comes back from the cache as often as one deletes it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from tasks.dvc.lock_files import locked
from tasks.runtime import files, recorded
from tasks.runtime.errors import IntegrityError


def remove_bad_objects(root: Path) -> list[str]:
    """Compare every object of DVC's cache with its name and remove what differs; a line for each."""
    with locked(root) as repo:
        cache = Path(repo.cache.local.path)
        return [line for path in sorted(cache.glob("??/*")) if (line := _remove_bad(path, root))]


def discard_damaged(root: Path, outputs: Mapping[Path, str]) -> list[str]:
    """Remove those outputs that are not what dvc.lock records, and what is bad of them in DVC's cache.

    Args:
        outputs: the recorded MD5 of each (``recorded.outputs``).

    Returns:
        A line for each output.
    """
    lines = []
    for path, md5 in outputs.items():
        fault = fault_of(path, md5)
        if fault is not None:
            with locked(root) as repo:
                cache = Path(repo.cache.local.path)
                for name in {md5} | _listed(cache, md5):
                    _remove_bad(_place(cache, name), root)
            files.remove(path)
            lines.append(f"{path.relative_to(root)} was damaged and is removed, so that it is made again")
    return lines


def fault_of(path: Path, md5: str) -> str | None:
    """Why an output that is there is not what was recorded; None where it is."""
    try:
        if path.exists():
            recorded.check(path, md5)
    except IntegrityError as error:
        return str(error)
    return None


def _place(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _listed(cache: Path, md5: str) -> set[str]:
    """The objects that the object of a directory names."""
    try:
        return {entry["md5"] for entry in files.read_json(_place(cache, md5))} if md5.endswith(".dir") else set()
    except (IntegrityError, TypeError, KeyError):
        return set()


def _remove_bad(path: Path, root: Path) -> str | None:
    """Remove an object whose content does not have its name."""
    name = f"{path.parent.name}{path.name}".removesuffix(".dir")
    if not path.is_file() or recorded.digest(path) == name:
        return None
    path.unlink()
    return f"removed {os.path.relpath(path, root)} from DVC's cache: its content is damaged"
