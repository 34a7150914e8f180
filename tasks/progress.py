"""Progress of long work: one updating line on a terminal, a line every ten seconds in a log, a file for the flow."""

import json
import os
import sys
import time
from pathlib import Path

TERMINAL_SECONDS, LOG_SECONDS, FILE_SECONDS = 0.2, 10.0, 1.0


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
        file: where to leave ``{"label", "done", "total", "rate", "left_seconds"}`` for a watching process.
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
            self._show(done, now, note, last)
        if self.file is not None and (last or now - self._written >= FILE_SECONDS):
            self._written = now
            self._write(done, now)

    def _rates(self, done: int, now: float) -> tuple[float, float]:
        elapsed = max(now - self.start, 1e-9)
        rate = (done - self.first) / elapsed
        return rate * self.per_step, (self.total - done) / rate if rate > 0 else 0.0

    def _show(self, done: int, now: float, note: str, last: bool) -> None:
        rate, left = self._rates(done, now)
        time_text = f"{clock(now - self.start)} taken" if last else f"{clock(left)} left"
        parts = [f"{self.label}: {100 * done / max(1, self.total):3.0f} %", note, f"{rate:,.0f} {self.unit}/s", time_text]
        line = "  ".join(p for p in parts if p)
        if self._terminal:
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _write(self, done: int, now: float) -> None:
        assert self.file is not None
        rate, left = self._rates(done, now)
        value = {"label": self.label, "done": done, "total": self.total, "rate": rate, "left_seconds": left}
        temp = self.file.with_name(f".{self.file.name}.{os.getpid()}.tmp")  # a hint for watchers: no fsync
        temp.write_text(json.dumps(value))
        temp.replace(self.file)
