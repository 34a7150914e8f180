"""Checkpoints of a training: sealed directories ``step-N``; the two newest are kept, the newest valid one is loaded."""

import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ssl_core.engine import distributed
from tasks.runtime import files
from tasks.runtime.errors import IntegrityError

KEPT = 2
SCHEMA = 1
NAME = re.compile(r"method\..+|optimizer\.\d+\..+|sums\..+", re.DOTALL)
"""What a tensor is called; see ``ssl_core.engine.train.Trainer.tensors``."""


def check_space(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Before the first step: whether the checkpoints that are kept fit on the disk, and the one that is being written.

    Args:
        tensors: of the trainer; an optimizer that has not begun adds two for each weight.

    Raises:
        EnvironmentFault: they do not.
    """
    sizes = {name: value.nbytes for name, value in tensors.items()}
    begun = any(name.startswith("optimizer.") for name in sizes)
    size = sum(sizes.values()) * (1 if begun else 3)
    files.check_space(directory, (KEPT + 1) * size, "free some, or move the project to a larger disk")


def save(directory: Path, step: int, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    """Write ``step-N`` whole or not at all, then drop the oldest ones."""

    def fill(temp: Path) -> None:
        files.save_tensors(temp / "state.safetensors", {k: v.numpy() for k, v in tensors.items()})
        files.write_json(temp / "state.json", {"schema": SCHEMA, "tensors": _shapes(tensors), "scalars": scalars})

    files.write_directory(directory / f"step-{step:010d}", fill)
    for old in sorted(directory.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def load(directory: Path, required: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that matches its manifest and is whole, or None; says so when it had to fall back.

    Args:
        required: tensors as they must be there, by name, but for their values: the method's.
    """
    for path in sorted(directory.glob("step-*"), reverse=True):
        try:
            files.verify(path)
            arrays = files.load_tensors(path / "state.safetensors")
            tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
            return tensors, _scalars(path, files.read_json(path / "state.json"), tensors, required)
        except IntegrityError as error:
            reason = str(error).partition(";")[0]
            print(f"warning: checkpoint {path.name} is damaged and was passed over ({reason})", file=sys.stderr)
            files.remove(path)
    return None


def _scalars(path: Path, state: Any, tensors: Mapping[str, Tensor], required: Mapping[str, Tensor]) -> dict[str, Any]:
    """What ``save`` was given beside ``tensors``.

    Raises:
        IntegrityError: the checkpoint is of another layout, or something is missing, of another type or of another shape.
    """
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise IntegrityError(f"{path} has another layout")
    shapes, needed = _shapes(tensors), _shapes(required)
    of_method = {name: shape for name, shape in shapes.items() if name.startswith("method.")}
    if shapes != state.get("tensors") or of_method != needed or not all(map(NAME.fullmatch, shapes)):
        raise IntegrityError(f"{path / 'state.safetensors'} does not hold the tensors of this training")
    scalars = state.get("scalars")
    if not isinstance(scalars, dict) or not all(holds(scalars.get(key)) for key, holds in SCALARS.items()):
        raise IntegrityError(f"{path / 'state.json'} does not hold {', '.join(SCALARS)}")
    if path.name != f"step-{scalars['step']:010d}":
        raise IntegrityError(f"{path} holds step {scalars['step']}")
    return scalars


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Types and shapes as they are stored: ``files.save_tensors`` makes a list of a single number."""
    return {name: f"{str(value.dtype).removeprefix('torch.')} {list(value.shape) or [1]}" for name, value in tensors.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_history(value: Any) -> bool:
    """A row for each epoch: numbers, ``epoch`` and ``step`` among them."""
    rows = isinstance(value, list) and all(isinstance(row, dict) and {"epoch", "step"} <= row.keys() for row in value)
    return rows and all(map(_is_number, (number for row in value for number in row.values())))


SCALARS: dict[str, Callable[[Any], bool]] = {
    "step": _is_index,
    "history": _is_history,
    "seconds": _is_number,
    "journal": _is_index,
}
"""What a training needs beside tensors to go on; ``journal`` is ``Journal.position``."""


def shared(loaded: tuple[dict[str, Tensor], dict[str, Any]] | None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What the first process of a training loaded, in every process, wherever its files are."""
    if distributed.world_size() == 1:
        return loaded
    tensors, scalars = loaded or ({}, {})
    told = json.loads(distributed.broadcast_bytes(json.dumps(scalars).encode()))
    data = distributed.broadcast_bytes(safetensors.torch.save(tensors))
    return (safetensors.torch.load(data), told) if told else None
