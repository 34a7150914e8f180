"""Commands that start in no time: each is forked from a process that has imported the libraries already.

``import torch`` alone takes two seconds of a processor, and the tests start a hundred commands. ``Forked`` is ``python -m
MODULE`` in a directory, with that directory's code and an environment of its own, and is used as ``subprocess.Popen``: a
process with its number, its group and its signals. Whatever is started from there, by DVC too, is a new interpreter as always.
"""

import atexit
import importlib
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing import get_context, process
from pathlib import Path

LIBRARIES = ["torch", "numpy", "yaml", "PIL.Image", "dvc.cli.parser", "dvc.repo.reproduce", "dvc.dvcfile"]
"""What the commands find imported; a module of the tests may add to it before the first command starts."""
OURS = ("tests", "tasks", "ssl_core", "flows")


class Forked:
    """``python -m ARGUMENTS`` or ``python -c PROGRAM`` in ``directory``: what tests use of ``subprocess.Popen[str]``.

    With ``log`` both streams go to that file, otherwise each to one that ``communicate`` reads.
    """

    def __init__(self, directory: Path, arguments: tuple[str, ...], environment: Mapping[str, str], log: Path | None = None):
        context = get_context("forkserver")
        context.set_forkserver_preload([*LIBRARIES, "tests.support.frozen"])
        self.args = arguments
        self._output = [] if log else [Path(tempfile.mkstemp(prefix="forked-")[1]) for _ in range(2)]
        given = (str(directory), arguments, dict(environment), [str(path) for path in self._output or (log, log)])
        self._process = context.Process(target=_main, args=given, daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended; can be asked for once."""
        self.wait(timeout)
        out, err = (path.read_text() for path in self._output)
        for path in self._output:
            path.unlink()
        return out, err

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _main(directory: str, arguments: tuple[str, ...], environment: dict[str, str], output: list[str]) -> None:
    """In the forked process: become what ``python -m`` would have started. Never returns."""
    process.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # it may have children, as any command
    os.setsid()
    os.chdir(directory)
    end = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output[0], end), (2, output[1], end)):
        os.dup2(os.open(path, flags), number)
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]  # those of the directory that the tests run in
    libraries = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = [directory, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *libraries]
    sys.argv[:] = arguments
    code: object = 0
    try:
        if "prefect" in sys.modules:
            _read_settings_again(ours=arguments[0].startswith("flows."))
        if arguments[0] == "-c":
            sys.argv[:] = ["-c", *arguments[2:]]
            exec(arguments[1], {"__name__": "__main__"})
        else:
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 1)


def _read_settings_again(ours: bool) -> None:
    """Prefect reads its settings when it is imported, which the process that was forked has done in another environment."""
    from prefect.context import refresh_global_settings_context

    if ours:
        importlib.import_module("flows")  # puts the project's own into the environment
    refresh_global_settings_context()
