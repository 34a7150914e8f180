"""What dvc.lock records of the pipeline's outputs, and whether they still are what it says.

DVC looks at sizes and times, and trusts what lies in its cache. So whoever reads an output compares its content: that of a
directory with its manifest, that of a file with the MD5 that DVC noted when the stage that made it had ended. What no
dvc.lock names (a project without DVC) is read as it is.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tasks.runtime import files
from tasks.runtime.errors import IntegrityError, UsageError
from tasks.runtime.locks import try_lock

LOCK = Path("dvc.lock")
RESTORE = "git checkout dvc.lock restores it; one that was never committed may go (rm dvc.lock): results come from DVC's cache"
PATIENCE_SECONDS = 3.0
"""How long to wait for DVC, which empties dvc.lock before it writes it; it may hold its lock for other reasons, for hours."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 20 methods: 0.1 s instead of 1 s


def outputs(root: Path, counts: Callable[[str], bool] = lambda stage: True) -> dict[Path, str]:
    """The MD5 of every output in dvc.lock by its path below ``root``; that of a directory ends with ``.dir``.

    Args:
        counts: whether the outputs of a stage of this name are asked for.

    Raises:
        UsageError: dvc.lock cannot be read.
    """
    return {root / out["path"]: out["md5"] for name, entry in _stages(root).items() if counts(name) for out in _outs(entry)}


def of_stage(root: Path, name: str) -> dict[Path, str]:
    """``outputs`` of one stage."""
    return {root / out["path"]: out["md5"] for out in _outs(_stages(root).get(name))}


def _outs(entry: Any) -> list[dict[str, str]]:
    """Those outputs of a stage whose MD5 is that of their bytes: DVC 2 left line ends out."""
    outs = entry.get("outs") if isinstance(entry, dict) else None
    listed = outs if isinstance(outs, list) else []
    texts = [out for out in listed if isinstance(out, dict) and all(isinstance(out.get(k), str) for k in ("path", "md5"))]
    return [out for out in texts if out.get("hash") == "md5"]


def _stages(root: Path) -> Mapping[str, Any]:
    try:
        content = yaml.load(_text(root), LOADER) or {}
        stages = content.get("stages", {})
        return stages if isinstance(stages, dict) else {}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        raise UsageError(f"{root / LOCK} cannot be read; {RESTORE}") from None


def _text(root: Path) -> bytes:
    """dvc.lock, not while DVC writes it."""
    guard, path = root / ".dvc" / "tmp" / "lock", root / LOCK
    if not path.exists():
        return b""
    if not guard.exists():
        return path.read_bytes()
    with guard.open("rb") as file:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not try_lock(file, shared=True) and time.monotonic() < deadline:
            time.sleep(0.02)
        return path.read_bytes()


def check(path: Path, md5: str) -> None:
    """Compare the content of an output.

    Raises:
        IntegrityError: it is not what was recorded, or does not match its manifest.
    """
    if (path / files.MANIFEST).exists():
        files.verify(path)
    elif digest(path) != md5:
        raise IntegrityError(
            f"{path} is not the one that dvc.lock records (damaged, or made without DVC); after git checkout run dvc checkout,"
            f" else {files.MEND}"
        )


def check_all(paths: Iterable[Path], root: Path) -> None:
    """``check`` those of ``paths`` that dvc.lock names and that are there."""
    known = outputs(root)
    for path in paths:
        if path in known and path.exists():
            check(path, known[path])


def digest(path: Path) -> str:
    """What DVC records of a file or directory."""
    if path.is_dir():
        parts = sorted(p for p in path.rglob("*") if p.is_file())
        listing = [{"md5": digest(part), "relpath": part.relative_to(path).as_posix()} for part in parts]
        listing.sort(key=lambda entry: entry["relpath"])
        return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
