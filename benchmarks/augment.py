"""Two SimCLR views of each image: this project's batched recipe against the usual data loaders.

Everybody draws per image and interpolates with antialiasing. The peers draw the order of the four color operations per
image; here it is fixed. The peers' images are decoded and in memory already, which favors them.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from benchmarks.images import pictures, synthetic
from benchmarks.measure import HEADER, Contender, Steps, interleave, rate
from ssl_core.engine.augment import AugmentConfig, view
from ssl_core.rng import Rng
from tasks.runtime import params

IMAGES, BATCH, WORKERS = 2048, 256, 2
WARMUP = 5
"""Steps that are not timed: they drain what two loader processes have prepared in advance."""
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
SHIPPED = params.typed(AugmentConfig, params.load()["augment"], "augment")
RECIPE = replace(SHIPPED, view_share=1.0, crop_scale=(0.08, 1.0), blur=0.0, solarize=0.0)


def recipe_of(library: Any, size: int, last: list[Any]) -> Any:
    """The same recipe made of ``torchvision.transforms`` or ``torchvision.transforms.v2``."""
    jitter = library.ColorJitter(RECIPE.brightness, RECIPE.contrast, RECIPE.saturation, RECIPE.hue)
    return library.Compose(
        [
            library.RandomResizedCrop(size, scale=RECIPE.crop_scale, antialias=True),
            library.RandomHorizontalFlip(RECIPE.flip),
            library.RandomApply([jitter], p=RECIPE.jitter),
            library.RandomGrayscale(RECIPE.grayscale),
            *last,
            library.Normalize(MEAN, STD),
        ]
    )


class TwoViews(Dataset[tuple[Tensor, Tensor]]):
    """Two draws of ``transform`` of each item."""

    def __init__(self, items: Any, transform: Any):
        self.items, self.transform = items, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        item = self.items[index]
        return self.transform(item), self.transform(item)


def loader_steps(dataset: TwoViews) -> Steps:
    """The loader alone: batches are taken as fast as the worker processes make them."""
    loader = DataLoader(dataset, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True)
    while True:
        for first, _ in loader:
            yield len(first)


def our_steps(images: Tensor) -> Steps:
    """Batches in this process, on all its threads."""
    step = 0
    while True:
        ids = torch.randperm(len(images))[:BATCH]
        rng, batch = Rng(ids, 0, step), images[ids]
        views = [view(batch, rng, RECIPE, MEAN, STD) for _ in range(2)]
        step += 1
        yield len(views[0])


def run(options: argparse.Namespace) -> tuple[list[str], bool]:
    """Lines of Markdown, and whether the floors were held."""
    torch.set_num_threads(options.threads)
    size = options.size
    array = synthetic(IMAGES, size)
    images = torch.from_numpy(array)
    pil = TwoViews(pictures(array), recipe_of(v1, size, [v1.ToTensor()]))
    tensors = TwoViews(images, recipe_of(v2, size, [v2.ToDtype(torch.float32, scale=True)]))
    peers = [
        Contender(f"PIL + torchvision transforms, {WORKERS} workers", lambda s: rate(loader_steps(pil), s, WARMUP)),
        Contender(f"torchvision v2 on tensors, {WORKERS} workers", lambda s: rate(loader_steps(tensors), s, WARMUP)),
    ]
    floors = {peers[0].name: 4.0, peers[1].name: 8.0}
    ours = Contender("ours, eager, no worker", lambda s: rate(our_steps(images), s, WARMUP), floors)
    rows, held = interleave(f"two views, {size} px", [ours, *peers], options.rounds, options.seconds)
    return [*HEADER, *rows], held
