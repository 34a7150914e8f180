"""The stage graph as DVC sees it: what is stale, and parameters changed as its experiments do.

DVC's Python API, which is undocumented, is used for planning only here and in tasks/dvc/lock_files.py, in this process.
Stages run as ``dvc`` processes (tasks/dvc/runner.py, tasks/dvc/forks.py).
"""

import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssl_core.config import MissingKey, nearest
from tasks.dvc.image_path import check_images
from tasks.dvc.lock_files import locked, recorded
from tasks.dvc.runner import dvc
from tasks.runtime import edited_yaml, params
from tasks.runtime.errors import UsageError
from tasks.runtime.stage_name import StageName


@dataclass(frozen=True)
class PlannedStage:
    """A stage of the graph."""

    name: str
    """As ``dvc repro`` takes it: ``pretrain@simclr-0``."""
    parts: StageName
    """Its group in dvc.yaml, method and seed."""
    inputs: tuple[tuple[str, ...], ...]
    """For each dependency that stages make: their names. Several when it is a directory that they fill."""
    outs: tuple[Path, ...]
    stale: bool
    """Whether it, or a stage it depends on, changed since dvc.lock was written."""
    for_git: tuple[Path, ...] = ()
    """Those of ``outs`` that DVC does not cache."""

    @property
    def after(self) -> set[str]:
        """Names of the stages it directly depends on."""
        return {name for makers in self.inputs for name in makers}


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
        with locked(root) as repo:
            graph = get_active_graph(repo.index.graph)
            planned: dict[str, PlannedStage] = {}
            for stage in plan_repro(graph):
                inputs = _inputs(stage, list(graph.successors(stage)))
                upstream = [planned[name] for makers in inputs for name in makers]
                stale = any(s.stale for s in upstream) or _changed(stage)
                outs = tuple(Path(out.fs_path) for out in stage.outs)
                for_git = tuple(Path(out.fs_path) for out in stage.outs if not out.use_cache)
                name = _name(stage)
                planned[name] = PlannedStage(name, StageName.parse(name), inputs, outs, stale, for_git)
            return list(planned.values())
    except DvcException as error:
        missing = re.search(r"Could not find '([\w.]+)'", str(error))
        if missing:
            raise MissingKey(missing[1]) from None
        raise UsageError(f"{_one_line(error)}{_where(root)}; see also python -m tasks.doctor") from None


def again(stages: Iterable[PlannedStage], names: Collection[str]) -> list[PlannedStage]:
    """The plan in which the stages ``names``, and all that depends on them, are to run though DVC sees no change."""
    found: list[PlannedStage] = []
    stale: set[str] = set()
    for stage in stages:
        if stage.stale or stage.name in names or stage.after & stale:
            stale.add(stage.name)
        found.append(replace(stage, stale=stage.name in stale))
    return found


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


def read_params(root: Path) -> dict[str, Any]:
    """params.yaml, its values unchecked (the stages check them)."""
    return params.load(root / params.PARAMS)


def override(root: Path, overrides: Sequence[str]) -> bool:
    """Change params.yaml to what ``dvc exp run -S KEY=VALUE`` makes of it, comments kept; nothing is written when one is wrong.

    Returns:
        Whether the file changed.

    Raises:
        UsageError: not ``KEY=VALUE``, an unknown key, or images that are not there.
        ConfigError: a value that the project does not accept.
    """
    text = overridden(root, overrides)
    if text is None:
        return False
    params.write(text, root / params.PARAMS)
    return True


def overridden(root: Path, overrides: Sequence[str]) -> str | None:
    """What ``override`` would write, and whether it would refuse; None where nothing changes."""
    path = root / params.PARAMS
    values, now = _overridden(path, overrides), params.load(path)
    if values == now:
        return None
    text = edited_yaml.edit(params.text(path), lambda document: edited_yaml.become(document, values))
    params.check(params.parse(text, path))
    check_images(root, values)
    return text


def _overridden(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The parameters in the file ``path`` after ``overrides``."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / path.name
        copy.write_bytes(path.read_bytes())
        try:
            apply_overrides(copy, list(overrides))
        except DvcException as error:
            said = _one_line(error.__cause__ or error)
            absent = re.search(r"Could not override '([\w.]+)'", said)
            reason = _absent(absent[1], params.load(path)) if absent else said.partition(" See https:")[0]
            if not absent and "LexerNoViableAlt" in reason:
                reason = "it cannot be read; a value with : or # in it wants quotation marks of its own"
            raise UsageError(f"override {' '.join(overrides)}: {reason}") from None
        try:
            return params.load(copy)
        except UsageError as error:
            raise UsageError(str(error).replace(str(copy), path.name)) from None


def _absent(key: str, values: Mapping[str, Any]) -> str:
    """That params.yaml has no such key, and which are near."""
    level: Any = values
    for part in key.split("."):
        if not isinstance(level, Mapping) or part not in level:
            near = nearest(part, map(str, level)) if isinstance(level, Mapping) else ""
            return f"params.yaml has no {key}{near} (with a + before it, it is added)"
        level = level[part]
    return f"{key} has no such parts yet; +{key}.NAME=VALUE adds one"


def save_experiment(root: Path, name: str, stages: Sequence[PlannedStage]) -> str:
    """Record the workspace as the DVC experiment ``name``, as ``dvc exp run`` does at its end; returns a line that says so.

    ``dvc exp save`` writes into dvc.lock that outputs belong to the parameters and code as they are now, whatever they were
    made from. So it is told of ``stages`` only, and what it changes there all the same (after a late edit) is taken back.

    Args:
        stages: those that are up to date.
    """
    names = [stage.name for stage in stages]
    before = recorded(root, names)
    small = sorted(str(out.relative_to(root)) for stage in stages for out in stage.for_git if out.exists())
    untracked = [part for path in small for part in ("--include-untracked", path)]
    fault = dvc(root, "exp", "save", "--force", "--name", name, *untracked, *names)
    if fault:
        return f"not recorded as an experiment: {fault}"
    if recorded(root, names, instead=before) != before:
        dvc(root, "exp", "remove", name)
        return "not recorded as an experiment: something that the stages depend on was changed meanwhile"
    return f"recorded as experiment {name}: dvc exp show"


def remember(root: Path, names: Iterable[str]) -> None:
    """Note in DVC's run cache what the stages ``names`` have made, so that it is made once.

    ``dvc repro`` notes no stage that has an output for git, as an evaluation has. Stages of no method do more than write
    outputs, and are not noted.
    """
    wanted = {name for name in names if StageName.parse(name).method is not None}
    if wanted:
        with locked(root) as repo:
            for stage in repo.index.stages:
                if _name(stage) in wanted and not all(out.use_cache for out in stage.outs):
                    repo.stage_cache.save(stage)


def push_run_cache(root: Path) -> None:
    """Push DVC's run cache with every output it names: ``dvc push --run-cache`` leaves out those that DVC does not cache."""
    with locked(root) as repo:
        entries = repo.stage_cache.push(None)
        for odb, objects in repo.stage_cache.get_used_objs(entries).items():
            repo.cloud.push(objects, odb=odb)


def _where(root: Path) -> str:
    """What is wrong in params.yaml for DVC's reader of YAML, which is stricter than others; empty if nothing is."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        YAML(typ="safe").load(params.text(root / params.PARAMS))  # as DVC reads it
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        return f" ({error.problem}{line}; inside {{}} an address like models:/NAME@ALIAS wants quotation marks)"
    return ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
