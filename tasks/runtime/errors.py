"""Failures a person can act on. Each has one exit code; each message says what is wrong, where and what to do."""

import errno
import io
import os
import select
import stat
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ssl_core.config import ConfigError, MissingKey
from tasks.runtime.redaction import redact

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READER_LEFT = 141  # as a shell counts a death by SIGPIPE
OUTSIDE = {
    "mlflow": "MLflow",
    "alembic": "MLflow",
    "sqlalchemy": "a database",
    "sqlite3": "a database",
    "dvc": "DVC",
    "dvc_data": "DVC",
    "dvc_objects": "DVC",
    "scmrepo": "git",
    "_pygit2": "git",
    "prefect": "Prefect",
    "httpx": "a server",
    "httpcore": "a server",
    "websockets": "a server",
    "pydantic_core": "settings",
}
"""Packages that reach outside this process, by what a user calls them: their own exceptions tell of what they found there."""
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
LONGEST = 300
SHORT_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "failed to map segment",
    "could not create a primitive",  # oneDNN's words for it
    "could not create a memory object",
    "can't start new thread",
)
"""What libraries say, in exceptions of their own, when the machine has no memory left for them."""
GPU_FAILED = ("cuda error:", "cudnn error:", "cublas error:", "nccl error")
OUR_KERNELS = ("device-side assert", "illegal memory access", "invalid argument", "invalid configuration")
"""What CUDA says of a wrong call or index, which is a bug; whatever else it says is of the device or its driver."""


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


KEPT = " (the journals keep all)"
"""What a run is told when MLflow is away; who loads an encoder has no journals."""


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


NO_REPEAT = " does not have a deterministic implementation"
"""What torch says of an operation where ``train.mode`` is deterministic."""
MISTAKES = (UsageError, ConfigError)
"""What is wrong with the command line or params.yaml, whoever notices it."""


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code of a failure and the line, without secrets, that says what is wrong; ``Stop.code`` if nobody foresaw it."""
    code, message = _explained(error)
    return code, redact(message)


def _explained(error: BaseException) -> tuple[int, str]:
    if isinstance(error, Stop):
        return error.code, str(error)
    if isinstance(error, ConfigError):
        new = "; copy its line from the params.yaml that came with this version" if isinstance(error, MissingKey) else ""
        return UsageError.code, f"params.yaml: {error}{new}"
    if isinstance(error, KeyboardInterrupt):
        return Preempted.code, "interrupted; the same command continues from the last checkpoint"
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in SHORT_MEMORY):
        return (
            EnvironmentFault.code,
            "out of memory (or of ulimit -v); use a smaller train.batch_size or data.max_train",
        )
    if isinstance(error, BrokenPipeError) and _unread():
        return READER_LEFT, "whoever read the output is gone"
    if isinstance(error, OSError):
        return EnvironmentFault.code, _os_message(error)
    if isinstance(error, ModuleNotFoundError):
        return EnvironmentFault.code, _not_there(error.name or "")
    if (told := str(error).partition(NO_REPEAT))[1]:
        return UsageError.code, f"{told[0]} does not give the same bits each time on this device; set train.mode: fast"
    if "out of memory" in str(error).lower():
        return EnvironmentFault.code, "the device is out of memory; use a smaller train.batch_size"
    if _gpu_failed(str(error).lower()):
        reason = str(error).strip().splitlines()[0]
        return (
            EnvironmentFault.code,
            f"the GPU or its driver failed ({reason}); the same command goes on from its last checkpoint",
        )
    outside = _from_outside(error)
    if outside:
        return EnvironmentFault.code, outside
    return Stop.code, f"internal error: {error}; please report it with the lines above"


def run(main: Callable[[], T]) -> T:
    """Run a command; turn every failure into its exit code and one line."""
    _fill_streams()
    _no_warning_is_an_error()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks ends no command
    try:
        result = main()
        sys.stdout.flush()  # here, where a reader that is gone can still be noticed
        return result
    except (Exception, KeyboardInterrupt) as error:
        code, message = explain(error)
        if code == READER_LEFT:  # no words, as other tools
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in _unread():
                os.dup2(nowhere, stream)  # else Python complains at its end about what it could not write
            sys.exit(code)
        if code == Stop.code and not isinstance(error, Stop):
            print(redact(traceback.format_exc()), end="", file=sys.stderr)
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        if isinstance(error, TrackerDown):
            os._exit(code)  # a thread of MLflow's may still wait for the server, and Python would wait for it
        sys.exit(code)


def _fill_streams() -> None:
    """Give a command without a standard stream (``>&-``) the null device: a file that it opens would else be that stream."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115


def _no_warning_is_an_error() -> None:
    """Take back ``PYTHONWARNINGS=error``: DVC, MLflow and Prefect warn of parts of each other, and would all end there."""
    if any(option and "error".startswith(option.partition(":")[0]) for option in sys.warnoptions):
        warnings.simplefilter("default")
        os.environ.pop("PYTHONWARNINGS", None)  # the commands that this one starts


def _unread() -> list[int]:
    """Those of stdout and stderr whose reader is gone."""
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    return [stream for stream, state in poll.poll(0) if state & select.POLLERR]


def _not_there(module: str) -> str:
    """Why a module cannot be imported: it is not installed, or hidden by another file of its package's name."""
    top = sys.modules.get(module.partition(".")[0])
    if top is not None and top.__name__ != module and not hasattr(top, "__path__"):
        return f"{top.__file__} hides the package {top.__name__}; rename it, or take its folder off PYTHONPATH"
    return f"the package {module} is not installed; make setup installs all that is needed"


def _gpu_failed(words: str) -> bool:
    return any(sign in words for sign in GPU_FAILED) and not any(bug in words for bug in OUR_KERNELS)


def _from_outside(error: BaseException) -> str | None:
    """One line of what a library found outside this process; None for an error that is of our making."""
    packages = [cls.__module__.partition(".")[0] for cls in type(error).__mro__]
    if type(error) in (RuntimeError, ImportError, ValueError):
        frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        raiser = frames[-1].partition(".")[0] if frames else ""
        # Prefect's, of a server that does not answer; httpx's, of a proxy that it cannot use; MLflow's, of a variable
        known = type(error) is RuntimeError or raiser == "httpx" or "mlflow.environment_variables" in frames
        packages = [raiser] if known else []
    found = [OUTSIDE[package] for package in packages if package in OUTSIDE]
    text = " ".join(str(error).split()) or type(error).__name__
    if "proxy" in text.lower():
        text += "".join(f" ({name})" for name in os.environ if name.lower() in PROXIES)
    return f"{found[0]}: {text if len(text) <= LONGEST else text[:LONGEST] + ' ...'}" if found else None


def no_space(where: object) -> str:
    """The message for a full disk."""
    return f"no space left on the device of {where}; free some and run the same command again"


def is_full(error: BaseException) -> bool:
    """Whether a disk is full, or a library says so in its own exception (``shutil.copytree``, MLflow, SQLite)."""
    words = (*map(os.strerror, FULL), "database or disk is full")
    return getattr(error, "errno", None) in FULL or any(word in str(error) for word in words)


def root_cause(error: BaseException) -> str:
    """What the system said at the bottom of a library's exceptions, in parentheses; empty where it said nothing."""
    said, seen = "", error
    while next_ := (seen.__cause__ or seen.__context__):
        seen = next_
        if isinstance(seen, OSError) and seen.strerror:
            said = f" ({seen.strerror})"
    return said


def _full_stream() -> str | None:
    """The standard stream that goes to a full device, if one does."""
    for name, stream in (("standard output", 1), ("standard error", 2)):
        try:
            os.write(stream, b"")  # what /dev/full refuses, and a full disk does not
            if stat.S_ISREG(os.fstat(stream).st_mode) and not os.fstatvfs(stream).f_bavail:
                return name
        except OSError:
            return name
    return None


def _os_message(error: OSError) -> str:
    if error.errno == errno.EFBIG:
        return "a file would be larger than this user (ulimit -f) or its file system may have; raise that and go on"
    if is_full(error):
        return no_space(error.filename or _full_stream() or Path.cwd())  # a write knows no name
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"
