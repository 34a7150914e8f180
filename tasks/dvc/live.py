"""What ``make run`` shows while stages work: on a terminal a line per running stage, redrawn in place; else their lines."""

import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tasks.dvc.outcome import Fate
from tasks.runtime.progress import Follower, clock

OF_DVC = (">", "Running stage", "Updating lock file")
PROGRESS = re.compile(r": +\d+ %  ")


@dataclass
class Running:
    """A stage that works."""

    follower: Follower
    began: float = field(default_factory=time.monotonic)
    status: str = ""
    """What it last said of its progress."""


class Screen:
    """``with Screen(...) as screen``: several threads may report; each stage's words stay whole.

    Args:
        root: the project.
        total: stages in all.
    """

    def __init__(self, root: Path, total: int):
        self.root, self.total, self.done, self.began = root, total, 0, time.monotonic()
        self.terminal = sys.stdout.isatty()
        self._running: dict[str, Running] = {}
        self._lock = threading.Lock()
        self._console = Console(force_terminal=self.terminal, highlight=False)
        self._live = Live(
            console=self._console,
            get_renderable=self._lines,
            auto_refresh=False,  # a thread of its own would look at the stages without the lock
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def start(self, name: str) -> Callable[[list[str]], None]:
        """A stage begins; returns what takes the new lines of its log, every moment."""
        stage = Running(Follower(self.root, name))
        with self._lock:
            self._running[name] = stage

        def watch(lines: list[str]) -> None:
            with self._lock:
                stage.status = (stage.follower.news() or {}).get("status", stage.status)
                kept = [line for line in lines if line.strip() and not line.startswith(OF_DVC)]
                self._show([f"[{name}] {line}" for line in kept if not (self.terminal and PROGRESS.search(line))])

        return watch

    def finish(self, name: str, how: Fate) -> None:
        """A stage has ended."""
        with self._lock:
            stage = self._running.pop(name, None)
            self.done += 1
            seconds = time.monotonic() - stage.began if stage else 0.0
            said = f"{name}: {how} ({self.done} of {self.total}, {clock(seconds)})"
            self._show([said] if self.terminal and how is not Fate.UNCHANGED else [])

    def say(self, lines: list[str]) -> None:
        """Print ``lines``, which are of no stage."""
        with self._lock:
            self._show(lines)

    def _show(self, lines: list[str]) -> None:
        """Print ``lines`` above those of the running stages, which are drawn anew."""
        if not self.terminal:
            for line in lines:
                print(line, flush=True)
        elif lines:
            self._console.out("\n".join(lines))
        else:
            self._live.refresh()

    def _lines(self) -> Group:
        """A line of counts, then one per running stage; nothing while none runs."""
        now = time.monotonic()
        lines = [f"{self.done} of {self.total} stages done, {len(self._running)} running, {clock(now - self.began)}"]
        longest = max(map(len, self._running), default=0)
        for name, stage in self._running.items():
            lines.append(f"  {name:{longest}}  {stage.status or clock(now - stage.began)}")
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines if self._running))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._running.clear()
            self._live.stop()
