"""Progress of long work: one updating line on a terminal, a line every ten seconds in a log, a file for a watcher."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from tasks.runtime import files

TERMINAL_SECONDS, LOG_SECONDS, FILE_SECONDS = 0.2, 10.0, 1.0
SETTLED_SECONDS, SETTLED_SHARE = 3.0, 0.1
"""After so long, or so much of the work, its rate says something: the first unit waits for what must start."""


def clock(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class Progress:
    """Shows how far a piece of work is.

    Args:
        label: what is being done.
        total: how many units in all.
        unit: of the rate (``images``).
        per_step: units of the rate per unit of ``total`` (the batch size).
        file: where to leave ``{"label", "done", "total", "status"}`` for a ``Follower`` in another process.
    """

    def __init__(self, label: str, total: int, unit: str, per_step: int = 1, file: Path | None = None, done: int = 0):
        self.label, self.total, self.unit, self.per_step, self.file = label, total, unit, per_step, file
        self.start, self.first = time.monotonic(), done
        self._shown = self._written = float("-inf")
        self._terminal = sys.stderr.isatty()

    def update(self, done: int, note: str = "") -> None:
        """``done`` of ``total`` units are finished."""
        now = time.monotonic()
        last = done >= self.total
        if last or now - self._shown >= (TERMINAL_SECONDS if self._terminal else LOG_SECONDS):
            self._shown = now
            self._show(f"{self.label}: {self._status(done, now, note)}", last)
        if self.file is not None and (last or now - self._written >= FILE_SECONDS):
            self._written = now
            value = {"label": self.label, "done": done, "total": self.total, "status": self._status(done, now, note)}
            temp = files.beside(self.file)  # a hint for watchers: no fsync
            temp.write_text(json.dumps(value))
            temp.replace(self.file)

    def _status(self, done: int, now: float, note: str) -> str:
        elapsed = max(now - self.start, 1e-9)
        rate = (done - self.first) / elapsed
        left = (self.total - done) / rate if rate > 0 else 0.0
        time_text = f"{clock(elapsed)} taken" if done >= self.total else f"{clock(left)} left"
        parts = [f"{100 * done / max(1, self.total):3.0f} %", note]
        if elapsed >= SETTLED_SECONDS or done - self.first >= SETTLED_SHARE * self.total:
            units = rate * self.per_step
            parts += [f"{units:,.0f} {self.unit}/s" if units >= 1 else f"{60 * units:.1f} {self.unit}/min", time_text]
        return "  ".join(p for p in parts if p)

    def _show(self, line: str, last: bool) -> None:
        if self._terminal:
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


class Follower:
    """The newest state that a running stage leaves in its work directory; what an earlier run left is not news."""

    def __init__(self, root: Path, name: str):
        self.directory = root / ".ssl" / "work" / name
        self._seen = max(self._stamps(), default=(0, None))[0]

    def news(self) -> dict[str, Any] | None:
        """What ``Progress`` wrote since the last call; None if nothing, or if it cannot be read."""
        stamp, path = max(self._stamps(), default=(0, None))
        if path is None or stamp <= self._seen:
            return None
        self._seen = stamp
        with contextlib.suppress(OSError, ValueError):
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return value
        return None

    def _stamps(self) -> list[tuple[int, Path | None]]:
        stamps: list[tuple[int, Path | None]] = []
        for path in self.directory.glob("*/progress.json"):
            with contextlib.suppress(OSError):  # a work directory just removed
                stamps.append((path.stat().st_mtime_ns, path))
        return stamps
