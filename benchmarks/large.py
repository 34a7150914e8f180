"""Large data and large images: ``python -m benchmarks.large``.

``prepare``: many small JPEG files through the stage; its speed and memory. ``disk``: training on an array that is not in
memory, beside the same array in memory; before each trial the system is told to forget the file, so every batch comes from
the disk as it does from a file larger than the memory. ``evaluation``: kNN and the linear probe on many wide features, time and
memory. ``views``: the share of a training step at 224 px that the views take. Exit code 1 when a limit is missed.
"""

import argparse
import dataclasses
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.augment import MEAN, RECIPE, STD, WARMUP
from benchmarks.evaluate import CLASSES, TEMPERATURE, K, features
from benchmarks.images import pictures, synthetic
from benchmarks.measure import machine
from benchmarks.overhead import clone
from benchmarks.trials import CPU, Setting, Trial, our_trainer
from ssl_core.catalogue import load_class
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import EncoderConfig, build
from ssl_core.engine.method import DataInfo
from ssl_core.engine.train import Position, Trainer
from ssl_core.evaluation.knn import knn
from ssl_core.evaluation.probe import linear_probe
from ssl_core.rng import Rng
from tasks.dvc import graph
from tasks.preset import NONE
from tasks.runtime import dataset, settings
from tasks.runtime.heap import keep_freed_memory

SAMPLE_SECONDS = 0.2
SETTING = Setting("bf16", 1, "sleep", "small")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: str
    limit: str = ""
    held: bool = True


# ---------------------------------------------------------------------- prepare


def write_files(folder: Path, first: int, count: int, size: int) -> None:
    """``count`` JPEG files, a thousand a folder."""
    for number, picture in enumerate(pictures(synthetic(count, size, seed=first)), first):
        path = folder / f"class{number % 10}" / f"{number // 1000:05}" / f"{number:08}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)


def prepare(options: argparse.Namespace) -> Iterator[Row]:
    """The stage on many files, in a clone."""
    project = clone("large", NONE)
    folder, step = project / "files", 1000
    starts = range(0, options.files, step)
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(write_files, *zip(*((folder, start, step, options.side) for start in starts), strict=True)):
            pass
    graph.override(project, ["data.source=folder", "data.path=files", f"data.image_size={options.side}"])
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "tasks.prepare"], cwd=project, stdout=subprocess.DEVNULL)
    own, all_of_them = memory(process)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError("tasks.prepare failed; its message is above")
    stored = (project / "data/prepared/train_images.npy").stat().st_size / 1e6
    shutil.rmtree(project)
    what = f"prepare: {options.files:,} JPEG files of {options.side} px"
    yield Row(f"{what}: time", f"{seconds:.0f} s, {options.files / seconds:,.0f} files a second")
    yield Row(
        f"{what}: memory of its process, without the {stored:.0f} MB of the mapped output",
        f"{own:.0f} MB",
        "400 MB",
        own <= 400,
    )
    yield Row(f"{what}: memory with the processes that decode", f"{all_of_them:.0f} MB")


def memory(process: "subprocess.Popen[bytes]") -> tuple[float, float]:
    """Peaks in MB until it ends, of what is no mapped file: of the process, and of it and its children together."""
    own = together = 0.0
    while process.poll() is None:
        time.sleep(SAMPLE_SECONDS)
        try:
            watched = psutil.Process(process.pid)
            sizes = [private(each) for each in (watched, *watched.children(recursive=True))]
        except psutil.NoSuchProcess:
            continue
        own, together = max(own, sizes[0]), max(together, sum(sizes))
    return own, together


def private(process: psutil.Process) -> float:
    """MB of a process that no file stands behind."""
    found = process.memory_info()
    return float(found.rss - found.shared) / 1e6


# ---------------------------------------------------------------------- disk


def disk(options: argparse.Namespace) -> Iterator[Row]:
    """The loop of training on a file that is not in memory."""
    torch.set_num_threads(1)
    count = int(options.gigabytes * 1e9 / 3072)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "images.npy"
        stored = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, 32, 32))
        block = synthetic(4096, 32)
        for start in range(0, count, len(block)):
            stored[start : start + len(block)] = block[: count - start]
        stored.flush()
        del stored
        rates: dict[str, list[float]] = {"in memory": [], "from the disk": []}
        for _ in range(options.rounds):
            rates["in memory"].append(trained(block, options))
            forget(path)
            mapped = np.load(path, mmap_mode="r")
            rates["from the disk"].append(trained(mapped, options, dataset.at_random(mapped)))
    ratio = statistics.median(cold / warm for warm, cold in zip(*rates.values(), strict=True))
    for name, found in rates.items():
        yield Row(f"SimCLR, width 16, {options.gigabytes:g} GB {name}", f"{statistics.median(found):.0f} images/s")
    yield Row("the one against the other", f"{ratio:.1%}", "95%", ratio >= 0.95)


class _Over(Exception):
    """Ends a trial."""


def trained(array: np.ndarray, options: argparse.Namespace, announce: Callable[[np.ndarray], None] | None = None) -> float:
    """Images a second of our loop on an array, from its sixth step on; the looks at the encoder are left out."""
    trainer = our_trainer(Trial("ours", "simclr", 16, 256, SETTING), array)
    trainer.config = dataclasses.replace(trainer.config, health_images=2)
    if announce is not None:
        trainer.images = Images(array, CPU, announce)
    times: list[float] = []

    def on_step(position: Position) -> None:
        times.append(time.perf_counter())
        if len(times) > WARMUP and times[-1] - times[WARMUP - 1] > options.seconds:
            raise _Over

    with suppress(_Over):
        trainer.run(on_step)
    return 256 * (len(times) - WARMUP) / (times[-1] - times[WARMUP - 1])


def forget(path: Path) -> None:
    """Let the system drop what it holds of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---------------------------------------------------------------------- evaluation


def evaluation(options: argparse.Namespace) -> Iterator[Row]:
    """kNN of 2,000 queries and one search of strengths, on ``--features`` rows of 512; memory above that of the features."""
    torch.set_num_threads(os.cpu_count() or 1)
    (x, y), (q, _) = features(options.features, 512, 1), features(2_000, 512, 2)
    strengths = torch.logspace(-5, 0, 11, dtype=torch.float64)
    jobs = {
        "kNN, 2,000 queries": lambda: knn(x, y, q, (K,), (TEMPERATURE,), CLASSES),
        "linear probe, 11 strengths": lambda: linear_probe(x[None], y[None], strengths[None], CLASSES),
    }
    for name, job in jobs.items():
        before, started = peak(), time.perf_counter()
        job()
        seconds = time.perf_counter() - started
        title = f"{name}, {options.features:,} x 512 ({x.nbytes / 1e6:.0f} MB)"
        yield Row(title, f"{seconds:.1f} s, {max(0.0, peak() - before):.0f} MB more than before")


def peak() -> float:
    """Largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


# ---------------------------------------------------------------------- views


def views(options: argparse.Namespace) -> Iterator[Row]:
    """Processor time of the views in a step of SimCLR at 224 px, two views of each image."""
    torch.set_num_threads(1)
    small = {"width": 384, "depth": 12, "patch_size": 16, "norm": "batch"}
    images = torch.from_numpy(synthetic(options.batch, 224)).numpy()
    for title, name in (("ResNet-18", "resnet18"), ("ViT-S", "vit")):
        trainer = our_trainer(Trial("ours", "simclr", 16, options.batch, SETTING), images)
        encoder = build(EncoderConfig(name=name, **small), 3, 224, seed=0)
        data = DataInfo(len(images), 224, 3, MEAN, STD)
        method = load_class("simclr")(encoder, trainer.method.config, RECIPE, data)
        trainer = Trainer(method, Images(images, CPU), dataclasses.replace(trainer.config, epochs=10), seed=0)
        ids = torch.arange(options.batch)
        looked, whole = [], []
        for step in range(options.steps + 1):
            started = time.process_time()
            trainer.method.views(trainer.images.batch(ids), Rng(ids, 0, step))
            middle = time.process_time()
            trainer._train_step(ids, trainer.images.batch(ids), 0)
            looked.append(middle - started)
            whole.append(time.process_time() - middle)
        share = statistics.median(looked[1:]) / statistics.median(whole[1:])
        yield Row(
            f"{title} at 224 px, batch {options.batch}: views",
            f"{share:.1%} of {statistics.median(whole[1:]):.1f} s",
            "5%",
            share <= 0.05,
        )


def main() -> int:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=(__doc__ or "").partition("\n")[0])
    known = {"prepare": prepare, "disk": disk, "evaluation": evaluation, "views": views}
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(known)}; default all")
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--side", type=int, default=28, help="of the files' images, in pixels")
    parser.add_argument("--gigabytes", type=float, default=3.0, help="of the file to train on; more than the memory tells most")
    parser.add_argument("--features", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=64, help="images of 224 px in a step")
    parser.add_argument("--steps", type=int, default=3, help="of 224 px")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a trial of training")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(known):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    settings.apply()
    keep_freed_memory()
    rows = [row for part in options.parts or known for row in known[part](options)]
    lines = [f"| {row.what} | {row.value} | {row.limit} |" for row in rows]
    print("\n".join([*machine(), "", "| what | measured | limit |", "|---|--:|--:|", *lines]))
    return int(not all(row.held for row in rows))


if __name__ == "__main__":
    sys.exit(main())
