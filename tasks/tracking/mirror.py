"""A stage's journal shown in MLflow while it runs: a process of its own, so that no tracker can slow or stop a training."""

import contextlib
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks.runtime import settings

DELAY_SECONDS = 150.0
"""Importing MLflow and sending costs some two seconds of a processor, 2 % of a training that takes longer than this; what a
shorter one wrote is sent by a later sync, with its own times. System metrics, if asked for, are wanted from the start."""
INTERVAL_SECONDS = 20.0


class Mirror:
    """``with Mirror(journal.path): ...`` sends the journal from time to time, starting after ``delay`` seconds.

    The process ends when its standard input closes, so also when this one is killed. Leaving waits at most a second for
    the last rows; what is missing then is sent by the next ``Mirror`` or ``python -m tasks.sync``.
    """

    def __init__(self, path: Path, delay: float | None = None, interval: float = INTERVAL_SECONDS):
        self.path, self.interval = path, interval
        if delay is None:
            delay = 0.0 if settings.system_metrics() else DELAY_SECONDS
        self._process: subprocess.Popen[bytes] | None = None
        self._timer = threading.Timer(delay, self._launch)
        self._timer.daemon = True
        self._lock, self._stopped = threading.Lock(), False

    def start(self) -> Self:
        """Begin to wait for ``delay``."""
        if importlib.util.find_spec("mlflow") is not None:
            self._timer.start()
        return self

    def stop(self, timeout: float = 1.0) -> None:
        """Send the last rows, if that takes no longer than ``timeout`` seconds, and end."""
        self._timer.cancel()
        with self._lock:
            self._stopped = True
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _launch(self) -> None:
        command = [sys.executable, "-m", "tasks.sync", "--follow", str(self.path), "--interval", str(self.interval)]
        with self._lock, contextlib.suppress(OSError):
            if not self._stopped:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
                )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
