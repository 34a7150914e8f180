"""Checkpoints of a training: sealed directories ``step-N``; the two newest are kept, the newest valid one is loaded."""

import json
import shutil
import sys
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


def save(directory: Path, step: int, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    """Write ``step-N`` whole or not at all, then drop the oldest ones."""

    def fill(temp: Path) -> None:
        files.save_tensors(temp / "state.safetensors", {k: v.numpy() for k, v in tensors.items()})
        files.write_json(temp / "state.json", scalars)

    files.write_directory(directory / f"step-{step:010d}", fill)
    for old in sorted(directory.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def load(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that matches its manifest, or None; says so when it had to fall back."""
    for path in sorted(directory.glob("step-*"), reverse=True):
        try:
            files.verify(path)
            arrays = files.load_tensors(path / "state.safetensors")
            return {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}, files.read_json(path / "state.json")
        except IntegrityError as error:
            print(f"warning: checkpoint {path.name} is damaged and was passed over ({error})", file=sys.stderr)
            shutil.rmtree(path)
    return None


def shared(loaded: tuple[dict[str, Tensor], dict[str, Any]] | None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What the first process of a training loaded, in every process, wherever its files are."""
    if distributed.world_size() == 1:
        return loaded
    tensors, scalars = loaded or ({}, {})
    told = json.loads(distributed.broadcast_bytes(json.dumps(scalars).encode()))
    data = distributed.broadcast_bytes(safetensors.torch.save(tensors))
    return (safetensors.torch.load(data), told) if told else None
