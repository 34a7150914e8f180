"""A file that shrinks while it is mapped: the kernel sends SIGBUS to whoever reads where it was.

Python runs its own handlers between two instructions, and the one that reads would fault for ever. So this handler is the C
library's: it runs in the thread that faults, tells and ends the process.
"""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable

_KEPT: list[object] = []  # C has their addresses
OTHERS_SECONDS = 10.0
"""For one thread to tell, while others that fault too wait."""


def on_bus_error(tell: Callable[[], None], code: int) -> None:
    """Call ``tell`` at a SIGBUS, then end the process with ``code``."""

    first = threading.Lock()

    def handle(number: int) -> None:
        try:
            if first.acquire(blocking=False):
                tell()
            else:
                time.sleep(OTHERS_SECONDS)
        finally:
            os._exit(code)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    _KEPT[:] = [handler]
    library = ctypes.CDLL(None)
    library.signal.restype = ctypes.c_void_p
    library.signal(int(signal.SIGBUS), handler)
