"""What ``make run`` shows while stages work: on a terminal a line per running stage, redrawn in place; else their lines."""

import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tasks.runtime.progress import Follower, clock

OF_DVC = (">", "Running stage", "Updating lock file")
PROGRESS = re.compile(r": +\d+ %  ")


class Live:
    """Several threads may report; each stage's words stay whole.

    Args:
        root: the project.
        total: stages in all.
    """

    def __init__(self, root: Path, total: int):
        self.root, self.total, self.done, self.began = root, total, 0, time.monotonic()
        self.terminal = sys.stdout.isatty()
        self._running: dict[str, tuple[float, Follower, str]] = {}
        self._drawn = 0
        self._lock = threading.Lock()

    def start(self, name: str) -> Callable[[list[str]], None]:
        """A stage begins; returns what takes the new lines of its log, every moment."""
        with self._lock:
            self._running[name] = (time.monotonic(), Follower(self.root, name), "")

        def watch(lines: list[str]) -> None:
            with self._lock:
                began, follower, status = self._running[name]
                self._running[name] = (began, follower, (follower.news() or {}).get("status", status))
                kept = [line for line in lines if line.strip() and not line.startswith(OF_DVC)]
                self._draw([f"[{name}] {line}" for line in kept if not (self.terminal and PROGRESS.search(line))])

        return watch

    def finish(self, name: str, how: str) -> None:
        """A stage has ended: ``ran``, ``unchanged``, ``restored`` or ``failed``."""
        with self._lock:
            began = self._running.pop(name, (time.monotonic(),))[0]
            self.done += 1
            said = f"{name}: {how} ({self.done} of {self.total}, {clock(time.monotonic() - began)})"
            self._draw([said] if self.terminal and how != "unchanged" else [])

    def _draw(self, lines: list[str]) -> None:
        if not self.terminal:
            for line in lines:
                print(line, flush=True)
            return
        width, height = shutil.get_terminal_size()
        now = time.monotonic()
        shown = [f"{self.done} of {self.total} stages done, {len(self._running)} running, {clock(now - self.began)}"]
        longest = max(map(len, self._running), default=0)
        for name, (began, _, status) in self._running.items():
            shown.append(f"  {name:{longest}}  {status or clock(now - began)}")
        shown = [line[: width - 1] for line in shown[: max(1, height - 2)]] if self._running else []
        up = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        print(up + "".join(f"{line}\n" for line in (*lines, *shown)), end="", flush=True)
        self._drawn = len(shown)
