"""Start ``dvc``, and the stage that it runs, as forks of one process that has imported the libraries of both.

A new Python that imports DVC and a second one that imports torch cost each stage more than two seconds; a fork costs
hundredths of one. The server imports libraries alone, nothing of this project: a stage runs the code that DVC has hashed.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

LIBRARIES = ("dvc.cli", "dvc.repo.reproduce", "dvc.commands.repro")
"""In the order in which a run needs them; then torch, if a stage of the graph is this project's."""
PLAIN = re.compile(r"python -m (?P<module>tasks(\.\w+)+)(?P<arguments>( [\w./@-]+)*)")
"""A command that means the same without a shell."""
THREADS = Path("/proc/self/task")
INTERRUPT = {signal.SIGINT}
ANSWER_SECONDS, REAP_SECONDS, END_SECONDS = 3.0, 0.1, 0.5
"""How long a run waits for the server, which may be importing: for an answer, before it does without; until it has reaped what
has just said how it ends; and for its own end."""
ROOM = 1000
"""Bytes for a command in the place where ``ps`` and other runs read what a process is."""


class Fork:
    """A process that the server forked: what the runner uses of ``subprocess.Popen``."""

    def __init__(self, pid: int, status: int):
        """
        Args:
            status: a pipe into which the process writes its exit code; it is closed without one when the process is killed.
        """
        self.pid, self.returncode = pid, 0
        self._status: int | None = status
        self._lock = threading.Lock()
        os.set_blocking(status, False)

    def poll(self) -> int | None:
        """Its exit code, -9 if it was killed; None while it works."""
        with self._lock:
            if self._status is not None:
                try:
                    said = os.read(self._status, 1)
                except BlockingIOError:
                    return None
                os.close(self._status)
                self._status, self.returncode = None, said[0] if said else -signal.SIGKILL
            return self.returncode

    def wait(self, timeout: float) -> None:
        """Until it ends, ``timeout`` seconds at most."""
        if (status := self._status) is not None:
            with contextlib.suppress(OSError, ValueError):  # another thread has found its end
                select.select([status], [], [], timeout)


class Forks:
    """The server, seen from the run, with which it ends. What it forked goes on."""

    def __init__(self, root: Path, environment: Mapping[str, str]):
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tasks.dvc.forks", str(theirs.fileno()), " " * ROOM],
                cwd=root,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is the run's
            )

    def start(self, module: str, arguments: Sequence[str], log: IO[bytes]) -> Fork | None:
        """``python -m MODULE ARGUMENTS`` in a session of its own, which writes into ``log``; None when the server does not
        answer. The module is ``dvc`` or one of this project."""
        status, theirs = os.pipe()
        with contextlib.suppress(OSError), self._lock:
            try:
                socket.send_fds(self._channel, [json.dumps([module, *arguments]).encode()], [log.fileno(), theirs])
            finally:
                os.close(theirs)
            if select.select([status], [], [], ANSWER_SECONDS)[0] and (pid := os.read(status, 4)):
                return Fork(int.from_bytes(pid), status)
        os.close(status)  # which ends what is forked after all
        return None

    def close(self) -> None:
        """End the server, which has the processor time of what it forked."""
        time.sleep(REAP_SECONDS)
        self._channel.close()
        try:
            self._server.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


def serve(channel: socket.socket) -> None:
    """Fork a process for each request; between them import what is left to import. Returns when the run is gone."""
    _show("-m", "tasks.dvc.forks")  # where that is impossible, this ends, and the run starts a new Python for each
    signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPT)  # until a fork can answer
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background of a script ignores it
    ended, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    left = [*LIBRARIES, *(["torch"] if b"cmd: python -m tasks." in Path("dvc.yaml").read_bytes() else [])]
    while True:
        ready = select.select([channel, ended], [], [], 0 if left else None)[0]
        if ended in ready:
            os.read(ended, 1 << 16)
            _reap()
        if channel in ready:
            request, numbers, *_ = socket.recv_fds(channel, 1 << 16, 2)
            if not request:
                return
            if not os.fork():
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number in (channel.detach(), ended, end):
                    os.close(number)
                _become(*json.loads(request), log=numbers[0], status=numbers[1])
            for number in numbers:
                os.close(number)
        elif left and not ready:
            with contextlib.suppress(Exception):  # whoever needs it says what is wrong with it
                importlib.import_module(left.pop(0))
            gc.collect()
            gc.freeze()


def _reap() -> None:
    """Take note of what has ended, each of which says itself how; its processor time is the run's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def _become(module: str, *arguments: str, log: int, status: int) -> NoReturn:
    os.setsid()
    _show("-m", module, *arguments)
    try:
        os.write(status, os.getpid().to_bytes(4))
    except OSError:  # the run has not waited
        os._exit(0)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    sys.argv = [module, *arguments]
    main = partial(_dvc, arguments, status) if module == "dvc" else partial(_run_module, module)
    _run_to_the_end(main, lambda code: os.write(status, bytes([code])))


def _dvc(arguments: Sequence[str], status: int) -> int:
    import tqdm
    from dvc import cli
    from dvc.stage import run
    from dvc.utils.serialize import _yaml

    tqdm.tqdm.monitor_interval = 0  # a thread, and a process of several cannot be forked
    in_a_shell = run._run
    with_comments = _yaml.parse_yaml_for_update

    def parsed(text: str, path: str) -> Any:
        """What DVC is to change: of its own dvc.lock, half a second sooner, without the comments that it does not have."""
        return _yaml.parse_yaml(text, path) if Path(path).name == "dvc.lock" else with_comments(text, path)

    def in_a_fork(executable: str | None, command: str, **options: Any) -> None:
        plain = PLAIN.fullmatch(command)
        if plain is None or len(list(THREADS.iterdir())) > 1:
            in_a_shell(executable, command, **options)
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPT)
        pid = os.fork()
        if not pid:
            os.close(status)
            _become_stage(plain["module"], plain["arguments"].split(), options["env"])
        if signal.sigpending() & INTERRUPT:  # it came before there was a stage to get it
            os.kill(pid, signal.SIGINT)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stage ends itself
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPT)
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            signal.signal(signal.SIGINT, before)
        if code:
            raise run.StageCmdFailedError(command, code)

    run._run, _yaml.parse_yaml_for_update = in_a_fork, parsed
    return int(cli.main(list(arguments)))


def _become_stage(module: str, arguments: list[str], environment: Mapping[str, str]) -> NoReturn:
    gc.freeze()  # nothing of DVC's is closed here, such as a database under a number that is now another file's
    _show("-m", module, *arguments)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-m", *arguments]  # as it is while Python looks for the module
    _run_to_the_end(partial(_run_module, module))


def _run_module(module: str) -> int:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
        del sys.modules[name]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _show(*arguments: str) -> None:
    """Write this process's command over that of the server, in the memory in which the system looks for it.

    Raises:
        OSError: the system does not let a process do that.
    """
    start, end = map(
        int, Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[45:47]
    )
    command = b"\0".join(map(os.fsencode, (sys.executable, *arguments)))
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(command[: end - start - 1].ljust(end - start, b"\0"))


def _run_to_the_end(main: Callable[[], int], tell: Callable[[int], object] = lambda code: None) -> NoReturn:
    """Run ``main`` and leave as Python does after it, without a way back into what this process was forked from."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPT)
        code: object = main()
    except BaseException as error:
        code = _told(error)
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
        atexit._run_exitfuncs()
    left_open = [each for each in gc.get_objects() if type(each) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)]
    for stream in (*left_open, sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code is KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    number = code if isinstance(code, int) else 1
    with contextlib.suppress(OSError):  # the run is gone
        tell(number & 255)
    os._exit(number & 255)


def _told(error: BaseException) -> object:
    """Say what Python says of an exception that nobody caught; with what the process ends."""
    if isinstance(error, SystemExit):
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
        return error.code or 0
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    return KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else 1


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
