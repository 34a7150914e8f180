"""The command of the stages: ``python -m tasks.evaluate METHOD SEED``, and ``METHOD SEED TASK`` on the images of a task."""

import sys

import torch

from tasks.evaluate.evaluation import Evaluation
from tasks.runtime import params
from tasks.runtime.device import machine, pick_device
from tasks.runtime.heap import keep_freed_memory
from tasks.runtime.stage import Body, Stage, main
from tasks.runtime.stage_name import StageName, with_task


def command(arguments: list[str]) -> None:
    """``METHOD SEED`` or ``METHOD SEED TASK`` from the command line."""
    main(lambda: make(*with_task("tasks.evaluate", arguments)))


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
