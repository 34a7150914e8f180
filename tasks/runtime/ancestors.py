"""The processes above this one, read from /proc: whom a stage stops with."""

import os
from pathlib import Path


def start_time(pid: int) -> str | None:
    """Kernel start time of a process, so that a reused number is not taken for it; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def living(pid: int) -> tuple[int, str] | None:
    """(pid, start time) of a process that runs."""
    started = start_time(pid)
    return (pid, started) if started else None


def dvc() -> tuple[int, str] | None:
    """(pid, start time) of the dvc process that runs this command; a shell may stand in between."""
    pid = os.getppid()
    while pid > 1:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            return None
        if any(Path(os.fsdecode(c)).name in ("dvc", "dvc.exe") for c in command[:3]):
            return living(pid)
        pid = parent
    return None
