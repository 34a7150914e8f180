"""The Nth open, write, flush or rename fails, once or from then on, or the process is killed there. N = 1, 2, 3, ..."""

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.runtime.errors import explain

OPERATIONS = ("fsync", "replace", "rename", "link", "mkdir")
DONE, FAILED, KILLED, BUG = 0, 4, 9, 70
KINDS = ("fails once", "fails from then on", "is killed")


@dataclass
class Nth:
    """What happens at the Nth operation on files from now on."""

    number: int
    kind: str
    seen: int = 0

    def tick(self, *_: Any) -> None:
        """Count an operation, and fail it if it is its turn."""
        self.seen += 1
        if self.seen < self.number or (self.seen > self.number and self.kind == "fails once"):
            return
        if self.kind == "is killed":
            os._exit(KILLED)
        code = errno.EIO if self.kind == "fails once" else errno.ENOSPC
        raise OSError(code, os.strerror(code))

    def install(self) -> None:
        """Put itself before the operations of this process."""
        for name in OPERATIONS:
            setattr(os, name, self._before(getattr(os, name)))
        plain = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wax+"):
                return plain(file, mode, *args, **kwargs)
            self.tick()
            return Written(plain(file, mode, *args, **kwargs), self)

        io.open = builtins.open = opened

    def _before(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            return operation(*args, **kwargs)

        return counted


class Written:
    """An open file whose writes are counted. The one that fails has written a half."""

    def __init__(self, file: Any, nth: Nth):
        self._file, self._nth = file, nth

    def write(self, data: Any) -> int:
        try:
            self._nth.tick()
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __enter__(self) -> "Written":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def attempt(work: Callable[[], object], nth: Nth, log: Path) -> int:
    """Do ``work`` in a process of its own, with the fault; its exit code. What is unforeseen is written to ``log``."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = BUG
    try:
        signal.alarm(30)
        nth.install()
        work()
        code = DONE if nth.seen < nth.number else FAILED  # went well, though something failed on the way
    except BaseException as error:
        code, message = explain(error)
        os.write(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), f"{nth}: {message}\n".encode())
    finally:
        os._exit(code)


def each(
    prepare: Callable[[], Callable[[], object]], check: Callable[[int], None], kind: str, log: Path, stride: int = 1
) -> int:
    """Attempt with N = 1, 1 + stride, ... until nothing fails any more; the number of attempts.

    Args:
        prepare: makes a fresh start and returns the work.
        check: told the exit code of each attempt; looks at what is there now.
    """
    number = 1
    while True:
        work = prepare()
        code = attempt(work, Nth(number, kind), log)
        assert code in (DONE, FAILED, KILLED), f"N = {number}: exit code {code}\n{log.read_text() if log.exists() else ''}"
        check(code)
        if code == DONE:
            return number
        number += stride
