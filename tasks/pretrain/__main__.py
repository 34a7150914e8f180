"""The command of the stage: ``python -m tasks.pretrain METHOD SEED``.

With ``train.processes`` above 1 the command starts that many processes, which share each batch;
``torchrun -m tasks.pretrain METHOD SEED`` starts them by hand, also on several machines.
"""

import os
import sys
from typing import NoReturn

import torch

from ssl_core.engine.train import NonFinite, precision_of
from tasks.pretrain import capture, weights
from tasks.pretrain.training import Training
from tasks.runtime import errors, params, processes, start_rows
from tasks.runtime.device import machine, pick_device
from tasks.runtime.errors import Diverged
from tasks.runtime.heap import keep_freed_memory
from tasks.runtime.stage import Body, Stage
from tasks.runtime.stage_name import StageName, method_and_seed
from tasks.tracking.mirror import Mirror


def command(arguments: list[str]) -> None:
    """``METHOD SEED`` from the command line."""
    method, seed = method_and_seed("tasks.pretrain", arguments)
    try:
        wanted = num_processes(method)
    except errors.MISTAKES:
        wanted = 1  # the same error in the stage itself is recorded
    if wanted > 1 and not processes.are_launched():
        processes.launch(str(StageName("pretrain", method, seed)), "tasks.pretrain", arguments, wanted)
    else:
        processes.main(lambda: make(method, seed))


def make(method: str, seed: int) -> tuple[Stage, Body]:
    """The stage and its training, once all the processes that share it have met."""
    values = params.load()
    params.check(values)  # all of it: plain dvc repro reads no more of params.yaml than a stage names
    start_rows.check(values)
    chosen = params.method_params(values, method)
    keep_freed_memory()
    torch.set_num_threads(chosen.train.threads)
    start = weights.find(chosen.encoder)
    device = pick_device()
    processes.join(num_processes(method), device)
    facts = machine(device) | {"precision": precision_of(chosen.train, device)}
    facts |= {"start_sha256": start.sha256} if start else {}
    stage = Stage(StageName("pretrain", method, seed), facts, told=[weights.FOLDER])
    return stage, lambda stage: body(stage, method, seed, device, start)


def num_processes(name: str) -> int:
    """Processes that train ``name``: what is not trained at all needs one."""
    train = params.method_params(params.load(), name).train
    return train.processes if train.trains else 1


def body(stage: Stage, name: str, seed: int, device: torch.device, start: weights.Start | None = None) -> None:
    """Train, then write."""
    run = Training(stage, name, seed, device, start)
    broken = None
    try:
        if run.leads:
            with Mirror(run.journal.path):
                run.train()
                run.finish()
        else:
            run.train()
    except NonFinite as error:
        broken = error.with_traceback(None)  # whose frames would keep the memory of the step
    except Diverged:
        run.journal.end("FAILED", cost={})
        raise
    if broken:
        fail(run, broken)


def fail(run: Training, broken: NonFinite) -> NoReturn:
    """End a training with a number that is not finite, and keep the step."""
    if run.leads:
        run.journal.end("FAILED", cost={})
    try:
        taken = capture.take(run, broken.step)
        kept = "; no step could be repeated that way, so nothing is kept"
        if taken:
            path, where = taken
            kept = f"; {where}; python -m tasks.replay {os.path.relpath(path)} repeats the step"
    except OSError as error:
        kept = f"; it could not be kept: {errors.explain(error)[1]}"
    if not run.leads:
        raise broken  # the first process says so
    raise Diverged(f"{run.name}: {broken}{kept}")


if __name__ == "__main__":
    errors.run(lambda: command(sys.argv[1:]))
