"""The command of the stages: ``python -m tasks.prepare`` for the pool, ``python -m tasks.prepare TASK`` for a task."""

import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np

from tasks.prepare import auditing, pool
from tasks.prepare.preparation import prepare
from tasks.runtime import audit, files
from tasks.runtime.dataset import GROUPS, prepared
from tasks.runtime.errors import DataError, IntegrityError, UsageError
from tasks.runtime.image_folders import all_paths, images_path
from tasks.runtime.params import DataConfig, check_task, data_config, load, task_configs
from tasks.runtime.stage import Body, Stage, main
from tasks.runtime.stage_name import StageName


def make(task: str | None = None) -> tuple[Stage, Body]:
    """The stage, its parameters checked."""
    name = StageName("prepare_task", task=task) if task else StageName("prepare")
    path = images_path(config_of(task).path, key=f"tasks.{task}.path" if task else "data.path")
    return Stage(name, listed=[path]), lambda stage: body(stage, task)


def config_of(task: str | None) -> DataConfig:
    """What params.yaml says of the pool's or the task's images."""
    values = load()
    check_task(values, task)
    return task_configs(values)[task] if task else data_config(values)


def body(stage: Stage, task: str | None = None) -> None:
    """Prepare, check that the user's files stayed the same meanwhile, and say in three lines what came out."""
    config, target = config_of(task), stage.out(str(prepared(task)))
    before = _listings(config)

    def check() -> None:
        if stage.stop_requested():
            stage.leave()

    def beside_pool(directory: Path) -> None:
        if task:
            pool.compare(directory, task, check)

    try:
        prepare(config, target, check, stage.work / "progress.json", beside_pool)
    except DataError as error:
        raise DataError(_of_task(str(error), task)) from None
    if changed := sorted(name for name, digest in _listings(config).items() if digest != before.get(name)):
        shutil.rmtree(target)  # even if they come back: what was read is a mixture
        raise IntegrityError(f"{changed[0]} changed while it was read; run the same command again")
    said = auditing.in_three_lines(files.read_json(target / "meta.json"), audit.load(target))
    for line in (*said, *_in_groups(target)):
        print(line)
    for line in pool.in_words(target, task) if task else ():
        print(line)


def _in_groups(directory: Path) -> list[str]:
    """How many groups the images of a prepared data set are, for the terminal; nothing where none belong together."""
    found = [directory / f"{name}.npy" for name in GROUPS]
    if not found[0].exists():
        return []
    train, test = (len(np.unique(np.load(path, allow_pickle=False))) for path in found)
    return [f"groups: {train:,} of training images and {test:,} of test images; those of one belong together"]


def _listings(config: DataConfig) -> dict[str, str]:
    """A digest of every folder of images."""
    return {str(path): files.listing_digest(path) for path in all_paths(config)}


def _of_task(text: str, task: str | None) -> str:
    """A message that names keys of ``data``, for a task: its own keys, and no name of a file."""
    keys = "|".join(field.name for field in fields(DataConfig))
    return re.sub(rf"\bdata\.(?=({keys})\b)", f"tasks.{task}.", text) if task else text


def command(arguments: list[str]) -> None:
    """Nothing, or ``TASK``, from the command line."""
    if len(arguments) > 1:
        raise UsageError("usage: python -m tasks.prepare [TASK]")
    main(lambda: make(*arguments))


if __name__ == "__main__":
    command(sys.argv[1:])
