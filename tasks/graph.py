"""The stage graph as DVC sees it: what is stale, parameters changed as its experiments do, locks left by the dead.

The only user of DVC's Python API, which is undocumented: for planning only, in this process. Stages run as ``dvc``
processes (tasks/runner.py).
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import files, params
from tasks.errors import UsageError
from tasks.image_path import check_images
from tasks.locks import try_lock

NOTED_ORDER = Path(".ssl/order-of-dvc.lock.json")


@dataclass(frozen=True)
class PlannedStage:
    """A stage of the graph."""

    name: str
    """As ``dvc repro`` takes it: ``pretrain@simclr-0``."""
    inputs: tuple[tuple[str, ...], ...]
    """For each dependency that stages make: their names. Several when it is a directory that they fill."""
    outs: tuple[Path, ...]
    stale: bool
    """Whether it, or a stage it depends on, changed since dvc.lock was written."""

    @property
    def after(self) -> set[str]:
        """Names of the stages it directly depends on."""
        return {name for makers in self.inputs for name in makers}


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[Any]:
    """DVC's repository, while no other command reads or writes its files."""
    from dvc.repo import Repo, lock_repo

    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        yield repo


def plan(root: Path) -> list[PlannedStage]:
    """Every stage of the project, each after those it depends on.

    Raises:
        UsageError: dvc.yaml, dvc.lock, params.yaml or the images cannot be read.
        ConfigError: ``run`` does not say which stages there are.
    """
    from dvc.exceptions import DvcException
    from dvc.repo.reproduce import get_active_graph, plan_repro

    values = read_params(root)
    params.run_config(values)
    check_images(root, values)
    try:
        with _locked(root) as repo:
            graph = get_active_graph(repo.index.graph)
            planned: dict[str, PlannedStage] = {}
            for stage in plan_repro(graph):
                inputs = _inputs(stage, list(graph.successors(stage)))
                upstream = [planned[name] for makers in inputs for name in makers]
                stale = any(s.stale for s in upstream) or _changed(stage)
                outs = tuple(Path(out.fs_path) for out in stage.outs)
                planned[_name(stage)] = PlannedStage(_name(stage), inputs, outs, stale)
            return list(planned.values())
    except DvcException as error:
        raise UsageError(f"{_one_line(error)}; see also python -m tasks.doctor") from None


def _name(stage) -> str:  # type: ignore[no-untyped-def]
    """As ``dvc repro`` takes it in the project's root, wherever this process is."""
    name = getattr(stage, "name", None)
    return name if name and stage.path_in_repo == "dvc.yaml" else f"{stage.path_in_repo}:{name}" if name else stage.path_in_repo


def _inputs(stage, upstream) -> tuple[tuple[str, ...], ...]:  # type: ignore[no-untyped-def]
    """For each dependency of ``stage`` that stages of ``upstream`` make, their names."""
    made = [(Path(out.fs_path), _name(other)) for other in upstream for out in other.outs]
    inputs = []
    for dep in (Path(d.fs_path) for d in stage.deps):
        makers = {name for out, name in made if dep == out or out in dep.parents or dep in out.parents}
        if makers:
            inputs.append(tuple(sorted(makers)))
    return tuple(inputs)


def _changed(stage) -> bool:  # type: ignore[no-untyped-def]
    """What ``dvc status`` asks, but without its read locks: those would make a stage that starts meanwhile fail as busy."""
    if stage.frozen:
        return False
    try:
        return stage.always_changed or stage.changed_stage() or any(entry.status() for entry in (*stage.deps, *stage.outs))
    except OSError:  # being written right now
        return True


def remember_order(root: Path) -> list[str]:
    """The stages of dvc.lock as they stood in the file before this run, or before the one that it goes on from.

    They are noted in ``.ssl`` until a run has ended well (``tidy_lock``). DVC only ever appends, so that a file which does
    not begin with what was noted is another one, from git for example.
    """
    note = root / NOTED_ORDER
    with _locked(root):
        now = list(_read_lock(root)["stages"])
    with contextlib.suppress(OSError, ValueError):
        noted = list(json.loads(note.read_text()))
        if now[: len(noted)] == noted:
            return noted
    files.write_json(note, now)
    return now


def lock_of(root: Path, names: Sequence[str]) -> str:
    """The part of dvc.lock that is about these stages; empty before the first run."""
    from dvc.utils.serialize import dumps_yaml

    found = _recorded(root, names)
    return str(dumps_yaml({"schema": "2.0", "stages": found})) if found else ""


def _recorded(root: Path, names: Sequence[str], instead: dict[str, Any] | None = None) -> dict[str, Any]:
    """What dvc.lock says of these stages; then it says ``instead``."""
    with _locked(root):
        content = _read_lock(root)
        found = {name: entry for name, entry in content["stages"].items() if name in names}
        if instead is not None and found != instead:
            _write_lock(root, {**content, "stages": {**content["stages"], **instead}})
    return found


def _read_lock(root: Path) -> dict[str, Any]:
    """dvc.lock; without one, as it is before the first stage."""
    from dvc.utils.serialize import load_yaml

    path = root / "dvc.lock"
    content: dict[str, Any] = load_yaml(path) if path.exists() else {}
    return {"schema": "2.0", "stages": {}, **content}


def _write_lock(root: Path, content: dict[str, Any]) -> None:
    from dvc.utils.serialize import dumps_yaml

    files.write_text(root / "dvc.lock", dumps_yaml(content))


def tidy_lock(root: Path, before: Sequence[str], stages: Sequence[PlannedStage], finished: bool) -> None:
    """Put dvc.lock into the order that plain ``dvc repro`` leaves: what was there before, then the new stages as planned.

    DVC appends a stage when it ends, so that parallel runs with the same result would differ in the file.

    Args:
        before: of ``remember_order``.
        finished: nothing is left to do, so that the next run starts from the file as it is now.
    """
    with _locked(root):
        content = _read_lock(root)
        locked = content["stages"]
        order = [name for name in dict.fromkeys([*before, *(s.name for s in stages), *locked]) if name in locked]
        if order != list(locked):
            _write_lock(root, {**content, "stages": {name: locked[name] for name in order}})
        if finished:
            (root / NOTED_ORDER).unlink(missing_ok=True)


def read_params(root: Path) -> dict[str, Any]:
    """params.yaml, its values unchecked (the stages check them)."""
    return params.load(root / params.PARAMS)


def override(root: Path, overrides: Sequence[str]) -> bool:
    """Change params.yaml as ``dvc exp run -S KEY=VALUE`` does, comments kept; nothing is written when one is wrong.

    Returns:
        Whether the file changed.

    Raises:
        UsageError: not ``KEY=VALUE``, an unknown key, or a result that the project does not accept.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    path = root / params.PARAMS
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / path.name
        copy.write_bytes(path.read_bytes())
        try:
            apply_overrides(copy, list(overrides))
        except DvcException as error:
            raise UsageError(f"override {' '.join(overrides)}: {_one_line(error.__cause__ or error)}") from None
        changed = params.load(copy) != params.load(path)
        if changed:
            files.write_bytes(path, copy.read_bytes())
    return changed


def save_experiment(root: Path, name: str, stages: Sequence[PlannedStage]) -> str:
    """Record the workspace as the DVC experiment ``name``, as ``dvc exp run`` does at its end; returns a line that says so.

    ``dvc exp save`` writes into dvc.lock that outputs belong to the parameters and code as they are now, whatever they were
    made from. So it is told of ``stages`` only, and what it changes there all the same (after a late edit) is taken back.

    Args:
        stages: those that are up to date.
    """
    names = [stage.name for stage in stages]
    before = _recorded(root, names)
    tops = sorted({out.relative_to(root).parts[0] for stage in stages for out in stage.outs if out.exists()})
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "save", "--force", "--name", name]
    done = subprocess.run(
        [*command, *(part for top in tops for part in ("--include-untracked", top)), *names],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return f"not recorded as an experiment: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
    if _recorded(root, names, instead=before) != before:
        subprocess.run([sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "remove", name], cwd=root, capture_output=True)
        return "not recorded as an experiment: something that the stages depend on was changed meanwhile"
    return f"recorded as experiment {name}: dvc exp show"


def push_run_cache(root: Path) -> None:
    """Push DVC's run cache with every output it names: ``dvc push --run-cache`` leaves out those that DVC does not cache."""
    with _locked(root) as repo:
        entries = repo.stage_cache.push(None)
        for odb, objects in repo.stage_cache.get_used_objs(entries).items():
            repo.cloud.push(objects, odb=odb)


def repair(root: Path) -> list[str]:
    """Undo what a crash left in DVC's own files; a line for each thing that was wrong."""
    return release_dead_locks(root) + set_aside_cut_lock(root)


def set_aside_cut_lock(root: Path) -> list[str]:
    """Move a dvc.lock away that ends in the middle: dvc empties the file before it writes it, and may be killed in between.

    What it named comes back from DVC's run cache, without computing. A conflict that git left in it is its user's to solve.
    """
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException

    path, aside = root / "dvc.lock", root / ".ssl" / "dvc.lock.cut-off"
    with _locked(root) as repo:
        try:
            if not path.exists() or b"<<<<<<<" in path.read_bytes() or Lockfile(repo, str(path)).load():
                return []
        except DvcException:
            pass
        aside.parent.mkdir(exist_ok=True)
        path.replace(aside)
    return [f"dvc.lock was cut off (now {aside.relative_to(root)}); what it named comes back from DVC's cache"]


@contextlib.contextmanager
def rwlock(root: Path) -> Iterator[Path]:
    """DVC's file of who reads and writes what, while no dvc process changes it."""
    directory = root / ".dvc" / "tmp"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "rwlock.lock").open("a") as guard:
        while not try_lock(guard):
            time.sleep(0.05)
        yield directory / "rwlock"


def release_dead_locks(root: Path) -> list[str]:
    """Drop what dead processes left in DVC's rwlock: a number reused by another program blocks a stage for ever.

    Returns:
        A line for each thing that was dropped.
    """
    with rwlock(root) as path:
        try:
            locks = json.loads(path.read_text())
            write = {k: v for k, v in locks.get("write", {}).items() if _lives(v)}
            read = {k: left for k, v in locks.get("read", {}).items() if (left := [r for r in v if _lives(r)])}
        except FileNotFoundError:
            return []
        except (ValueError, AttributeError, KeyError, TypeError):
            path.unlink()
            return [f"removed {path.relative_to(root)}: it was cut off or damaged"]
        holders = [*locks.get("write", {}).values(), *(r for v in locks.get("read", {}).values() for r in v)]
        dead = {f"released DVC's lock of process {h['pid']}, which is gone: {h['cmd']}" for h in holders if not _lives(h)}
        if dead:
            files.write_text(path, json.dumps({"write": write, "read": read}))
        return sorted(dead)


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process that took a lock still runs: the number alone may have been given to another program."""
    try:
        command = Path(f"/proc/{int(holder['pid'])}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return False
    arguments = holder["cmd"].split(" ")[1:]
    return not arguments or " ".join(os.fsdecode(c) for c in command).endswith(" ".join(arguments))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
