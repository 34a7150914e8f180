"""A training that hangs: in a deadlock, a driver, a disk that does not answer. It is ended, and can go on."""

import contextlib
import faulthandler
import sys
import threading
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
    over, steps = threading.Event(), [0]

    def alive() -> None:
        steps[0] += 1

    def wait() -> None:
        seen, idle = steps[0], 0  # looks are counted and no time, which passes while a process is suspended too
        while not over.wait(patience / LOOKS):
            seen, idle = steps[0], idle + 1 if steps[0] == seen else 0
            if idle >= LOOKS:
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
