"""What the processes of one training send each other: ``python -m benchmarks.collectives [PRESET] [--processes W]``.

One process takes a step of each method as one of W, in a process group of torch's that sends nothing; what it hands to each
collective operation is counted. Gradients are counted as the trained parameters, in float32, which is what
DistributedDataParallel reduces. The numbers hold for any device: they follow from shapes.
"""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.augment import MEAN, STD
from benchmarks.images import synthetic
from ssl_core.catalogue import METHODS, load_class
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import build
from ssl_core.engine.method import DataInfo
from ssl_core.engine.train import NonFinite, Trainer
from tasks.preset import PRESETS, merge
from tasks.runtime import params

LOCAL = 2
"""Images of a process in a step; what is gathered grows with them, gradients and statistics do not."""


class Counted:
    """Bytes that this process hands in while it is installed, by whether they are rows of the batch or a fixed number."""

    def __init__(self) -> None:
        self.images = self.vectors = self.fixed = 0

    def all_gather(self, out: list[Tensor], x: Tensor) -> None:
        """As if all had brought the same."""
        for other in out:
            other.copy_(x)
        if x.ndim == 4 and x.shape[1] == 3:
            self.images += x.nbytes
        elif len(x) == 1:
            self.fixed += x.nbytes  # statistics of BatchNorm
        else:
            self.vectors += x.nbytes

    def all_reduce(self, x: Tensor, op: Any = None) -> None:
        """As if the others had brought zeros."""
        self.fixed += x.nbytes


def row(values: Mapping[str, Any], name: str, processes: int, array: Any) -> str:
    """A line of the table."""
    chosen = params.method_params(values, name)
    size = array.shape[-1]
    train = dataclasses.replace(chosen.train, batch_size=LOCAL * processes, health_images=LOCAL, precision="float32")
    data = DataInfo(num_images=1 << 20, image_size=size, channels=3, mean=MEAN, std=STD)
    method = load_class(name)(build(chosen.encoder, 3, size, 0), chosen.config, chosen.augment, data)
    trainer = Trainer(method, Images(array, torch.device("cpu")), train, seed=0)
    trainer.forward = method.loss  # DistributedDataParallel would reduce gradients, which are counted below
    counted = Counted()
    dist.all_gather, dist.all_reduce = counted.all_gather, counted.all_reduce  # type: ignore[assignment]
    ids = torch.arange(LOCAL)
    with contextlib.suppress(NonFinite):  # equal rows are no data, and the step has sent all by then
        trainer._train_step(ids, trainer.images.batch(ids), 0)
    gradients = sum(4 * p.numel() for p in method.parameters() if p.requires_grad)
    cells = (
        name,
        *(f"{n / 1e6:.3g}" for n in (gradients, counted.fixed)),
        *(f"{n / LOCAL / 1e3:.3g}" for n in (counted.vectors, counted.images)),
    )
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Count, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collectives", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("preset", nargs="?", default="imagenet-resnet50")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument(
        "--side", type=int, help="of the images, instead of the preset's: changes the last column alone, and is faster"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: those of the preset")
    options = parser.parse_args()
    values = params.load()
    merge(values, params.read(PRESETS / f"{options.preset}.yaml"))
    names = options.methods or params.run_config(values).learned
    dist.init_process_group("fake", rank=0, world_size=options.processes, store=FakeStore())
    array = synthetic(LOCAL * options.processes, options.side or int(values["data"]["image_size"]))
    print("| method | gradients, MB a step | statistics, MB a step | vectors, KB an image | images, KB an image |")
    print("|---|--:|--:|--:|--:|")
    for name in names:
        print(row(values, name, options.processes, array), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
