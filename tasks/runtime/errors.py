"""Failures a person can act on. Each has one exit code; each message says what is wrong, where and what to do."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ssl_core.config import ConfigError

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Stop(Exception):
    """Ends the command with ``code`` and one line on stderr, no traceback."""

    code = 70


class UsageError(Stop):
    """A wrong command line or params.yaml."""

    code = 2


class DataError(Stop):
    """The data set is rejected."""

    code = 3


class EnvironmentFault(Stop):
    """Disk, memory, permission, port or a lock held by somebody else."""

    code = 4


class TrackerDown(EnvironmentFault):
    """The tracking store cannot be used now. Nothing is lost: the journals hold everything for a later sync."""


class Diverged(Stop):
    """Training produced non-finite numbers or collapsed."""

    code = 5


class IntegrityError(Stop):
    """A file does not match its manifest, or an input changed while a stage ran."""

    code = 6


class Preempted(Stop):
    """Stopped by a signal; the same command continues from the last checkpoint."""

    code = 75


class StageFailed(Stop):
    """At least one stage failed: the command ends with the first one's exit code and message."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


MISTAKES = (UsageError, ConfigError)
"""What is wrong with the command line or params.yaml, whoever notices it."""


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code of a failure and the line that says what is wrong; ``Stop.code`` for what nobody foresaw."""
    if isinstance(error, Stop):
        return error.code, str(error)
    if isinstance(error, ConfigError):
        return UsageError.code, f"params.yaml: {error}"
    if isinstance(error, KeyboardInterrupt):
        return Preempted.code, "interrupted; the same command continues from the last checkpoint"
    if isinstance(error, MemoryError):
        return EnvironmentFault.code, "out of memory; use a smaller train.batch_size or data.max_train"
    if isinstance(error, OSError):
        return EnvironmentFault.code, _os_message(error)
    if isinstance(error, ModuleNotFoundError):
        return EnvironmentFault.code, f"the package {error.name} is not installed; make setup installs all that is needed"
    if "out of memory" in str(error).lower():
        return EnvironmentFault.code, "the device is out of memory; use a smaller train.batch_size"
    return Stop.code, f"internal error: {error}; please report it with the lines above"


def run(main: Callable[[], T]) -> T:
    """Run a command; turn every failure into its exit code and one line."""
    try:
        return main()
    except (Exception, KeyboardInterrupt) as error:
        code, message = explain(error)
        if code == Stop.code and not isinstance(error, Stop):
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        sys.exit(code)


def no_space(where: object) -> str:
    """The message for a full disk."""
    return f"no space left on the device of {where}; free some and run the same command again"


def is_full(error: BaseException) -> bool:
    """Whether a disk is full, or a library says so in its own exception (``shutil.copytree``, MLflow, SQLite)."""
    words = (*map(os.strerror, FULL), "database or disk is full")
    return getattr(error, "errno", None) in FULL or any(word in str(error) for word in words)


def _os_message(error: OSError) -> str:
    if is_full(error):
        return no_space(error.filename or Path.cwd())  # a write knows no name
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"
