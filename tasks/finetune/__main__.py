"""The command of the stage: ``python -m tasks.finetune METHOD SEED``."""

import sys

import torch

from ssl_core.config import ConfigError
from tasks.finetune.trials import Trials
from tasks.runtime import params
from tasks.runtime.device import machine, pick_device
from tasks.runtime.heap import keep_freed_memory
from tasks.runtime.stage import Body, Stage, main
from tasks.runtime.stage_name import StageName, method_and_seed


def make(method: str, seed: int) -> tuple[Stage, Body]:
    """The stage of one encoder, and its trainings."""
    keep_freed_memory()
    values = params.load()
    if method not in params.run_config(values).finetune:
        raise ConfigError(f"{method} is not in run.finetune; name it there")
    recipe = params.finetune_params(values)
    torch.set_num_threads(recipe.train.threads)
    device = pick_device()
    return Stage(StageName("finetune", method, seed), machine(device)), lambda stage: Trials(
        stage, method, seed, device, recipe
    ).run()


if __name__ == "__main__":
    main(lambda: make(*method_and_seed("tasks.finetune", sys.argv[1:])))
