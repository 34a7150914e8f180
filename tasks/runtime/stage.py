"""What every stage command does around its body: fingerprint, work directory, lock, resume, signals, publish, end check.

DVC deletes a stage's outputs before it runs the command, leaves the command running when it is killed itself, and hashes
the inputs only after the command. So work in progress lives outside the outputs, in ``.ssl/work/STAGE/FINGERPRINT``; one
process at a time may write there; a command whose ``dvc`` has died stops; outputs are published whole, at the end; and a
stage whose inputs are damaged, or changed while it ran, fails instead of being recorded.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from tasks.runtime import ancestors, declared, files, params, recorded, settings, signals, work
from tasks.runtime.bus_error import on_bus_error
from tasks.runtime.errors import EnvironmentFault, IntegrityError, Preempted, Stop, UsageError, explain, run
from tasks.runtime.locks import try_lock
from tasks.runtime.stage_name import StageName

DONE = "DONE"
"""The manifest of a finished work copy of the outputs; written last."""
ORPHAN_GRACE_SECONDS = 4.0
GRACE_SECONDS = 6.0
"""From a request to stop to the end of what does not poll; shorter than the patience of ``tasks.dvc.runner``."""
LOCK_WAIT_SECONDS = 15.0


def state_directory() -> Path:
    """``.ssl`` of the project, also from a DVC experiment's temporary workspace."""
    return settings.project_root() / ".ssl"


class Stage:
    """One stage command.

    Args:
        name: its group is the stage in dvc.yaml; its method and seed fill ``${item.method}`` and ``${item.seed}`` there.
        machine: what else shapes the bits.
        listed: dependencies to compare by names, sizes and times: the user's images, whose content DVC hashes anyway.
        told: dependencies of which ``machine`` says what counts, as one file of a folder.
    """

    def __init__(
        self,
        name: StageName,
        machine: Mapping[str, Any] | None = None,
        listed: Collection[Path] = (),
        told: Collection[Path] = (),
    ):
        self.full_name, self.machine, self.listed = str(name), dict(machine or {}), listed
        values = params.load()
        entry = declared.entry(name, values)
        self.deps = [path for d in entry.get("deps", []) if (path := Path(d)) not in told]
        self.param_keys = list(entry.get("params", []))
        outs = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
        self.outs = [Path(next(iter(out)) if isinstance(out, dict) else out) for out in outs]
        self._digests: dict[Path, tuple[tuple[Any, ...], str]] = {}
        self._recorded = recorded.outputs(Path(), declared.listed(values))
        self.fingerprint = self._fingerprint()
        self.work = state_directory() / "work" / self.full_name / self.fingerprint[:16]
        self._stop, self._over = threading.Event(), threading.Event()

    # ------------------------------------------------------------------ what the body uses

    def out(self, path: str) -> Path:
        """Where to write the declared output ``path`` until it is published."""
        if Path(path) not in self.outs:
            raise ValueError(f"{path} is not an output of {self.full_name} in dvc.yaml")
        target = self.work / "outs" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def stop_requested(self, wait: float = 0.0) -> bool:
        """Whether a signal asked this process to save and leave, now or within ``wait`` seconds; poll it in every loop."""
        return self._stop.wait(wait)

    def leave(self) -> None:
        """Raise ``Preempted``; call it when ``stop_requested`` and the state is saved."""
        raise Preempted(f"{self.full_name} was asked to stop; the same command continues from here")

    # ------------------------------------------------------------------ running

    def execute(self, body: "Body") -> bool:
        """Run ``body`` or continue it, then check the inputs and publish the outputs.

        Returns:
            Whether ``body`` ran: not if an earlier command with the same inputs had finished it.
        """
        self.watch_signals()
        try:
            return self._run(body)
        finally:
            self._over.set()

    def _run(self, body: "Body") -> bool:
        with self._locked():
            for directory in {out.parent for out in self.outs} | {self.work, self.work / "checkpoints"}:
                if directory.is_dir():
                    files.remove_leftovers(directory)
            runs = not self._is_done()
            if runs:
                if self.stop_requested():
                    self.leave()
                shutil.rmtree(self.work / "outs", ignore_errors=True)  # half written when it was killed
                body(self)
                missing = [str(o) for o in self.outs if not (self.work / "outs" / o).exists()]
                if missing:
                    raise RuntimeError(f"{self.full_name} did not write {', '.join(missing)}")
                files.write_json(self.work / DONE, files.manifest_of(self.work / "outs", stage=self.full_name))
            if self._fingerprint_now() != self.fingerprint:
                raise IntegrityError(
                    f"an input of {self.full_name} (code, params.yaml or data) changed while it ran, so its result is not"
                    " recorded; run the same command again, or undo the edit to keep the result"
                )
            for out in self.outs:
                work.publish(self.work / "outs" / out, out)
            work.discard_old(self.work.parent, work.KEPT - 1, but=self.work)
        return runs

    def _fingerprint_now(self) -> str:
        """The fingerprint, of contents: sizes and times do not tell a bit that changed under a memory map.

        Raises:
            IntegrityError: an input is damaged; what was computed may come of it, so nothing of it is kept.
        """
        self._digests.clear()
        try:
            return self._fingerprint()
        except IntegrityError:
            for part in self.work.iterdir():
                if part.name != ".lock":
                    files.remove(part)
            raise

    def _is_done(self) -> bool:
        """Whether an earlier command has finished the outputs and they are as it left them; damaged ones are made again."""
        done = self.work / DONE
        try:
            if done.exists():
                files.verify(self.work / "outs", done)
                return True
        except IntegrityError as error:
            print(
                f"warning: the finished result of {self.full_name} is made again: {str(error).partition(';')[0]}",
                file=sys.stderr,
            )
            done.unlink()
        return False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.work.mkdir(parents=True, exist_ok=True)
        with (self.work / ".lock").open("a+") as file:
            deadline = time.monotonic() + LOCK_WAIT_SECONDS
            while not try_lock(file):
                if self.stop_requested():
                    self.leave()
                if time.monotonic() > deadline:
                    file.seek(0)
                    holder = file.read() or "another process"
                    raise EnvironmentFault(f"{self.full_name} is already being run by {holder}; wait for it")
                time.sleep(0.2)
            file.truncate(0)
            file.write(f"process {os.getpid()} since {time.strftime('%F %T')}")
            file.flush()
            yield

    def watch_signals(self) -> None:
        """Take SIGTERM, SIGINT and the end of the process that watches over this one as requests to stop.

        Work that does not poll ends by itself before whoever stops it loses patience: it may be killed at any point.
        """
        signals.answer(self._stop, GRACE_SECONDS, self._over, self._end)
        on_bus_error(self._tell_what_shrank, IntegrityError.code)
        above = [ancestors.dvc()] if os.environ.get("DVC_STAGE") else []
        above += [ancestors.living(os.getppid())] if "TORCHELASTIC_RUN_ID" in os.environ else []
        for parent in filter(None, above):
            threading.Thread(target=self._watch_parent, args=parent, daemon=True).start()

    def _watch_parent(self, pid: int, started: str) -> None:
        """Stop when dvc or torch's agent above is gone: nobody would record the result, and a second one may start."""
        while ancestors.start_time(pid) == started:
            time.sleep(0.5)
        self._stop.set()
        time.sleep(ORPHAN_GRACE_SECONDS)
        os._exit(Preempted.code)

    def _end(self) -> None:
        self.end(Preempted(f"{self.full_name} was asked to stop; the same command goes on from where it last saved"))

    def end(self, error: Stop) -> NoReturn:
        """Leave from another thread than the one that works."""
        try:
            self._end_with(error)
        finally:
            os._exit(error.code)

    def _tell_what_shrank(self) -> None:
        try:
            self._digests.clear()
            self._fingerprint()
            raise IntegrityError(f"a file that {self.full_name} reads was cut while it ran; {files.MEND}")
        except Exception as error:
            self._end_with(error)

    def _end_with(self, error: Exception) -> None:
        leave_code(self.full_name, error)
        print(f"error: {explain(error)[1]}", file=sys.stderr, flush=True)

    # ------------------------------------------------------------------ inputs

    def _fingerprint(self) -> str:
        values = params.load()
        inputs = {
            "stage": self.full_name,
            "deps": {str(d): self._digest(d) for d in self.deps},
            "params": {k: declared.lookup(values, k) for k in self.param_keys},
            "machine": self.machine,
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def _digest(self, path: Path) -> str:
        """Hash of a file or directory; hashed again only when sizes or times changed. What stages have made is verified."""
        if not path.exists():
            raise UsageError(f"{path} is missing; run dvc repro, which makes it first")
        if path in self.listed:
            return files.listing_digest(path)
        parts = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        parts = [p for p in parts if "__pycache__" not in p.parts]
        stamp = tuple((str(p), s.st_size, s.st_mtime_ns, s.st_ino) for p in parts for s in (p.stat(),))
        if path not in self._digests or self._digests[path][0] != stamp:
            hashes = self._verified(path, parts)
            parts = [path / files.MANIFEST] if (path / files.MANIFEST).exists() else parts
            digest = hashlib.sha256()
            for part in parts:
                digest.update(f"{part.relative_to(path)}\0{hashes.get(part) or files.sha256(part)}\0".encode())
            self._digests[path] = (stamp, digest.hexdigest())
        return self._digests[path][1]

    def _verified(self, path: Path, parts: list[Path]) -> dict[Path, str]:
        """Check what stages have made of ``parts``, the files of the dependency ``path``; the hashes that were found.

        Raises:
            IntegrityError: a file is damaged.
        """
        hashes = {}
        for sealed in (part.parent for part in parts if part.name == files.MANIFEST):
            hashes |= {sealed / name: entry["sha256"] for name, entry in files.verify(sealed)["files"].items()}
        for out, md5 in self._recorded.items():
            if (out == path or path in out.parents) and out.exists() and not (out / files.MANIFEST).exists():
                recorded.check(out, md5)
        return hashes


Body = Callable[[Stage], None]
"""What a stage computes; it writes where ``Stage.out`` says."""


def main(make: Callable[[], tuple[Stage, Body]]) -> bool:
    """Run a stage command: exit code, one line for a failure, and the code left for whoever watches the stage.

    Args:
        make: gives the stage and what it computes.

    Returns:
        As ``Stage.execute``.
    """

    def guarded() -> bool:
        name = os.environ.get("DVC_STAGE")
        try:
            stage, body = make()
            name = stage.full_name
            leave_code(name, None)
            return stage.execute(body)
        except BaseException as error:
            if name:
                leave_code(name, error)
            raise

    return run(guarded)


def left_code(name: str) -> int | None:
    """The exit code that stage ``name`` recorded, None when it ended well or is running."""
    path = _exit_file(name)
    return int(files.read_json(path)["code"]) if path.exists() else None


def _exit_file(name: str) -> Path:
    return state_directory() / "exit" / name


def leave_code(name: str, error: BaseException | None) -> None:
    """Record the exit code and reason in ``.ssl/exit/NAME``: dvc itself answers 255 for any failure."""
    path = _exit_file(name)
    if error is None:
        path.unlink(missing_ok=True)
        return
    code, message = explain(error)
    with contextlib.suppress(OSError):
        files.write_json(path, {"code": code, "message": message})
