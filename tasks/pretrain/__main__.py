"""The command of the stage: ``python -m tasks.pretrain METHOD SEED``.

With ``train.processes`` above 1 the command starts that many processes, which share each batch;
``torchrun -m tasks.pretrain METHOD SEED`` starts them by hand, also on several machines.
"""

import sys
from typing import Any

import torch

from ssl_core.config import ConfigError
from ssl_core.engine.train import NonFinite, precision_of
from tasks.pretrain.training import Training
from tasks.runtime import errors, params, processes
from tasks.runtime.device import machine, pick_device
from tasks.runtime.errors import Diverged, UsageError
from tasks.runtime.stage import Stage
from tasks.tracking.mirror import Mirror


def command(arguments: list[str]) -> None:
    """``METHOD SEED`` from the command line."""
    if len(arguments) != 2 or not arguments[1].isdigit():
        raise UsageError("usage: python -m tasks.pretrain METHOD SEED")
    name, seed = arguments[0], int(arguments[1])
    try:
        wanted = num_processes(name)
    except (ConfigError, UsageError):
        wanted = 1  # the same error in the stage itself is recorded
    if wanted > 1 and not processes.are_launched():
        processes.launch(f"pretrain@{name}-{seed}", "tasks.pretrain", arguments, wanted)
        return
    state: dict[str, Any] = {}

    def make() -> Stage:
        values = params.load()
        params.check(values)  # all of it: plain dvc repro reads no more of params.yaml than a stage names
        chosen = params.method_params(values, name)
        torch.set_num_threads(chosen.train.threads)
        state["device"] = pick_device()
        processes.join(num_processes(name), state["device"])
        kind = {"method": name, "seed": str(seed)}
        facts = machine(state["device"]) | {"precision": precision_of(chosen.train, state["device"])}
        return Stage("pretrain", kind, facts)

    processes.main(make, lambda stage: body(stage, name, seed, state["device"]))


def num_processes(name: str) -> int:
    """Processes that train ``name``: what is not trained at all needs one."""
    train = params.method_params(params.load(), name).train
    return train.processes if train.own_epochs else 1


def body(stage: Stage, name: str, seed: int, device: torch.device) -> None:
    """Train, then write."""
    run = Training(stage, name, seed, device)
    if not run.leads:
        run.trainer.run(run.on_step, run.on_epoch)
        return
    try:
        with Mirror(run.journal.path):
            run.trainer.run(run.on_step, run.on_epoch)
            run.finish()
    except NonFinite as error:
        run.journal.end("FAILED", cost={})
        raise Diverged(f"{name}: {error}") from None
    except Diverged:
        run.journal.end("FAILED", cost={})
        raise


if __name__ == "__main__":
    errors.run(lambda: command(sys.argv[1:]))
