"""The command of the stages: ``python -m tasks.evaluate METHOD SEED``, and ``METHOD SEED TASK`` on the images of a task."""

import sys

import torch

from tasks.evaluate.evaluation import Evaluation
from tasks.runtime import params
from tasks.runtime.device import machine, pick_device
from tasks.runtime.heap import keep_freed_memory
from tasks.runtime.stage import Body, Stage, main
from tasks.runtime.stage_name import StageName, method_and_seed


def command(arguments: list[str]) -> None:
    """``METHOD SEED`` or ``METHOD SEED TASK`` from the command line."""
    task = arguments[2] if len(arguments) == 3 and arguments[2].isidentifier() else None
    main(lambda: make(*method_and_seed("tasks.evaluate", arguments[: 2 if task else None]), task))


def make(method: str, seed: int, task: str | None = None) -> tuple[Stage, Body]:
    """The stage of one encoder, and its evaluation."""
    keep_freed_memory()
    values = params.load()
    params.check_task(values, task)
    torch.set_num_threads(params.method_params(values, method).train.threads)
    device = pick_device()
    name = StageName("evaluate_task" if task else "evaluate", method, seed, task)
    return Stage(name, machine(device)), lambda stage: Evaluation(stage, method, seed, device, task).run()


if __name__ == "__main__":
    command(sys.argv[1:])
