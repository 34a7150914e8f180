"""DVC's own files: the order of dvc.lock, what it says of some stages, and what a crash leaves in it and in the rwlock."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.runtime import files
from tasks.runtime.errors import EnvironmentFault
from tasks.runtime.locks import try_lock

NOTE = ".dvc/tmp/repro.dat"
"""DVC's, of an experiment that it records; it holds a path of this machine."""


@contextlib.contextmanager
def locked(root: Path) -> Iterator[Any]:
    """DVC's repository, while no other command reads or writes its files.

    Raises:
        EnvironmentFault: it is in no git repository.
    """
    from dvc.repo import Repo, lock_repo
    from dvc.scm import SCMError

    try:
        repo = Repo(str(root), _wait_for_lock=True)
    except SCMError:
        raise EnvironmentFault(
            "DVC needs a git repository, and there is none here (a downloaded archive has none): git init makes one"
        ) from None
    with repo, lock_repo(repo):
        yield repo


def lock_of(root: Path, names: Sequence[str]) -> str:
    """The part of dvc.lock that is about these stages; empty before the first run."""
    from dvc.utils.serialize import dumps_yaml

    stages = recorded(root, names)
    return str(dumps_yaml({"schema": "2.0", "stages": stages})) if stages else ""


def recorded(root: Path, names: Sequence[str], instead: dict[str, Any] | None = None) -> dict[str, Any]:
    """What dvc.lock says of these stages; then it says ``instead``."""
    with locked(root):
        content = _read_lock(root)
        entries = {name: entry for name, entry in content["stages"].items() if name in names}
        if instead is not None and entries != instead:
            _write_lock(root, {**content, "stages": {**content["stages"], **instead}})
    return entries


def _read_lock(root: Path) -> dict[str, Any]:
    """dvc.lock; without one, as it is before the first stage."""
    from dvc.utils.serialize import load_yaml

    path = root / "dvc.lock"
    content: dict[str, Any] = load_yaml(path) if path.exists() else {}
    return {"schema": "2.0", "stages": {}, **content}


def _write_lock(root: Path, content: dict[str, Any]) -> None:
    from dvc.utils.serialize import dumps_yaml

    files.write_text(root / "dvc.lock", dumps_yaml(content))


def put_in_order(root: Path, planned: Sequence[str]) -> None:
    """Write the stages of dvc.lock in the order of the graph; what is no longer in the graph stands last.

    DVC appends a stage when it ends, so that two runs with the same result would differ in the file.

    Args:
        planned: the names of all stages, as ``graph.plan`` has them.
    """
    with locked(root):
        content = _read_lock(root)
        stages = content["stages"]
        order = [name for name in dict.fromkeys([*planned, *stages]) if name in stages]
        if order != list(stages):
            _write_lock(root, {**content, "stages": {name: stages[name] for name in order}})


def repair(root: Path) -> list[str]:
    """Undo what a crash left in DVC's own files; a line for each thing that was wrong."""
    return release_dead_locks(root) + set_aside_cut_lock(root) + unstage(root)


def unstage(root: Path) -> list[str]:
    """Take ``NOTE`` out of git's index, where recording an experiment puts it for a moment."""
    git = ("git", "-C", str(root))
    if not subprocess.run([*git, "ls-files", "--", NOTE], capture_output=True, check=False).stdout:
        return []
    with locked(root):  # nobody is recording one now
        done = subprocess.run([*git, "rm", "-q", "-f", "--cached", "--", NOTE], capture_output=True, check=False)
    return [] if done.returncode else [f"{NOTE}, which an interrupted experiment left staged, is taken out of git's index"]


def set_aside_cut_lock(root: Path) -> list[str]:
    """Move a dvc.lock away that ends in the middle: dvc empties the file before it writes it, and may be killed in between.

    What it named comes back from DVC's run cache, without computing. A conflict that git left in it is its user's to solve.
    """
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException

    path, aside = root / "dvc.lock", root / ".ssl" / "dvc.lock.cut-off"
    with locked(root) as repo:
        try:
            if not path.exists() or b"<<<<<<<" in path.read_bytes() or Lockfile(repo, str(path)).load():
                return []
        except DvcException:
            pass
        aside.parent.mkdir(exist_ok=True)
        path.replace(aside)
    return [f"dvc.lock was cut off (now {aside.relative_to(root)}); what it named comes back from DVC's cache"]


@contextlib.contextmanager
def rwlock(root: Path) -> Iterator[Path]:
    """DVC's file of who reads and writes what, while no dvc process changes it."""
    directory = root / ".dvc" / "tmp"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "rwlock.lock").open("a") as guard:
        while not try_lock(guard):
            time.sleep(0.05)
        yield directory / "rwlock"


def release_dead_locks(root: Path) -> list[str]:
    """Drop what dead processes left in DVC's rwlock: a number reused by another program blocks a stage for ever.

    Returns:
        A line for each thing that was dropped.
    """
    with rwlock(root) as path:
        try:
            locks = json.loads(path.read_text(encoding="utf-8"))
            write = {k: v for k, v in locks.get("write", {}).items() if _lives(v)}
            read = {k: left for k, v in locks.get("read", {}).items() if (left := [r for r in v if _lives(r)])}
        except FileNotFoundError:
            return []
        except (ValueError, AttributeError, KeyError, TypeError):
            path.unlink()
            return [f"removed {path.relative_to(root)}: it was cut off or damaged"]
        holders = [*locks.get("write", {}).values(), *(r for v in locks.get("read", {}).values() for r in v)]
        dead = {f"released DVC's lock of process {h['pid']}, which is gone: {h['cmd']}" for h in holders if not _lives(h)}
        if dead:
            files.write_text(path, json.dumps({"write": write, "read": read}))
        return sorted(dead)


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process that took a lock still runs: the number alone may have been given to another program."""
    try:
        command = Path(f"/proc/{int(holder['pid'])}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return False
    arguments = holder["cmd"].split(" ")[1:]
    return not arguments or " ".join(os.fsdecode(c) for c in command).endswith(" ".join(arguments))
