"""The work directories of stages: what is finished there is published, what is old is removed."""

import os
import shutil
from pathlib import Path

from tasks.runtime import files
from tasks.runtime.locks import try_lock

KEPT = 2
"""Work directories of a stage: one to go on from, one in case an edit is undone."""


def publish(source: Path, target: Path) -> None:
    """Put a finished output in its place at once; the work copy stays so that a failing dvc costs no computation."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = files.beside(target)
    try:
        if source.is_dir():
            shutil.copytree(source, temp, copy_function=_link)
            files.replace_directory(temp, target)
        else:
            _link(source, temp)
            temp.replace(target)
            files.sync_directory(target.parent)
    finally:
        files.remove(temp)  # of a failure, or a link to what is there already: a rename over it does nothing


def _link(source: Path | str, target: Path | str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def discard_old(directory: Path, kept: int, but: Path | None = None) -> list[Path]:
    """Remove the work directories of a stage, but for the ``kept`` newest, ``but`` and those in use.

    Returns:
        What was removed.
    """
    others = [work for work in directory.iterdir() if work.is_dir() and work != but]
    newest = sorted(others, key=lambda work: work.stat().st_mtime, reverse=True)
    return [work for work in newest[kept:] if discard(work)]


def discard(work: Path) -> bool:
    """Remove a work directory that nobody uses; its journal is set aside until the next sync has sent it to MLflow.

    Returns:
        Whether nobody used it.
    """
    with (work / ".lock").open("a+") as file:
        if not try_lock(file):
            return False
        journal = work / "journal.jsonl"
        if journal.exists():
            aside = work.parents[2] / "journals" / f"{work.parent.name}-{work.name}.jsonl"
            aside.parent.mkdir(exist_ok=True)
            journal.replace(aside)
        shutil.rmtree(work, ignore_errors=True)
    return True
