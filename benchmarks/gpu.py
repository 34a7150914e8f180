"""What a GPU makes of the training: ``python -m benchmarks.gpu``, at most 8 minutes, one JSON file and one table.

It needs this folder, ``ssl_core``, ``tasks``, ``presets`` and ``params.yaml``, and of packages torch, torchvision, numpy,
safetensors and PyYAML alone. ``--device cpu --small`` is the same in miniature, to see that it works.

A real step makes its views; a synthetic one gets them ready-made, so the quotient is what the views cost. Floating-point
operations are counted by torch, multiplications and additions each, and compared with a measured matrix product.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses to be deterministic; read at its start

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssl_core.catalogue import METHODS, load_class
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import build
from ssl_core.engine.features import frozen
from ssl_core.engine.method import Batch, DataInfo
from ssl_core.engine.train import Position, Trainer
from ssl_core.evaluation.knn import knn
from ssl_core.rng import Rng
from tasks.preset import PRESETS, merge
from tasks.runtime import dataset, params

WARMUP = 5
STEPS = (
    ("ResNet-18", "cifar10-resnet18-200ep", {"name": "resnet18"}, 32, (512, 1024)),
    ("ResNet-50", "imagenet-resnet50", {"name": "resnet50"}, 224, (256,)),
    ("ViT-S", "imagenet-vit-small", {"name": "vit", "width": 384, "depth": 12, "patch_size": 16}, 224, (256,)),
    ("ViT-B", "imagenet-vit-small", {"name": "vit", "width": 768, "depth": 12, "patch_size": 16}, 224, (256,)),
)
"""Name, preset, encoder, side of the images, images a step."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    part: str
    what: str
    value: float
    unit: str


@dataclass(frozen=True)
class Run:
    """What the parts share."""

    device: torch.device
    small: bool
    data: Path
    until: float
    """When all must be over, on ``time.monotonic``'s clock."""

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    def wait(self) -> float:
        """The time, once the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, work: Callable[[], object], repeats: int) -> float:
        """Of one ``work``: the mean of ``repeats``, after a first one that does not count."""
        work()
        start = self.wait()
        for _ in range(repeats):
            work()
        return (self.wait() - start) / repeats


class _Enough(Exception):
    """Ends a training between two steps."""


def make(run: Run, array: np.ndarray, name: str, preset: str | None, change: dict[str, Any]) -> Trainer:
    """A trainer of method ``name`` on ``array`` (N, C, S, S), by params.yaml, the preset, and ``change`` last of all."""
    values = params.load()
    if preset:
        merge(values, params.read(PRESETS / f"{preset}.yaml"))
    own = values["method"][name]
    for section, numbers in change.items():
        own[section] = own.get(section, {}) | numbers
    chosen = params.method_params(values, name)
    channels, side = array.shape[1:3]
    info = DataInfo(len(array), side, channels, (0.5,) * channels, (0.25,) * channels, None, 10)
    torch.manual_seed(0)
    method = load_class(name)(build(chosen.encoder, channels, side, seed=0), chosen.config, chosen.augment, info)
    return Trainer(method, Images(array, run.device), chosen.train, seed=0)


def noise(count: int, side: int) -> np.ndarray:
    """(count, 3, side, side) uint8; what is on the images costs no time."""
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), np.uint8)


def step_seconds(run: Run, trainer: Trainer, steps: int) -> float:
    """Of one step of the training loop, with all that belongs to it."""
    marks: list[float] = []

    def look(position: Position) -> None:
        if position.step in (WARMUP, WARMUP + steps):
            marks.append(run.wait())
        if len(marks) == 2:
            raise _Enough

    try:
        trainer.run(on_step=look)
    except _Enough:
        return (marks[1] - marks[0]) / steps
    raise ValueError(f"the training has only {trainer.steps} steps")


def synthetic(trainer: Trainer) -> Batch:
    """From now on the trainer gets the same ready-made views at every step; returns them."""
    ids = torch.arange(trainer.config.batch_size, device=trainer.device)
    with torch.no_grad():
        views = trainer.method.views(trainer.images.batch(ids), Rng(ids, 0))
    trainer.method.views = lambda images, rng: views  # type: ignore[method-assign]
    return Batch(views, ids, 0.5)


def product_rate(run: Run) -> float:
    """Floating-point operations a second of a bfloat16 matrix product: the ceiling."""
    n = 256 if run.small else 8192
    a, b = (torch.randn(n, n, device=run.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / run.seconds(lambda: a @ b, 3 if run.small else 50)


def ceilings(run: Run) -> Iterator[Row]:
    """The matrix product, and a copy in memory (bytes read and written)."""
    yield Row("ceilings", "bfloat16 product", product_rate(run) / 1e12, "TFLOP/s")
    source = torch.ones(1 << (20 if run.small else 30), dtype=torch.uint8, device=run.device)
    target = torch.empty_like(source)
    yield Row("ceilings", "copy", 2 * len(source) / run.seconds(lambda: target.copy_(source), 5) / 1e9, "GB/s")


def steps(run: Run) -> Iterator[Row]:
    """SimCLR's step by encoder: real, synthetic, and its share of the ceiling."""
    ceiling, count = product_rate(run), 2 if run.small else 30
    for name, preset, encoder, side, batches in STEPS[:1] if run.small else STEPS:
        for batch in (32,) if run.small else batches:
            own = {"name": "small", "width": 8} if run.small else encoder
            change = {"encoder": own, "train": {"batch_size": batch, "epochs": 1, "health_images": 32}}
            array = noise(batch * (WARMUP + count + 1), side)
            real = step_seconds(run, make(run, array, "simclr", preset, change), count)
            trainer = make(run, array, "simclr", preset, change)
            fixed = synthetic(trainer)
            bare = step_seconds(run, trainer, count)
            trainer.method.train()
            with FlopCounterMode(display=False) as counter, trainer.autocast():
                trainer.method.loss(fixed)["loss"].backward()
            label = f"{name}, {side} px, batch {batch}"
            yield Row("steps", f"{label}: real", batch / real, "images/s")
            yield Row("steps", f"{label}: real by synthetic step", real / bare, "x")
            yield Row("steps", f"{label}: share of the bfloat16 ceiling", 100 * counter.get_total_flops() / real / ceiling, "%")


def methods(run: Run) -> Iterator[Row]:
    """A step of each method, ResNet-18 at 32 px; of those that need a ViT, their own."""
    batch, count = (16, 1) if run.small else (256, 10)
    array = noise(max(batch * (WARMUP + count + 1), 1024), 32)
    for name in ("rotation",) if run.small else METHODS:
        train = {"batch_size": batch, "epochs": 1, "epoch_share": 1.0, "health_images": 32}
        change: dict[str, Any] = {"train": train}
        if name != "mae":
            change["encoder"] = {"name": "small", "width": 8} if run.small else {"name": "resnet18"}
        trainer = make(run, array, name, None if run.small else "cifar10-resnet18-200ep", change)
        yield Row("methods", name, 1e3 * step_seconds(run, trainer, count), "ms a step")


def cifar(run: Run) -> Iterator[Row]:
    """SimCLR on the prepared images, as many epochs as half of the time left allows, to kNN and its score."""
    if not run.data.is_dir():
        print(
            f"cifar is left out: there are no prepared images in {run.data} (make run prepares them; --data)", file=sys.stderr
        )
        return
    data = dataset.load(run.data)
    batch = 32 if run.small else 512
    change: dict[str, Any] = {"train": {"batch_size": batch, "epochs": 1, "health_images": 64}}
    if run.small:
        change["encoder"] = {"name": "small", "width": 8}
    preset = "cifar10-resnet18-200ep"
    seconds = step_seconds(run, make(run, data.train_images, "simclr", preset, change), 2 if run.small else 40)
    epochs = 1 if run.small else max(1, int(run.left() / 2 / seconds / (len(data.train_images) // batch)))
    change["train"]["epochs"] = epochs
    trainer, start = make(run, data.train_images, "simclr", preset, change), run.wait()
    trainer.run()
    trained = run.wait()
    features = trainer.embed(trainer.method.exported)
    batches = (
        trainer.method.normalize(torch.from_numpy(np.array(x)).to(run.device)) for _, x in dataset.blocks(data.test_images)
    )
    (test,) = frozen(trainer.method.exported, batches, trainer.precision)
    labels, truth = (torch.from_numpy(np.array(x)).to(run.device) for x in (data.train_labels, data.test_labels))
    k = min(200, len(labels) // 2)
    found = knn(features, labels, test, [k], [0.1], len(data.meta["classes"]))[k, 0.1]
    yield Row("cifar", f"{data.meta['name']}, {epochs} epochs: training", trained - start, "s")
    yield Row("cifar", "evaluation", run.wait() - trained, "s")
    yield Row("cifar", "kNN", 100 * float((found == truth).float().mean()), "%")


def neighbors(run: Run) -> Iterator[Row]:
    """kNN of ImageNet's size: 1,281,167 training and 50,000 test images of 1,000 classes, 768 numbers each."""
    n, queries, width, classes = (2000, 100, 16, 10) if run.small else (1_281_167, 50_000, 768, 1000)
    train, test = (torch.randn(size, width, device=run.device) for size in (n, queries))
    labels = torch.arange(n, device=run.device) % classes
    start = run.wait()
    knn(train, labels, test, [20], [0.07], classes)
    yield Row("neighbors", f"{queries} queries, {n} x {width}", run.wait() - start, "s")


def resume(run: Run) -> Iterator[Row]:
    """Whether a training that is stopped and goes on ends with the same bits, in deterministic mode."""
    own: dict[str, Any] = {"train": {"mode": "deterministic", "batch_size": 32, "epochs": 1, "health_images": 32}}
    own["encoder"] = {"name": "small", "width": 8} if run.small else {"name": "resnet18"}
    array = noise(32 * 6, 32)
    whole, first, second = (make(run, array, "simclr", None, own) for _ in range(3))

    def stop(position: Position) -> None:
        if position.step == 3:
            raise _Enough

    whole.run()
    try:
        first.run(on_step=stop)
    except _Enough:
        second.load(first.tensors(), first.scalars())
    second.run()
    ends = whole.tensors(), second.tensors()
    same = ends[0].keys() == ends[1].keys() and all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    yield Row("resume", "same bits", float(same), "of 1")


PARTS: dict[str, Callable[[Run], Iterator[Row]]] = {
    part.__name__: part for part in (ceilings, steps, methods, resume, neighbors, cifar)
}


def machine(device: torch.device) -> dict[str, str]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "cuda": str(torch.version.cuda), "python": platform.python_version()}


def main() -> int:
    """Measure, write, print. Exit code 1 if a training did not resume with its bits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a miniature of seconds")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part begins after them; the last part fits into them")
    parser.add_argument("--data", type=Path, default=dataset.PREPARED, help="prepared images of the part cifar")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU; --device cpu --small shows that it works")
    if options.small:
        torch.set_num_threads(1)
    run = Run(device, options.small, options.data, time.monotonic() + 60 * options.minutes)
    rows: list[Row] = []
    for name in options.only:
        if run.left() <= 0:
            print(f"{name} is left out: the {options.minutes:g} minutes are over", file=sys.stderr)
            continue
        for row in PARTS[name](run):
            rows.append(row)
            facts = machine(device) | {"rows": [asdict(each) for each in rows]}
            options.out.write_text(json.dumps(facts, indent=1) + "\n")  # after each: what ends early leaves what it has
            print(f"  {row.part}: {row.what} {row.value:.4g} {row.unit}", file=sys.stderr, flush=True)
    print(", ".join(f"{key} {value}" for key, value in machine(device).items()))
    print("\n| part | what | measured | |\n|---|---|--:|---|")
    print("\n".join(f"| {row.part} | {row.what} | {row.value:.4g} | {row.unit} |" for row in rows))
    return int(any(row.part == "resume" and row.value != 1 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
