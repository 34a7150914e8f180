"""Run DVC stages as processes: several side by side, watched, and stopped for certain.

``dvc repro -s`` processes may work in one workspace at the same time when each waits for the repository's lock
(``--wait-for-lock``); the order is up to the caller. Only this module knows DVC's messages.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from tasks.dvc.damage import discard_damaged
from tasks.dvc.forks import Fork, Forks
from tasks.dvc.lock_files import release_dead_locks
from tasks.dvc.outcome import Fate, Outcome
from tasks.runtime import recorded
from tasks.runtime.errors import EnvironmentFault, IntegrityError, Preempted, no_space
from tasks.runtime.locks import try_lock

GRACE_SECONDS = 7.0  # from SIGINT to SIGKILL: a stage saves its checkpoint
POLL_SECONDS, WATCH_SECONDS = 0.1, 0.3
BUSY_SECONDS = 2.0
ORPHAN_SECONDS = 6.0
PATIENT = "--wait-for-lock"
FULL = 1 << 20  # a disk with fewer bytes left
NEEDLESS = re.compile(
    "Generating lock file|To track the changes with git|\tgit add |To enable auto staging|\tdvc config core.autostage|"
    "Use `dvc push`|  \\(PID |If there are no processes with such PIDs|"
    "ERROR: failed to reproduce .*: failed to run: python -m tasks"
)
Started = subprocess.Popen[bytes] | Fork
BUSY = "is busy, it is being blocked by"


def dvc(root: Path, *arguments: str) -> str | None:
    """Run a ``dvc`` command that is none of a stage's; None when it went well, else its last error."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", PATIENT, *arguments], cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if not done.returncode:
        return None
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("Having any troubles?")]
    return (_errors(said) or said or ["no reason given"])[-1]


class Runner:
    """Runs stages as processes; several threads may call ``run``, any may call ``stop``."""

    def __init__(
        self,
        root: Path,
        grace: float = GRACE_SECONDS,
        environment: dict[str, str] | None = None,
        pull: bool = False,
        again: Collection[str] = (),
    ):
        """
        Args:
            grace: seconds from a request to stop to a kill.
            pull: restore what a remote has.
            again: stages to run though DVC sees no change.
        """
        self.root, self.grace, self.options, self.again = root.resolve(), grace, ["--pull"] if pull else [], again
        self.environment = {**os.environ, **(environment or {})}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.environment.get('PATH', '')}"
        self._live: set[Started] = set()
        self._forks: Forks | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    @contextlib.contextmanager
    def forking(self, stages: int) -> Iterator[None]:
        """Inside, stages start as forks of one process. That saves each some seconds, and needs some itself.

        Args:
            stages: how many are to be run.
        """
        if stages < 2 or sys.platform != "linux":
            yield
            return
        self._forks = Forks(self.root, self.environment)
        try:
            yield
        finally:
            self._forks.close()
            self._forks = None

    def run(self, name: str, watch: Callable[[list[str]], None] = lambda lines: None) -> Outcome:
        """Bring one stage up to date; waits while another process works on it. What DVC restores damaged is made again.

        Args:
            name: the stage.
            watch: called every moment with the new lines of its log, ``.ssl/logs/NAME.log``.

        Raises:
            Preempted: ``stop`` was called; nothing was started, or what was started has ended.
        """
        options, mended, waits = self.options, False, False
        while True:
            with self._claimed_log(name, watch) as log:
                outcome = self._run_once(name, log, watch, options)
            if outcome is not None and outcome.how is Fate.RESTORED:
                damaged = discard_damaged(self.root, recorded.of_stage(self.root, name))
                if damaged and mended:
                    return Outcome(IntegrityError.code, Fate.FAILED, f"DVC restores it again: {'; '.join(damaged)}")
                if damaged:
                    mended = True
                    watch([f"warning: what came from the cache is not what was recorded: {line}" for line in damaged])
                    options = []  # not pulled again
                    continue
            if self._stopping.is_set() and (outcome is None or outcome.code):
                raise Preempted(f"{name} was stopped; the same command continues")
            if outcome is not None:
                return outcome
            if not waits:
                watch(["another run works on what this needs; waiting for it"])
                waits = True
            release_dead_locks(self.root)
            self._pause(name, BUSY_SECONDS)

    def ask(self, module: str, *arguments: str) -> list[str]:
        """The lines that ``python -m MODULE ARGUMENTS`` prints, its errors among them; several threads may call it.

        Raises:
            Preempted: ``stop`` was called, and nothing was started.
        """
        said: list[str] = []
        with tempfile.NamedTemporaryFile() as log, self._process(module, module, arguments, log) as process:
            self._attend(process, Path(log.name), said.extend)
        return said

    def stop(self) -> None:
        """Start nothing more; interrupt all that runs, then kill what is left. Returns when they are gone."""
        self._stopping.set()
        with self._lock:
            groups = list(self._live)
        for number, patience in ((signal.SIGINT, self.grace), (signal.SIGKILL, 2.0)):
            for process in groups:
                _signal_group(process, number)
            try:
                _wait(lambda: not any(_group_lives(p) for p in groups), patience)
            except KeyboardInterrupt:
                continue

    @contextlib.contextmanager
    def _claimed_log(self, name: str, watch: Callable[[list[str]], None]) -> Iterator[IO[bytes]]:
        """The stage's log, emptied. Its lock is inherited by dvc and the stage, so it is free when the last of them is gone."""
        told = False
        path = self.root / ".ssl" / "logs" / f"{name.replace('/', '_')}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            while not try_lock(log):
                if not told:
                    watch(["another run began this, and still works on it; waiting for it"])
                told = True
                self._pause(name, POLL_SECONDS)
            log.truncate(0)
            yield log

    @contextlib.contextmanager
    def _process(self, name: str, module: str, arguments: Sequence[str], log: IO[bytes]) -> Iterator[Started]:
        """One that ``stop`` ends while the block works; ``name`` is for the message."""
        with self._lock:
            if self._stopping.is_set():
                raise Preempted(f"{name} was not started")
            process = self._start(module, arguments, log)
            self._live.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._live.discard(process)

    def _start(self, module: str, arguments: Sequence[str], log: IO[bytes]) -> Started:
        """``python -m MODULE ARGUMENTS`` in a session of its own.

        Args:
            log: takes what it says. A file: when a pipe's reader dies, dvc loses the finished result.
        """
        if self._forks and (fork := self._forks.start(module, arguments, log)):
            return fork
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _pause(self, name: str, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Preempted(f"{name} was not started")

    def _run_once(
        self, name: str, log: IO[bytes], watch: Callable[[list[str]], None], options: Sequence[str]
    ) -> Outcome | None:
        """One ``dvc repro -s``; None when another process holds what the stage needs."""
        left = self.root / ".ssl" / "exit" / name
        left.unlink(missing_ok=True)
        arguments = [PATIENT, "repro", "-s", *options, *(["--force"] if name in self.again else []), name]
        with self._process(name, "dvc", arguments, log) as process:
            try:
                self._attend(process, Path(log.name), watch)
            except BaseException:  # of ``watch``: nobody would look after the process any more
                _signal_group(process, signal.SIGINT)
                raise
        return _outcome(process.returncode, left, Path(log.name).read_text(encoding="utf-8", errors="replace"))

    @staticmethod
    def _attend(process: Started, log: Path, watch: Callable[[list[str]], None]) -> None:
        """Hand on what a process and its stage say, until both have ended."""
        with log.open(encoding="utf-8", errors="replace") as reader:
            tail = _Tail(reader)
            while process.poll() is None:
                watch(tail.new_lines())
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(WATCH_SECONDS)
            if process.returncode < 0:  # dvc was killed: let its stage save and leave
                _wait(lambda: not _group_lives(process), ORPHAN_SECONDS)
                _signal_group(process, signal.SIGKILL)
                _wait(lambda: not _group_lives(process), 1.0)
            watch(tail.new_lines(last=True))


class _Tail:
    """The complete lines added to a stage's log since the last call, without DVC's advice and what a stage has said itself."""

    def __init__(self, reader: IO[str]):
        self.reader, self.rest = reader, ""

    def new_lines(self, last: bool = False) -> list[str]:
        *lines, self.rest = re.split(r"[\r\n]", self.rest + self.reader.read())
        if last:
            lines.append(self.rest)
        return [line for line in lines if line.strip() and not NEEDLESS.match(line) and BUSY not in line]


def _outcome(returncode: int, left: Path, text: str) -> Outcome | None:
    """How a stage ended: dvc answers 255 to any failure, so what the stage left says it, else DVC's own words.

    Args:
        returncode: of dvc.
        left: the file in which a failed stage leaves its exit code and message.
        text: the log.

    Returns:
        None when another process holds what the stage needs.
    """
    if returncode == 0:
        idle = Fate.RESTORED if "is cached - skipping run" in text else Fate.UNCHANGED
        return Outcome(0, Fate.RAN if re.search(r"^Running stage ", text, re.M) else idle, "")
    with contextlib.suppress(OSError, ValueError, KeyError):
        said = json.loads(left.read_text(encoding="utf-8"))
        return Outcome(int(said["code"]), Fate.FAILED, str(said["message"]))
    errors = _errors(text.splitlines())
    message = errors[-1] if errors else f"dvc ended with {returncode} and no message"
    root = left.parents[2]
    if not errors and shutil.disk_usage(root).free < FULL:
        message = no_space(root)  # the log could not be written either
    exited = re.search(r"exited with (-?\d+)", text)
    if exited:
        code = int(exited[1])
        number = -code if code < 0 else code - 128  # the same of a command that a shell started
        if number > 0:
            return Outcome(128 + number, Fate.FAILED, _killed(number))
        return Outcome(code, Fate.FAILED, message)
    if BUSY in text:
        return None
    return Outcome(Preempted.code if returncode < 0 else EnvironmentFault.code, Fate.FAILED, message)


def _killed(number: int) -> str:
    """What ended a stage that could not say so itself."""
    why = ", by a person, or by the system for want of memory" if number == signal.SIGKILL else ""
    return f"ended by signal {number} ({signal.strsignal(number)}){why}"


def _errors(lines: Iterable[str]) -> list[str]:
    """DVC's own words for what went wrong."""
    return [re.sub("^ERROR: (unexpected error - )?", "", line) for line in lines if line.startswith("ERROR: ")]


def _group_lives(process: Started) -> bool:
    if process.poll() is None:
        return True
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _signal_group(process: Started, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
