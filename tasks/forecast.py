"""What the trainings of a run will take, measured and said before they start; at the end, how wrong that was."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.dvc.outcome import Fate
from tasks.dvc.runner import Runner
from tasks.dvc.schedule import Schedule
from tasks.pretrain.fitting import fit
from tasks.runtime import dataset, files, params
from tasks.runtime.progress import clock
from tasks.runtime.stage_name import StageName
from tasks.runtime.words import counted
from tasks.trainings import read_cost

WORTH_IMAGES = 300_000
"""Trainings with less work than so many images of ``SIDE`` pixels for the small network are over before measuring them pays."""
SIDE = 28
LARGER = 10
"""Times the work of the small network that another one makes of the same pixels, at least."""
EQUAL = 0.15
"""Times that differ by less from the middle one are about the same."""


@dataclass(frozen=True)
class Forecast:
    """Of the trainings that are to run."""

    trainings: tuple[StageName, ...]
    """Those of methods that could be measured."""
    seconds: Mapping[str, float]
    """By method: of one training."""
    memory: int
    """Largest peak of a training in bytes."""
    jobs: int
    """Trainings at a time."""
    published: bool = False
    """Whether the trainings are as long as published recipes say (``train.epochs``), and not to take equal time."""

    def lines(self) -> list[str]:
        """What to say before."""
        each = list(self.by_stage().values())
        wall = max(sum(each) / self.jobs, *each)
        return [
            f"{len(each)} trainings will take about {clock(wall)}, {self.jobs} at a time, and up to "
            f"{self.memory / 1e9:.1f} GB of memory each; evaluation, fine-tuning and report come on top:",
            "  " + ", ".join(f"{name} {clock(seconds)}" for name, seconds in self.seconds.items()),
            *self._unequal(),
        ]

    def by_stage(self) -> dict[str, float]:
        """Seconds of each training."""
        return {str(training): self.seconds[training.method] for training in self.trainings if training.method}

    def _unequal(self) -> list[str]:
        """What to say if the shares of the budget are those of other images, or of another machine."""
        middle = statistics.median(self.seconds.values())
        apart = {name: seconds / middle - 1 for name, seconds in self.seconds.items() if abs(seconds / middle - 1) > EQUAL}
        if self.published or not apart:
            return []
        each = ", ".join(f"{name} {100 * share:+z.0f} %" for name, share in apart.items())
        return [f"  not the same time for every method ({each}): make budget measures and writes the shares"]

    def error(self, root: Path, schedule: Schedule) -> str:
        """How far it was off, over the trainings that ran to their end."""
        ended = [
            (expected, seconds)
            for name, expected in self.by_stage().items()
            if schedule.outcomes[name].how is Fate.RAN
            if (seconds := read_cost(root, name.partition("@")[2]).get("seconds"))
        ]
        if not ended:
            return "training: none ran to its end"
        expected, taken = (sum(column) for column in zip(*ended, strict=True))
        return (
            f"training: {clock(expected)} were expected, {clock(taken)} were needed "
            f"({100 * (taken / expected - 1):+z.0f} %, the sum of {len(ended)} trainings)"
        )


def make(
    runner: Runner, schedule: Schedule, jobs: int, pool: ThreadPoolExecutor, say: Callable[[list[str]], None]
) -> Forecast | None:
    """Measure some steps of each method that is to be trained, as many at a time as there will be trainings.

    Args:
        pool: waits for what measures.
        say: shows lines; a minute can pass before there are more.

    Returns:
        None where the trainings are short, or nothing could be measured: a training says itself what is wrong with it.
    """
    root = runner.root
    values = params.load(root / params.PARAMS)
    stale = [s.parts for name in schedule.chosen if (s := schedule.stages[name]).parts.group == "pretrain" and s.stale]
    meta = root / dataset.PREPARED / "meta.json"
    if not stale or not meta.exists():
        return None
    num_images = files.read_json(meta)["num_train"]
    if sum(_work(values, str(training.method), num_images) for training in stale) < WORTH_IMAGES:
        return None
    methods = [m for m in dict.fromkeys(training.method for training in stale) if m]
    trained = [m for m in methods if params.method_params(values, m).train.trains]
    say([f"measuring some steps of {counted(len(trained), 'method', 'methods')}, to say how long this will take ..."])
    costs = _measured(runner, trained, jobs, pool)
    if not costs:
        return None
    seconds = {name: cost["per_image"] * cost["images"] for name, cost in costs.items()}
    memory = int(max(cost["memory"] for cost in costs.values()))
    published = any(params.method_params(values, name).train.epochs is not None for name in trained)
    return Forecast(tuple(t for t in stale if t.method in seconds), seconds, memory, jobs, published)


def _work(values: Mapping[str, Any], method: str, num_images: int) -> float:
    """Images of ``SIDE`` pixels that the small network would learn from in about the same time."""
    chosen = fit(params.method_params(values, method), num_images)
    side = chosen.encoder.input_size or values["data"]["image_size"]
    images = chosen.train.steps(num_images) * chosen.train.batch_size
    return images * (side / SIDE) ** 2 * (1 if chosen.encoder.name == "small" else LARGER)


def _measured(runner: Runner, methods: Sequence[str], jobs: int, pool: ThreadPoolExecutor) -> dict[str, dict[str, float]]:
    """What ``python -m tasks.budget --measure`` finds, in the order of ``methods``; those that fail are left out."""
    groups = [methods[start::jobs] for start in range(min(jobs, len(methods)))]
    found = {}
    for lines in pool.map(lambda group: runner.ask("tasks.budget", "--measure", *group), groups):
        for line in lines:
            if line.startswith("{"):  # the others say what was not measured
                cost = json.loads(line)
                found[cost.pop("method")] = cost
    return {name: found[name] for name in methods if name in found}
