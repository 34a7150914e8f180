"""``python -m tasks.replay CAPTURE``: repeat a training step that was not finite, and say where the first such number is.

A training that ends with exit code 5 names its capture. The step is made as it was: the same weights, images, random numbers
and parameters. Nothing is trained and nothing is written. Of a training in N processes: ``torchrun --nproc-per-node N -m
tasks.replay CAPTURE``.
"""

import argparse
from pathlib import Path

import torch

from ssl_core.engine import distributed
from ssl_core.engine.replay import repeat
from ssl_core.engine.train import Trainer, precision_of
from tasks.pretrain import capture, fitting, weights
from tasks.pretrain.capture import Capture
from tasks.pretrain.training import make_trainer
from tasks.runtime import dataset, errors, files, params, processes, settings
from tasks.runtime.device import machine, pick_device
from tasks.runtime.errors import EnvironmentFault, IntegrityError, UsageError

SHOWN = 16
"""Ids of images in a line."""


def replay(directory: Path) -> None:
    """Repeat the step of the capture in ``directory`` and say what came of it.

    Raises:
        UsageError: there is no such directory.
        IntegrityError: it is damaged, or the images here are others.
        EnvironmentFault: the step gives another loss here.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is no folder; a training that ends with exit code 5 names its capture")
    about, tensors = capture.load(directory)
    chosen = params.method_params(about.params, about.method)
    torch.set_num_threads(chosen.train.threads)
    device = pick_device()
    processes.join(about.processes, device)
    here = machine(device) | {"precision": precision_of(chosen.train, device)}
    trainer = _trainer(directory, about, chosen, device)
    _restore(trainer, tensors, about, directory)
    found = repeat(trainer)
    if distributed.rank():
        return
    if found.loss != about.loss or found.where is None:
        others = [f"{k} is {here.get(k)}, was {v}" for k, v in about.machine.items() if k in here and str(here[k]) != v]
        raise EnvironmentFault(
            f"the loss is {found.shown} ({found.loss}) here and was {about.loss}: {', '.join(others) or 'the code has changed'}"
        )
    listed = ", ".join(map(str, found.ids.tolist()[:SHOWN])) + (" ..." if len(found.ids) > SHOWN else "")
    print(
        f"{about.method} (seed {about.seed}), step {about.step} of {about.steps}: "
        f"the loss is {found.shown}, as captured to the bit"
    )
    print(f"where: {found.where}")
    print(f"images: {listed} (rows of {dataset.PREPARED}/train_images.npy; all are in {capture.STATE}: {capture.IDS})")
    print(f"random numbers: Rng(ids, {', '.join(map(str, about.key))})")


def _trainer(directory: Path, about: Capture, chosen: params.MethodParams, device: torch.device) -> Trainer:
    files.verify(dataset.PREPARED)
    data = dataset.load()
    if data.sha256 != about.data_sha256:
        raise IntegrityError(f"{directory} is of other images than {dataset.PREPARED} holds; put those back (dvc checkout)")
    return make_trainer(fitting.fit_to(chosen, data), data, about.seed, device, weights.find(chosen.encoder))


def _restore(trainer: Trainer, tensors: dict[str, torch.Tensor], about: Capture, directory: Path) -> None:
    try:
        trainer.load(tensors, about.scalars)
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(f"{directory} does not fit the code here, which has changed since: {reason}") from None


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tasks.replay", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("capture", type=Path, metavar="CAPTURE", help="a folder of .ssl/captures")
    directory = parser.parse_args().capture
    settings.apply()
    replay(directory)


if __name__ == "__main__":
    errors.run(main)
