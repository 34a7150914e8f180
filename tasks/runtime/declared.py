"""What dvc.yaml declares of a stage: its dependencies, parameters and outputs."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tasks.runtime import params
from tasks.runtime.errors import UsageError
from tasks.runtime.stage_name import StageName


def entry(name: StageName) -> dict[str, Any]:
    """The stage's deps, params and outs from dvc.yaml, with ``${item.KEY}``, ``${key}`` and ``${PARAMETER}`` filled in."""
    declared, values = groups()[name.group], params.load()
    item = {"task": name.task, "method": name.method, "seed": name.seed}
    if "foreach" in declared:  # a mapping by task
        item |= lookup(values, f"{declared['foreach'].strip('${}')}.{name.task}") or {}
        declared = declared["do"]
    text = json.dumps({k: v for k, v in declared.items() if k in ("deps", "params", "outs", "metrics", "plots")})
    values |= {"item": item, "key": name.task}
    filled: dict[str, Any] = json.loads(
        re.sub(r"\$\{([\w.]+)\}", lambda key: json.dumps(str(lookup(values, key[1])))[1:-1], text)
    )
    return filled


def groups() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml as they stand there.

    Raises:
        UsageError: there is no dvc.yaml here.
    """
    try:
        text = Path("dvc.yaml").read_text()
    except FileNotFoundError:
        raise UsageError("dvc.yaml is missing; run from the project's root") from None
    stages: dict[str, dict[str, Any]] = yaml.safe_load(text)["stages"]
    return stages


def lookup(values: Any, dotted: str) -> Any:
    """The value of ``train.lr`` in nested mappings, None where there is none."""
    for part in dotted.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
