"""The command of the stage: ``python -m tasks.evaluate METHOD SEED``."""

import sys

import torch

from tasks.evaluate.evaluation import Evaluation
from tasks.runtime import params
from tasks.runtime.device import machine, pick_device
from tasks.runtime.errors import UsageError
from tasks.runtime.stage import Stage, main


def command(arguments: list[str]) -> None:
    """``METHOD SEED`` from the command line."""
    if len(arguments) != 2 or not arguments[1].isdigit():
        raise UsageError("usage: python -m tasks.evaluate METHOD SEED")
    name, seed = arguments[0], int(arguments[1])
    state: dict[str, torch.device] = {}

    def make() -> Stage:
        torch.set_num_threads(params.method_params(params.load(), name).train.threads)
        state["device"] = pick_device()
        return Stage("evaluate", {"method": name, "seed": str(seed)}, machine(state["device"]))

    main(make, lambda stage: Evaluation(stage, name, seed, state["device"]).run())


if __name__ == "__main__":
    command(sys.argv[1:])
