"""The command of the stages: ``python -m tasks.finetune METHOD SEED``, and ``METHOD SEED TASK`` with the labels of a task."""

import sys

import torch

from ssl_core.config import ConfigError
from tasks.finetune.trials import Trials
from tasks.runtime import params
from tasks.runtime.device import machine, pick_device
from tasks.runtime.heap import keep_freed_memory
from tasks.runtime.stage import Body, Stage, main
from tasks.runtime.stage_name import StageName, with_task


def make(method: str, seed: int, task: str | None = None) -> tuple[Stage, Body]:
    """The stage of one encoder, and its trainings."""
    keep_freed_memory()
    values = params.load()
    if method not in params.run_config(values).finetune:
        raise ConfigError(f"{method} is not in run.finetune; name it there")
    params.check_task(values, task)
    recipe = params.finetune_params(values)
    torch.set_num_threads(recipe.train.threads)
    device = pick_device()
    name = StageName("finetune_task" if task else "finetune", method, seed, task)
    return Stage(name, machine(device)), lambda stage: Trials(stage, method, seed, device, recipe, task).run()


if __name__ == "__main__":
    main(lambda: make(*with_task("tasks.finetune", sys.argv[1:])))
