"""Advisory locks that vanish with their holder: ``flock`` on an open file."""

import fcntl
from typing import IO, Any


def try_lock(file: IO[Any], shared: bool = False) -> bool:
    """Take the lock of ``file`` without waiting; it lasts until every process that inherited the open file closed it."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
