"""Memory that a step frees stays with the process: the next step needs the same again."""

import contextlib
import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3), glibc
LARGEST = 32 << 20  # bytes; glibc takes no more
NEVER = 1 << 30


def keep_freed_memory() -> None:
    """Give no freed memory of up to 32 MB a piece back to the system; nothing happens where the C library is not glibc.

    Otherwise each training step gets thousands of pages anew, cleared by the system: 10 % of the time of a small encoder's
    step on a CPU.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, NEVER)
