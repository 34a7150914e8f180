"""The journal of a stage: one JSON line per event, written before anybody else hears of it. MLflow only mirrors it.

Events, each with ``event`` and ``time`` (milliseconds since 1970):

- ``start``: ``run`` with ``fingerprint``, ``stage``, ``name`` (method, baseline or ``report``), ``seed``, ``tags``, ``params``
  (nested is fine), ``data`` (what was trained on, see ``Journal.start``) and ``children`` (names a report compares).
- ``metrics``: ``step`` and ``metrics``; a number that is not finite is the string ``nan``, ``inf`` or ``-inf``.
- ``tags``: ``tags``.
- ``artifact``: ``path``, relative to the project, and ``folder`` to show it in.
- ``end``: ``status`` (``FINISHED``, ``FAILED`` or ``KILLED``), ``cost``, ``encoder_sha256``, ``reason``.

The last ``end`` counts, and only as the last line: a resumed run goes on after it.
"""

import contextlib
import errno
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from tasks.runtime import files
from tasks.runtime.errors import IntegrityError
from tasks.tracking import events

if TYPE_CHECKING:
    from tasks.runtime.dataset import Dataset
    from tasks.runtime.stage import Stage

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Journal:
    """Appends events to ``path``; every line is with the kernel when the call returns, so killing the process loses none.

    Args:
        position: go on after this many bytes and forget the rest. A stage stores ``Journal.position`` in its checkpoint and
            gives it back on resume, so that replayed steps are not recorded twice. ``None`` goes on after the last line.
    """

    def __init__(self, path: Path, position: int | None = None):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab", buffering=0)
        # A kill or a full disk may have left part of a line.
        keep = _complete(path) if position is None else min(position, _complete(path))
        self._file.truncate(keep)
        self._size = keep

    @property
    def position(self) -> int:
        """Bytes written so far, made durable: what a checkpoint stores."""
        os.fsync(self._file.fileno())
        return self._size

    def start(
        self,
        *,
        fingerprint: str,
        stage: str,
        name: str,
        seed: int | None,
        tags: Mapping[str, Any],
        params: Mapping[str, Any],
        data: Mapping[str, Any] | None = None,
        children: Iterable[str] = (),
    ) -> None:
        """Describe the run. On resume the first description stays; what differs becomes tags ``resume_N.*``.

        Args:
            fingerprint: digest of everything that shapes the result; one MLflow run per fingerprint.
            stage: full name in DVC; an ``evaluate`` journal adds to the run of the training with its name and encoder hash.
            tags: joined to those of ``surroundings``.
            data: at least ``name`` and ``sha256`` of the data set; further facts (``num_train``, ...) are shown beside them.
            children: ``METHOD-SEED`` names under this run (reports only).
        """
        tags = {**surroundings(), **tags}
        run = {"fingerprint": fingerprint, "stage": stage, "name": name, "seed": seed, "tags": tags, "params": params}
        run = _plain({**run, "data": data or {}, "children": list(children)})
        if self._size == 0:
            self._write("start", run=run)
            return
        known = list(read(self.path))
        prefix = f"resume_{1 + sum(e['event'] == 'tags' and 'resumed' in e['tags'] for e in known)}"
        first, now = ({**flat(r.get("tags", {})), **flat(r.get("params", {}))} for r in (known[0].get("run", {}), run))
        self.tags({"resumed": prefix, **{f"{prefix}.{k}": v for k, v in now.items() if first.get(k) != v}})

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers of one step."""
        self._write("metrics", step=step, metrics={k: float(v) for k, v in metrics.items()})

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Record facts about the run as it goes (a verdict, a warning)."""
        self._write("tags", tags=tags)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record that the file ``path`` belongs to the run; the mirror copies it."""
        self._write("artifact", path=str(path), folder=folder)

    def end(
        self,
        status: Status,
        cost: Mapping[str, Any] | None = None,
        encoder_sha256: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Close the run and make the journal durable.

        Args:
            cost: ``seconds``, ``images_per_second``, ``peak_memory_bytes``, ``parameters``, ...
            encoder_sha256: of the encoder that was trained or evaluated; ties an evaluation to its training.
        """
        self._write("end", status=status, cost=cost or {}, encoder_sha256=encoder_sha256, reason=reason)
        os.fsync(self._file.fileno())

    def publish(self, target: Path) -> None:
        """Copy the journal to ``target``, whole or not at all."""
        files.write_bytes(target, self.path.read_bytes())

    def close(self) -> None:
        """Close the file; without ``end`` the run counts as running, or as killed once the lock of its directory is free."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, event: str, **fields: Any) -> None:
        line = {"event": event, "time": time.time_ns() // 1_000_000, **_plain(fields)}
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(errno.ENOSPC, "short write", str(self.path))
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(data)


def read(path: Path, faults: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The sound events of a journal, in order; an unfinished or damaged line is none.

    Args:
        faults: gets a text for each damaged line. A last line without an end is one that is being written.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield events.parse(line)
            except ValueError as error:
                if faults is not None and line.endswith(b"\n"):
                    faults.append(f"line {number}: {error}")


def run_of(path: Path) -> dict[str, Any]:
    """What a journal says at its start of its run.

    Raises:
        IntegrityError: it has no sound start.
    """
    first = next(read(path), {"event": None})
    if first["event"] != "start":
        raise IntegrityError(f"{path} is damaged: it does not say which run it is of; {files.MEND}")
    run: dict[str, Any] = first["run"]
    return run


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names; other values stay as they are."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def of_encoder(
    stage: "Stage", name: str, seed: int, data: "Dataset", task: str | None, params: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``Journal.start`` is told by a stage that adds scores to the run of an encoder's training.

    Args:
        data: that it was scored on; those of a task are named in the run as of that task.
    """
    tags = {"dataset": data.meta["name"], "data_sha256": data.sha256}
    return {
        "fingerprint": stage.fingerprint,
        "stage": stage.full_name,
        "name": name,
        "seed": seed,
        "tags": {task: tags} if task else tags | {k: str(v) for k, v in stage.machine.items()},
        "data": {"name": data.meta["name"], "sha256": data.sha256} if task else {},
        "params": params,
    }


def surroundings() -> dict[str, str]:
    """Where a run comes from: commit, whether code or parameters differ from it, DVC experiment, Prefect run, user, host."""
    known = {"dvc_experiment": "DVC_EXP_NAME", "prefect_flow_run": "PREFECT__FLOW_RUN_ID", "user": "USER"}
    facts = {tag: os.environ[name] for tag, name in known.items() if os.environ.get(name)}
    facts["host"] = platform.node()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        facts["git_commit"] = _git("rev-parse", "HEAD")
        facts["git_dirty"] = str(
            bool(_git("status", "--porcelain", "--", "ssl_core", "tasks", "params.yaml", "dvc.yaml"))
        ).lower()
    return facts


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _plain(value: Any) -> Any:
    """What JSON can say: mappings, lists, text, whole and finite numbers; anything else as its text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _complete(path: Path) -> int:
    """Bytes up to the end of the last sound line."""
    size = complete = 0
    with path.open("rb") as file:
        for line in file:
            size += len(line)
            with contextlib.suppress(ValueError):
                events.parse(line)
                complete = size
    return complete
