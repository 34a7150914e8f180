"""A step that was not finite, kept so that it can be repeated: the state before it, its images, its randomness, its parameters.

The training goes back to its newest checkpoint and comes to the step again, which gives the same bits, so that a sound
training pays nothing for it. A capture is a sealed directory of numbers and text: ``python -m tasks.replay`` reads it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_core.config import ConfigError, typed
from ssl_core.engine import distributed
from ssl_core.engine.replay import Repeated, advance, repeat
from ssl_core.engine.train import NonFinite, Position
from tasks.pretrain.training import Training
from tasks.runtime import files
from tasks.runtime.errors import IntegrityError
from tasks.runtime.stage import state_directory

STATE, FACTS = "state.safetensors", "capture.json"
IDS = "batch.ids"
SECTIONS = ("encoder", "train", "augment")


@dataclass(frozen=True, kw_only=True)
class Capture:
    """What ``capture.json`` says of the step."""

    method: str
    seed: int
    step: int
    steps: int
    loss: str
    """The bits of the float32, 8 hexadecimal digits."""
    where: str
    """What was not finite first."""
    key: tuple[int, ...]
    """Of its random numbers, see ``ssl_core.rng.Rng``; the ids of its images are beside the tensors, as ``batch.ids``."""
    processes: int
    data_sha256: str
    machine: dict[str, str]
    """Versions, device and precision: what else shapes the bits."""
    params: dict  # type: ignore[type-arg]
    """Of params.yaml, what a training of the method reads."""
    scalars: dict  # type: ignore[type-arg]
    """Of the trainer."""


def take(run: Training, step: int) -> tuple[Path, str] | None:
    """Come to ``step`` again and keep it; all processes take part.

    Returns:
        The directory and what was not finite first; None if the step is finite this time, as it may be on a GPU.
    """
    del run.trainer  # its memory is needed
    run.rewind()
    trainer = run.trainer

    def poll(position: Position) -> None:
        if distributed.any_of(run.stage.stop_requested())[0]:
            run.stage.leave()

    try:
        advance(trainer, step, poll)
        key = trainer.key(step // trainer.steps_per_epoch)
        tensors = {name: value.clone() for name, value in trainer.tensors().items()}  # the step writes to buffers
        scalars = {**trainer.scalars(), "history": list(trainer.history)}
        found = repeat(trainer)
    except NonFinite:  # an earlier one
        return None
    if found.where is None:
        return None
    about = Capture(
        method=run.name,
        seed=run.seed,
        step=step,
        steps=trainer.steps,
        loss=found.loss,
        where=found.where,
        key=key,
        processes=distributed.world_size(),
        data_sha256=run.data.sha256,
        machine={name: str(value) for name, value in run.stage.machine.items()},
        params=_params(run.values, run.name),
        scalars=scalars,
    )
    directory = state_directory() / "captures" / f"{run.name}-{run.seed}"
    try:
        if run.leads:
            _write(directory, about, tensors, found)
    finally:
        distributed.any_of(False)  # nobody leaves while the first one writes
    return directory, found.where


def _params(values: Mapping[str, Any], name: str) -> dict[str, object]:
    return {section: values[section] for section in SECTIONS} | {"method": {name: values["method"].get(name)}}


def _write(directory: Path, about: Capture, tensors: dict[str, Tensor], found: Repeated) -> None:
    def fill(temp: Path) -> None:
        files.save_tensors(temp / STATE, {k: v.numpy() for k, v in (tensors | {IDS: found.ids}).items()})
        files.write_json(temp / FACTS, asdict(about))

    files.write_directory(directory, fill)


def load(directory: Path) -> tuple[Capture, dict[str, Tensor]]:
    """A capture, and the tensors of its trainer before the step.

    Raises:
        IntegrityError: it is damaged, or none of this version.
    """
    files.verify(directory)
    values = files.read_json(directory / FACTS)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in files.load_tensors(directory / STATE).items()}
    try:
        if not isinstance(values, dict) or IDS not in tensors:
            raise ConfigError("it holds no step")
        del tensors[IDS]
        return typed(Capture, values, "capture"), tensors
    except ConfigError as error:
        raise IntegrityError(f"{directory} is no capture of this version: {error}") from None
