"""Copies of a project that share a registry: which of them registered an encoder, and whose results are newer.

A copy that has nothing to add must not take an alias from newer results of another one (docs/decisions/0016).
"""

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from tasks.runtime import files, settings
from tasks.tracking import journal

EVALUATED, COPIES = "ssl.evaluated", "ssl.copies"
"""Tags of a version: when its encoder was evaluated, and the copies of a project that registered it."""
MOST = 100
"""Copies that are remembered; a tag is bounded."""


def own(root: Path, make: bool = False) -> str:
    """What tells this copy of the project from all others. It moves with the project; DVC's experiments have that of theirs.

    Args:
        make: write it down if it has none yet; else that is an empty text.
    """
    path = settings.project_root(root) / ".ssl" / "copy"
    if make and not path.exists():
        path.parent.mkdir(exist_ok=True)
        files.write_text(path, uuid.uuid4().hex[:12])
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def with_own(root: Path, before: str) -> str:
    """The tag ``COPIES`` of a version that this copy registers, and that had ``before``."""
    mine, known = own(root, make=True), before.split()
    return before if mine in known else " ".join([*known, mine][-MOST:])


def evaluated(root: Path, name: str) -> str:
    """When an encoder was evaluated, as 2026-11-30 16:05:09 UTC; empty where that is not known."""
    path = root / f"out/journal/evaluate-{name}.jsonl"
    ends = [event["time"] for event in journal.read(path) if event["event"] == "end"] if path.exists() else []
    return f"{datetime.fromtimestamp(ends[-1] / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC" if ends else ""


def newer(number: int | str, tags: Mapping[str, str], root: Path, names: Iterable[str]) -> str:
    """A version in words, if another copy registered it and its encoder was evaluated after all of these here; else empty.

    Args:
        tags: of the version.
        names: the encoders of this project, as ``METHOD-SEED``.
    """
    if own(root) in tags.get(COPIES, "").split():
        return ""
    when = tags.get(EVALUATED, "")
    is_newer = when > max((evaluated(root, name) for name in names), default="")
    return f"version {number}, evaluated elsewhere on {when}" if is_newer else ""
