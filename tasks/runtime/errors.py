"""Failures a person can act on. Each has one exit code; each message says what is wrong, where and what to do."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from ssl_core.config import ConfigError

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


def run(main: Callable[[], None]) -> None:
    """Run a command; turn every failure into its exit code and one line."""
    try:
        main()
    except Stop as stop:
        _exit(stop.code, str(stop))
    except ConfigError as error:
        _exit(UsageError.code, f"params.yaml: {error}")
    except KeyboardInterrupt:
        _exit(Preempted.code, "interrupted; the same command continues from the last checkpoint")
    except MemoryError:
        _exit(EnvironmentFault.code, "out of memory; use a smaller train.batch_size or data.max_train")
    except OSError as error:
        _exit(EnvironmentFault.code, _os_message(error))
    except ModuleNotFoundError as error:
        _exit(EnvironmentFault.code, f"the package {error.name} is not installed; make setup installs all that is needed")
    except Exception as error:
        if "out of memory" in str(error).lower():
            _exit(EnvironmentFault.code, "the device is out of memory; use a smaller train.batch_size")
        traceback.print_exc()
        _exit(Stop.code, f"internal error: {error}; please report it with the lines above")


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


def _exit(code: int, message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    sys.exit(code)
