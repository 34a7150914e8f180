"""How long a server may keep this process waiting, all calls together.

A server that sends a byte now and then never times out by itself: each byte begins the timeout of a request anew.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.runtime.errors import TrackerDown

FREE_SECONDS = 5.0
"""What a call may take anyhow."""
ALL_SECONDS = 60.0
"""What all calls of a process may take beyond that."""
BYTES_PER_SECOND = 1e6
"""What a server must take or give of files."""
AGAIN_SECONDS = 5.0
"""A call that goes on waiting, for a thread of its own, is interrupted again after so long."""
MOVES_FILES = ("log_artifact", "log_artifacts")

_waited = [0.0]  # seconds of this process beyond what was free


@contextlib.contextmanager
def call(size: int = 0) -> Iterator[None]:
    """Wait for a server no longer than it may take to answer and to move ``size`` bytes; in the main thread.

    A store that is no server has limits of its own.

    Raises:
        TrackerDown: it took longer.
    """
    if not _asks_a_server() or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(number: int, frame: Any) -> None:
        raise TrackerDown(f"MLflow's server has kept this waiting for {ALL_SECONDS:.0f} s; run python -m tasks.sync later")

    allowed, started = FREE_SECONDS + size / BYTES_PER_SECOND, time.monotonic()
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, allowed + max(0.0, ALL_SECONDS - _waited[0]), AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        _waited[0] += max(0.0, time.monotonic() - started - allowed)


def spent() -> bool:
    """Whether all that calls may take beyond what is free has been taken."""
    return _waited[0] >= ALL_SECONDS


def begin() -> None:
    """Begin anew, in a process that comes back to the server now and then."""
    _waited[0] = 0.0


def _asks_a_server() -> bool:
    stores = (os.environ.get(name, "") for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"))
    return any(store.startswith(("http://", "https://")) for store in stores)


class Patient:
    """MLflow's ``client``, each of whose methods is a ``call``."""

    def __init__(self, client: Any):
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._client, name)

        def patient(*args: Any, **kwargs: Any) -> Any:
            with call(_size(Path(args[1])) if name in MOVES_FILES else 0):
                return method(*args, **kwargs)

        return patient


def _size(path: Path) -> int:
    return sum(part.stat().st_size for part in [path, *path.rglob("*")] if part.is_file())
