"""What dvc.yaml declares of a stage: its dependencies, parameters and outputs."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tasks.runtime.errors import UsageError
from tasks.runtime.stage_name import StageName
from tasks.runtime.strict_yaml import first_fault

RESTORE = "git checkout dvc.yaml restores it"


def entry(name: StageName, values: dict[str, Any]) -> dict[str, Any]:
    """The stage's deps, params and outs from dvc.yaml, with ``${item.KEY}``, ``${key}`` and ``${PARAMETER}`` filled in.

    Args:
        values: those of params.yaml.

    Raises:
        UsageError: dvc.yaml cannot be read, or does not describe the stage.
    """
    try:
        filled = _filled(name, values)
    except (KeyError, TypeError, AttributeError, ValueError):
        filled = {}
    if not _is_entry(filled):
        raise UsageError(f"dvc.yaml does not describe the stage {name}; {RESTORE}")
    return filled


def listed(values: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether params.yaml lists the method, the seed, the task and the further folder of a stage, by its name.

    What an earlier list left behind is read by nobody, so it may be anything.
    """
    run = values["run"]

    def is_listed(stage: str) -> bool:
        name = StageName.parse(stage)
        parts = {"methods": name.method, "seeds": name.seed, "tasks": name.task}
        is_kept = name.folder is None or name.folder in (values["data"].get("more") or ())
        return is_kept and all(part is None or part in (run.get(key) or ()) for key, part in parts.items())

    return is_listed


def _filled(name: StageName, values: dict[str, Any]) -> dict[str, Any]:
    declared = groups()[name.group]
    item: Any = {"task": name.task, "method": name.method, "seed": name.seed}
    key = name.task or name.folder
    if "foreach" in declared:  # a mapping by task, or by further folder
        found = lookup(values, f"{declared['foreach'].strip('${}')}.{key}")
        item = found if isinstance(found, str) else item | (found or {})
        declared = declared["do"]
    text = json.dumps({k: v for k, v in declared.items() if k in ("deps", "params", "outs", "metrics", "plots")})
    values = values | {"item": item, "key": key}
    filled: dict[str, Any] = json.loads(
        re.sub(r"\$\{([\w.]+)\}", lambda key: json.dumps(str(lookup(values, key[1])))[1:-1], text)
    )
    return filled


def _is_entry(filled: dict[str, Any]) -> bool:
    """Whether it lists something, and names and paths as DVC takes them."""

    def named(item: Any) -> bool:
        return isinstance(item, str) or (isinstance(item, dict) and len(item) == 1 and isinstance(next(iter(item)), str))

    lists = all(isinstance(items, list) and all(map(named, items)) for items in filled.values())
    texts = [item for key in ("deps", "params") for item in filled.get(key) or []] if lists else []
    return bool(filled) and lists and all(isinstance(text, str) for text in texts)


def groups() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml as they stand there.

    Raises:
        UsageError: there is no dvc.yaml here, or it cannot be read.
    """
    try:
        text = Path("dvc.yaml").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError("dvc.yaml is missing; run from the project's root") from None
    except UnicodeDecodeError:
        raise UsageError(f"dvc.yaml is not UTF-8 text; {RESTORE}") from None
    try:
        stages: dict[str, dict[str, Any]] = yaml.safe_load(text)["stages"]
    except (yaml.YAMLError, RecursionError, KeyError, TypeError, ValueError) as error:
        reason = first_fault(error) if isinstance(error, yaml.YAMLError) else "it lists no stages"
        raise UsageError(f"dvc.yaml cannot be read: {reason}; {RESTORE}") from None
    return stages


def lookup(values: Any, dotted: str) -> Any:
    """The value of ``train.lr`` in nested mappings, None where there is none."""
    for part in dotted.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
