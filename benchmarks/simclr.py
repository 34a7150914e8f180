"""SimCLR end to end, from JPEG files to the optimizer step: this project against lightly's own recipe.

The recipe is the one of lightly's documentation: ImageFolder, SimCLRTransform, a DataLoader with two workers, its
projection head, its NTXentLoss, SGD, float32; and the same under bf16 autocast; each with one thread and with all.
Everybody starts from the same encoder weights, with the same images, batch, views per image and widths. Ours reads the
uint8 array that ``prepare`` makes of the files once; how long that took is printed. Its rate includes the label-free
indicators it computes every epoch.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder

from benchmarks.augment import MEAN, RECIPE, STD, WORKERS
from benchmarks.images import write_jpegs
from benchmarks.measure import Contender, Steps, interleave
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import Encoder, build
from ssl_core.engine.method import Batch, DataInfo
from ssl_core.engine.train import Position, Trainer, bf16_is_fast
from ssl_core.methods.simclr import SimCLR
from ssl_core.rng import Rng
from tasks.preset import PRESETS, merge
from tasks.runtime.params import MethodParams, load, method_params, read

SIZE, BATCH, SYNTHETIC = 32, 256, 4096
PRESET = PRESETS / "evidence.yaml"
FLOOR = 2.0
"""How many times as fast as the recipe at each of its settings, the best one among them."""
CPU = torch.device("cpu")


def parameters(precision: str) -> MethodParams:
    """SimCLR as in params.yaml with CIFAR-10's small encoder, at the batch and the augmentation that both sides use here."""
    values = load()
    merge(values["encoder"], read(PRESET)["encoder"])
    params = method_params(values, "simclr")
    # The indicators look at a fixed number of images an epoch: a quarter as many for a subset instead of all of CIFAR-10.
    train = dataclasses.replace(params.train, batch_size=BATCH, precision=precision, epochs=1_000_000, health_images=256)
    return dataclasses.replace(params, train=train, augment=RECIPE)


def recipe_steps(dataset: Subset, encoder: Encoder, params: MethodParams, bf16: bool, threads: int) -> Steps:
    """lightly's training loop."""
    torch.set_num_threads(threads)
    encoder = copy.deepcopy(encoder)
    head = SimCLRProjectionHead(encoder.dim, params.config.hidden, params.config.dim)
    criterion = NTXentLoss(temperature=params.config.temperature)
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(weights, lr=params.train.lr, momentum=0.9, weight_decay=params.train.weight_decay)
    loader = DataLoader(dataset, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True)
    while True:
        for (x0, x1), _ in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = criterion(head(encoder(x0)), head(encoder(x1)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield len(x0)


class _Pause(Exception):
    """Stops the trainer between two steps."""


def our_trainer(array: np.ndarray, encoder: Encoder, precision: str) -> Trainer:
    """This project's loop on the decoded images."""
    params = parameters(precision)
    data = DataInfo(len(array), SIZE, 3, MEAN, STD)
    method = SimCLR(copy.deepcopy(encoder), params.config, params.augment, data)
    return Trainer(method, Images(array, CPU), params.train, seed=0)


def our_steps(trainer: Trainer, threads: int) -> Steps:
    """One step of the loop at a time."""
    torch.set_num_threads(threads)

    def pause(_: Position) -> None:
        raise _Pause

    while True:
        with contextlib.suppress(_Pause):
            trainer.run(on_step=pause)
        yield BATCH


def bare_steps(trainer: Trainer, threads: int) -> Steps:
    """The same step on views made beforehand: what is left is forward, backward and optimizer."""
    torch.set_num_threads(threads)
    ids = torch.arange(BATCH)
    batch = Batch(trainer.method.views(trainer.images.batch(ids), Rng(ids, 0)), ids, 0.5)
    assert trainer.optimizer is not None
    while True:
        with trainer.autocast():
            loss = trainer.method.loss(batch)["loss"]
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trainer.optimizer.step()
        yield BATCH


def decode(dataset: ImageFolder, indices: list[int]) -> np.ndarray:
    """(N, 3, SIZE, SIZE) uint8 of the chosen files."""
    start = time.perf_counter()
    files = [Image.open(dataset.samples[i][0]).convert("RGB").resize((SIZE, SIZE)) for i in indices]
    array = np.stack([np.asarray(file).transpose(2, 0, 1) for file in files])
    print(f"  {len(files)} files decoded once in {time.perf_counter() - start:.1f} s")
    return np.ascontiguousarray(array)


def run(options: argparse.Namespace) -> tuple[list[str], bool]:
    """Rows of the table, and whether the floors were held."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        if options.images is None:
            write_jpegs(Path(scratch), SYNTHETIC, SIZE)
        return compare(options.images or Path(scratch), options)


def compare(folder: Path, options: argparse.Namespace) -> tuple[list[str], bool]:
    """All contenders on the files of one folder."""
    strength = {"cj_strength": 0.5, "min_scale": RECIPE.crop_scale[0], "gaussian_blur": 0.0}
    transform = SimCLRTransform(input_size=SIZE, normalize={"mean": list(MEAN), "std": list(STD)}, **strength)
    dataset = ImageFolder(str(folder / "train"), transform)
    indices = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[: options.subset].tolist()
    array, subset = decode(dataset, indices), Subset(dataset, indices)
    params = parameters("float32")
    encoder = build(params.encoder, 3, SIZE, seed=0)
    fast = "bf16" if bf16_is_fast(CPU) else "float32"
    peers = []
    for precision, threads in itertools.product(
        ("float32", "bf16"), sorted({1, options.threads})
    ):  # the loaders have cores, too
        trial = functools.partial(recipe_steps, subset, encoder, params, precision == "bf16", threads)
        peers.append(Contender(f"lightly's recipe, {precision}, threads: {threads}", trial))
    trainers = {precision: our_trainer(array, encoder, precision) for precision in {fast, "float32"}}
    equal = {peer.name: None for peer in peers if "float32" in peer.name}
    ours = [
        Contender(f"ours, {fast}", lambda: our_steps(trainers[fast], options.threads), {peer.name: FLOOR for peer in peers}),
        Contender("ours, float32, equal precision", lambda: our_steps(trainers["float32"], options.threads), equal),
    ]
    bare = Contender(f"our step alone, {fast}", lambda: bare_steps(trainers[fast], options.threads), {ours[0].name: None})
    source = "synthetic JPEGs" if options.images is None else folder.name
    title = f"SimCLR end to end, {source}, {params.encoder.name} encoder of width {params.encoder.width}"
    return interleave(title, [*ours, bare, *peers], options.rounds, options.seconds)
