"""Training end to end, from JPEG files to the optimizer's step: this project against lightly's own recipes.

The recipes are those of lightly's documentation (``benchmarks.recipes``): ImageFolder, its transforms, a DataLoader with two
workers, its heads and losses. Everybody starts from the same encoder, with the same images, batch, views, widths, optimizer
and color changes. Ours reads the uint8 array that ``prepare`` makes of the files once. Its rate includes the label-free
indicators it computes every epoch, and for MoCo the statistics of parts of the batch, which lightly's recipe leaves out.

Each side is measured at its best setting. The first method tries all: float32 or bf16, one thread or all, threads that sleep
or spin while they wait, memory in huge pages or not. The others try precisions and threads, with its choice of the rest.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.images import write_jpegs
from benchmarks.measure import HEADER, Contender, interleave, say
from benchmarks.trials import SIZE, Setting, Trial
from ssl_core.engine.train import bf16_is_fast

SYNTHETIC = 4096
FLOORS = {("simclr", 16): 2.5, ("simclr", 24): 2.0, ("byol", 16): 2.0, ("moco", 16): 2.0, ("dino", 16): 2.0}
"""By method and width: how many times as fast as lightly, each side at its best setting."""
WAITS, PAGES = {"sleep": "passive", "spin": "active"}, {"small": "0", "huge": "1"}
SEARCH_SHARE = 0.5
"""Of a trial's time, for one that only helps to choose."""


class Bench:
    """A process for each way to wait and each kind of pages; a process that has no turn is stopped, its threads too."""

    def __init__(self, images: Path, subset: int):
        self._command = [sys.executable, "-m", "benchmarks.trials", str(images), "--subset", str(subset)]
        self._processes: dict[tuple[str, str], subprocess.Popen[str]] = {}

    def measure(self, trial: Trial, seconds: float) -> float:
        """Images per second."""
        process = self._process(trial.setting.wait, trial.setting.pages)
        assert process.stdin is not None and process.stdout is not None
        process.send_signal(signal.SIGCONT)
        process.stdin.write(json.dumps({"trial": asdict(trial), "seconds": seconds}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{trial} failed; its message is above")
        process.send_signal(signal.SIGSTOP)
        return float(json.loads(answer)["rate"])

    def _process(self, wait: str, pages: str) -> "subprocess.Popen[str]":
        if (wait, pages) not in self._processes:
            tunables = f"glibc.malloc.hugetlb={PAGES[pages]}"
            env = os.environ | {"OMP_WAIT_POLICY": WAITS[wait], "GLIBC_TUNABLES": tunables}
            self._processes[wait, pages] = subprocess.Popen(
                self._command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        return self._processes[wait, pages]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            process.kill()
            process.wait()


@contextmanager
def bench(options: argparse.Namespace) -> Iterator[Bench]:
    """The processes on the images that were given, or on synthetic ones."""
    with ExitStack() as stack:
        folder = options.images
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_jpegs(folder, options.subset if options.quick else SYNTHETIC, SIZE)
        made = Bench(folder, options.subset)
        stack.callback(made.close)
        yield made


def settings(precisions: Sequence[str], options: argparse.Namespace) -> list[Setting]:
    """All of them; in miniature one for each precision."""
    threads = {1} if options.quick else {1, options.threads}
    waits, pages = (list(names)[: 1 if options.quick else None] for names in (WAITS, PAGES))
    return [Setting(*chosen) for chosen in itertools.product(precisions, sorted(threads), waits, pages)]


def like(found: Setting, among: Sequence[Setting]) -> list[Setting]:
    """Those with its way to wait and its pages, which depend on the machine more than on the method."""
    return [setting for setting in among if (setting.wait, setting.pages) == (found.wait, found.pages)]


def best(made: Bench, trials: Sequence[Trial], seconds: float) -> tuple[Trial, str]:
    """The fastest of one side's trials, which differ in their settings, and a row of the table of what was tried."""
    rates = {}
    for trial in trials:
        rates[trial] = made.measure(trial, seconds)
        say(f"{trial.method}, width {trial.width}: {trial.side} at {trial.setting}: {rates[trial]:.0f} images/s")
    first, *others = sorted(rates, key=rates.__getitem__, reverse=True)
    rest = "; ".join(f"{trial.setting}: {rates[trial]:.0f}" for trial in others)
    cells = (first.method, str(first.width), first.side, f"{first.setting}: {rates[first]:.0f}", rest)
    return first, "| " + " | ".join(cells) + " |"


def run(options: argparse.Namespace) -> tuple[list[str], bool]:
    """Lines of Markdown, and whether the floors were held."""
    fast = "bf16" if bf16_is_fast(torch.device("cpu")) else "float32"
    among = {"lightly": settings(("float32", "bf16"), options), "ours": settings((fast,), options)}
    rows, tried, all_held = [], [], True
    with bench(options) as made:
        for method, width in FLOORS:
            chosen = {}
            for side in among:
                trials = [Trial(side, method, width, options.batch, setting) for setting in among[side]]
                chosen[side], row = best(made, trials, SEARCH_SHARE * options.seconds)
                among[side] = like(chosen[side].setting, among[side])
                tried.append(row)
            found, held = compare(made, chosen["ours"], chosen["lightly"], options)
            rows, all_held = rows + found, all_held and held
    return [*HEADER, *rows, "", *TRIED, *tried], all_held


def compare(made: Bench, mine: Trial, theirs: Trial, options: argparse.Namespace) -> tuple[list[str], bool]:
    """Both sides of one method at their best: the rows of the table, and whether the floor was held."""
    trials = {
        "ours": mine,
        "lightly": theirs,
        "ours, float32": replace(mine, setting=replace(mine.setting, precision="float32")),
        "our step without views": replace(mine, side="step"),
    }
    floors: dict[str, dict[str, float | None]] = {
        "ours": {"lightly": FLOORS[mine.method, mine.width]},
        "ours, float32": {"lightly": None},
    }
    contenders = [Contender(name, partial(made.measure, trial), floors.get(name, {})) for name, trial in trials.items()]
    return interleave(f"{mine.method}, width {mine.width}", contenders, options.rounds, options.seconds)


TRIED = [
    "| method | width | side | images/s at its best setting, which the table above uses | at the others |",
    "|---|--:|---|---|---|",
]
