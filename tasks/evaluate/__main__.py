"""The command of the stage: ``python -m tasks.evaluate METHOD SEED``."""

import sys

import torch

from tasks.evaluate.evaluation import Evaluation
from tasks.runtime import params
from tasks.runtime.device import machine, pick_device
from tasks.runtime.heap import keep_freed_memory
from tasks.runtime.stage import Body, Stage, main
from tasks.runtime.stage_name import StageName, method_and_seed


def command(arguments: list[str]) -> None:
    """``METHOD SEED`` from the command line."""
    main(lambda: make(*method_and_seed("tasks.evaluate", arguments)))


def make(method: str, seed: int) -> tuple[Stage, Body]:
    """The stage of one encoder, and its evaluation."""
    keep_freed_memory()
    torch.set_num_threads(params.method_params(params.load(), method).train.threads)
    device = pick_device()
    name = StageName("evaluate", method, seed)
    return Stage(name, machine(device)), lambda stage: Evaluation(stage, method, seed, device).run()


if __name__ == "__main__":
    command(sys.argv[1:])
