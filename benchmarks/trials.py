"""One training as a stream of steps, ours or lightly's; and the process that runs them: ``python -m benchmarks.trials``.

How threads wait and whether memory comes in huge pages is settled when a process starts, so each pair of the two has a
process of its own. It reads a trial a line from its standard input and answers with images per second.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder

from benchmarks.augment import MEAN, RECIPE, STD, WARMUP, WORKERS
from benchmarks.measure import Steps, rate
from benchmarks.recipes import optimizer, recipe
from ssl_core.catalogue import load_class
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import build
from ssl_core.engine.method import Batch, DataInfo
from ssl_core.engine.train import Position, Trainer
from ssl_core.rng import Rng
from tasks.preset import PRESETS, merge
from tasks.runtime.heap import keep_freed_memory
from tasks.runtime.params import MethodParams, load, method_params, read

SIZE, CPU = 32, torch.device("cpu")
PRESET = PRESETS / "evidence.yaml"


@dataclass(frozen=True)
class Setting:
    """What a side may choose."""

    precision: str
    """``float32`` or ``bf16``."""
    threads: int
    wait: str
    """How threads wait: ``sleep`` or ``spin``."""
    pages: str
    """Of memory: ``small`` or ``huge``."""

    def __str__(self) -> str:
        threads = f"{self.threads} threads" if self.threads > 1 else "1 thread"
        return f"{self.precision}, {threads}, {self.wait}, {self.pages} pages"


@dataclass(frozen=True)
class Trial:
    """What to time."""

    side: str
    """``ours``, ``lightly``, or ``step``: ours on views made beforehand."""
    method: str
    width: int
    """Of the small encoder."""
    batch: int
    setting: Setting


@dataclass(frozen=True)
class Pictures:
    """The same images twice."""

    files: ImageFolder
    array: np.ndarray
    """(N, 3, SIZE, SIZE) uint8."""
    chosen: list[int]
    """Which of the files; row i of the array is file ``chosen[i]``."""


def read_pictures(folder: Path, subset: int) -> Pictures:
    """At most ``subset`` of the files under ``folder/train``, decoded once."""
    dataset = ImageFolder(str(folder / "train"))
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:subset].tolist()
    decoded = [Image.open(dataset.samples[i][0]).convert("RGB").resize((SIZE, SIZE)) for i in chosen]
    array = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in decoded])
    return Pictures(dataset, np.ascontiguousarray(array), chosen)


def parameters(trial: Trial) -> MethodParams:
    """The method as in params.yaml with CIFAR-10's small encoder, at the batch and the augmentation that both sides use."""
    values = load()
    merge(values["encoder"], read(PRESET)["encoder"])
    params = method_params(values, trial.method)
    # The indicators look at a fixed number of images an epoch: a quarter as many for a subset instead of all of CIFAR-10.
    train = dataclasses.replace(
        params.train, batch_size=trial.batch, precision=trial.setting.precision, epochs=1_000_000, health_images=256
    )
    encoder = dataclasses.replace(params.encoder, width=trial.width)
    return dataclasses.replace(params, train=train, augment=RECIPE, encoder=encoder)


def steps(trial: Trial, pictures: Pictures) -> Steps:
    """The steps of a trial, one training after another from the same weights."""
    torch.set_num_threads(trial.setting.threads)
    if trial.side == "lightly":
        return lightly_steps(trial, pictures)
    return (our_steps if trial.side == "ours" else bare_steps)(our_trainer(trial, pictures.array))


def lightly_steps(trial: Trial, pictures: Pictures) -> Steps:
    """lightly's training loop: JPEG files, Pillow in two loader processes, autocast for bf16."""
    params = parameters(trial)
    encoder = build(params.encoder, 3, SIZE, seed=0)
    peer = recipe(trial.method, encoder, encoder.dim, SIZE, params)
    dataset = ImageFolder(pictures.files.root, peer.transform)
    updates = optimizer(peer.model, params)
    loader = DataLoader(
        Subset(dataset, pictures.chosen),
        trial.batch,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    while True:
        for views, _ in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=trial.setting.precision == "bf16"):
                loss = peer.loss(views)
            loss.backward()
            peer.before_update()
            updates.step()
            updates.zero_grad()
            yield len(views[0])


class _Pause(Exception):
    """Stops the trainer between two steps."""


def our_trainer(trial: Trial, array: np.ndarray) -> Trainer:
    """This project's loop on the decoded images."""
    params = parameters(trial)
    encoder = build(params.encoder, 3, SIZE, seed=0)
    method = load_class(trial.method)(encoder, params.config, params.augment, DataInfo(len(array), SIZE, 3, MEAN, STD))
    return Trainer(method, Images(array, CPU), params.train, seed=0)


def our_steps(trainer: Trainer) -> Steps:
    """One step of the loop at a time, the looks at the encoder's health included."""

    def pause(_: Position) -> None:
        raise _Pause

    while True:
        with contextlib.suppress(_Pause):
            trainer.run(on_step=pause)
        yield trainer.config.batch_size


def bare_steps(trainer: Trainer) -> Steps:
    """The same step on views made beforehand: what is left is forward, backward and optimizer."""
    ids = torch.arange(trainer.config.batch_size)
    batch = Batch(trainer.method.views(trainer.images.batch(ids), Rng(ids, 0)), ids, 0.5)
    assert trainer.optimizer is not None
    while True:
        with trainer.autocast():
            loss = trainer.method.loss(batch)["loss"]
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trainer.optimizer.step()
        yield len(ids)


def main() -> None:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=Path, help="folder with train/<class>/*.jpg")
    parser.add_argument("--subset", type=int, required=True)
    options = parser.parse_args()
    keep_freed_memory()  # for all: our stages do so
    pictures = read_pictures(options.images, options.subset)
    for line in sys.stdin:
        asked = json.loads(line)
        trial = Trial(**asked["trial"] | {"setting": Setting(**asked["trial"]["setting"])})
        print(json.dumps({"rate": rate(steps(trial, pictures), asked["seconds"], WARMUP)}), flush=True)


if __name__ == "__main__":
    main()
