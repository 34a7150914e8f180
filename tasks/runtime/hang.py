"""A training that hangs: in a deadlock, a driver, a disk that does not answer. It is ended, and can go on."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tasks.runtime import settings
from tasks.runtime.errors import Preempted
from tasks.runtime.stage import Stage

PATIENCE_SECONDS = 1800.0
"""Between two steps, and so of the work between two epochs, too. ``SSL_HANG_SECONDS`` says otherwise; 0: never."""
LOOKS = 10
"""At the clock, in that time."""


@contextlib.contextmanager
def watch(stage: Stage) -> Iterator[Callable[[], None]]:
    """Gives a function to call at each step. Too long without a call, ``stage`` shows every stack and ends with 75.

    The same command goes on from its newest checkpoint, and a flow gives it again by itself.
    """
    patience = settings.seconds("SSL_HANG_SECONDS", PATIENCE_SECONDS)
    over, seen = threading.Event(), [time.monotonic()]

    def alive() -> None:
        seen[0] = time.monotonic()

    def wait() -> None:
        while not over.wait(patience / LOOKS):
            if time.monotonic() - seen[0] > patience:
                faulthandler.dump_traceback(sys.stderr)
                stage.end(
                    Preempted(
                        f"{stage.full_name} made no step for {patience:.0f} s (SSL_HANG_SECONDS) and was ended, where is shown"
                        " above; the same command goes on from where it last saved"
                    )
                )

    if patience > 0:
        threading.Thread(target=wait, daemon=True).start()
    try:
        yield alive
    finally:
        over.set()
