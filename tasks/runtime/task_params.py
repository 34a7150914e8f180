"""What ``run.tasks`` and ``tasks`` may say: names of further labelled sets, and where their images are."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_core.config import ConfigError

STORED = ("image_size", "store_size", "channels", "bits")
"""Alike for the pool and every task: an encoder takes images as it was trained on them."""
INHERITED = (*STORED, "bit_depth", "fit", "tile", "test_fraction", "holdout_fraction", "max_bad", "drop_leaks", "seed")
"""What a task has from ``data`` where it says nothing: how images are stored and how they are split."""
OWN = {"name": None, "follow_links": False, "class_folder": None, "max_train": None, "max_test": None, "more": {}}
"""What it has where it says nothing of the rest; ``source`` and ``path`` it must say."""


TAKEN = ("data", "eval", "finetune", "report", "resources", "system", "train")
"""What columns and metrics begin with, and folders are called, that are no task's."""


def check_names(names: Sequence[str], blocks: Any) -> None:
    """Every name is one that stages, files and columns can bear, and has its block; every block has its name.

    Raises:
        ConfigError: something is not so.
    """
    if not isinstance(blocks, Mapping):
        raise ConfigError("tasks must be a mapping: a name, and under it source and path")
    for name in names:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
            raise ConfigError(f"run.tasks: {name!r} is no name; give small letters, digits and underscores, a letter first")
        if name in TAKEN:
            raise ConfigError(f"run.tasks: {name!r} is taken, for columns and MLflow's metrics; give another name")
        if not isinstance(blocks.get(name), Mapping):
            raise ConfigError(f"run.tasks: {name} has no block under tasks; write where its images are: source and path")
    if len(set(names)) != len(names):
        raise ConfigError("run.tasks must name nothing twice")
    for name in blocks:
        if name not in names:
            raise ConfigError(f"tasks.{name} is not in run.tasks; name it there, or take the block out")


def merged(data: Mapping[str, Any], own: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a task, with those of ``data`` where it says nothing.

    Raises:
        ConfigError: it does not say where its images are, or they would be stored in another way than the pool's.
    """
    for key in ("source", "path"):
        if key not in own:
            raise ConfigError(f"{where}.{key} is missing; say where the images of the task are: source and path")
    values = {**OWN, **{key: data[key] for key in INHERITED}, **own}
    for key in STORED:
        if values[key] != data[key]:
            raise ConfigError(
                f"{where}.{key} is {values[key]}, but the encoders are trained on images with {data[key]} (data.{key});"
                " leave it out"
            )
    return values
