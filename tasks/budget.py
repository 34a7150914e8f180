"""``python -m tasks.budget``: give every method the same training time.

A training is as long as ``train.images`` and the method's ``train.epoch_share`` say, whatever the clock does: its bits
repeat. This command measures, on this machine and the prepared images, what an image costs each method of ``run.methods``,
and writes the shares into params.yaml, comments kept: 1 for a method of middling cost. ``--seconds 40`` sets ``train.images``
too, so that each training takes that long here. Other images, another encoder or other numbers of a method: run it again. It
prepares the images first where that is to be done.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ssl_core.catalogue import LABELLED
from ssl_core.config import ConfigError
from ssl_core.engine.train import NonFinite, Position, Trainer
from tasks.pretrain import weights
from tasks.pretrain.fitting import fit_to
from tasks.pretrain.training import make_trainer, peak_memory
from tasks.runtime import dataset, edited_yaml, params, settings
from tasks.runtime.device import pick_device
from tasks.runtime.errors import TrackerDown, UsageError, run

WARM, TIMED = {"cpu": 1, "cuda": 3}, 7
"""Steps before the clock counts (the first ones choose kernels and fill caches), and those whose median counts."""
ENOUGH_SECONDS, GLANCE_SECONDS = 5.0, 0.4
"""Of timed steps, for the shares and for a run's forecast: slow ones are told by fewer."""


@dataclass(frozen=True)
class Cost:
    """What a training needs on this machine."""

    per_image: float
    """Seconds for each image seen: the step, the method's work between epochs, and the looks at its health."""
    images: int
    """Seen in the whole training."""
    memory: int
    """Peak in bytes so far, of all that was measured in this process."""


class _Enough(Exception):
    """As many steps as were asked for."""


def trained(values: Mapping[str, Any]) -> list[str]:
    """The methods and baselines of params.yaml that are trained, whether they are to run or not."""
    return [name for name in values["method"] if params.method_params(values, name).train.trains]


def measure(
    values: Mapping[str, Any], name: str, data: dataset.Dataset, device: torch.device, enough: float = ENOUGH_SECONDS
) -> Cost:
    """Take some steps of the training that params.yaml describes, of ``enough`` seconds; nothing is kept of them.

    A single thread is timed by its processor time, which other work on the machine changes least.
    """
    chosen = fit_to(params.method_params(values, name), data)
    torch.set_num_threads(chosen.train.threads)
    clock = time.process_time if device.type == "cpu" and chosen.train.threads == 1 else time.perf_counter
    trainer = make_trainer(chosen, data, 0, device, weights.find(chosen.encoder))

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock()

    look, steps = _seconds(trainer, now, enough)
    step, started = statistics.median(steps), now()
    trainer.method.before_epoch(trainer.epochs, trainer.embed)
    between = now() - started
    images, turns = trainer.steps * chosen.train.batch_size, sum(map(trainer.epoch_work_is_due, range(trainer.steps)))
    looked = trainer.row_epochs * trainer.steps_per_epoch * chosen.train.batch_size
    per_image = step / chosen.train.batch_size + between * turns / images + look / looked
    return Cost(per_image / chosen.train.processes, images, peak_memory(device))


def _seconds(trainer: Trainer, now: Callable[[], float], enough: float) -> tuple[float, list[float]]:
    """Seconds of a look at the health, and of each timed step; of a training that is over sooner, those of its last step."""
    times, looks, warm = [now()], [], WARM[trainer.device.type]

    def on_step(position: Position) -> None:
        times.append(now())
        timed = times[warm:]
        if len(timed) > TIMED or (len(timed) > 1 and timed[-1] - timed[0] > enough):
            raise _Enough

    with contextlib.suppress(_Enough):
        trainer.run(on_step, lambda row: looks.append(now()))
    gaps = [after - before for before, after in pairwise(times)]
    return looks[0] - times[0], gaps[warm:] or gaps[-1:]


def three_digits(value: float) -> float:
    """What such a measurement is worth."""
    return float(f"{value:.3g}")


def rewrite(text: str, per_image: Mapping[str, float], seconds: float | None) -> str:
    """params.yaml with the shares that give each method the same time, and the images for so many seconds each."""
    middling = statistics.median(per_image.values())

    def change(document: Any) -> None:
        for name, cost in per_image.items():
            own = document["method"][name].setdefault("train", {})
            own["epoch_share"] = three_digits(middling / cost)
        if seconds is not None:
            document["train"]["images"] = int(three_digits(seconds / middling))

    return edited_yaml.edit(text, change)


def main() -> None:
    """Measure, show, write; with ``--measure`` only print the costs of the named methods, a line of JSON each."""
    parser = argparse.ArgumentParser(prog="python -m tasks.budget", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="of training for each method on this machine; sets train.images")
    parser.add_argument("--all", action="store_true", help="measure the methods that run.methods does not list too")
    parser.add_argument("--measure", nargs="+", metavar="METHOD", help="print what these cost, and write nothing")
    options = parser.parse_args()
    values = params.load()
    params.check(values)
    if options.measure:
        for name, cost in costs(values, options.measure, GLANCE_SECONDS):
            print(json.dumps({"method": name, **asdict(cost)}), flush=True)
        return
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        raise UsageError("--seconds must be a number above 0")
    if values["train"]["epochs"] is not None:
        raise UsageError("train.epochs is set, so the shares are those of a published recipe; set it to null for equal time")
    params.write(params.text())  # if it cannot be written, better now than after the measuring
    from tasks.run import bring_up_to_date  # DVC and all, seconds that ``--measure`` does not need

    settings.apply()
    failure = bring_up_to_date(Path.cwd(), ["prepare"]).failure
    if failure:
        raise failure
    asked = [name for name in trained(values) if options.all or name in values["run"]["methods"]]
    first = dict(costs(values, asked))
    if not first:
        raise UsageError("no method can be measured on these images, for the reasons above; params.yaml is as it was")
    again = dict(costs(values, list(first)))  # far apart in time: other work only slows
    found = {name: min(first[name], again[name], key=lambda cost: cost.per_image) for name in first}
    text = rewrite(params.text(), {name: cost.per_image for name, cost in found.items()}, options.seconds)
    new = params.parse(text, params.PARAMS)
    params.check(new)
    params.write(text)
    data = dataset.load()
    for name, cost in found.items():
        now = fit_to(params.method_params(new, name), data).train
        steps = now.steps(len(data.train_images))
        print(
            f"{name:12} {1e6 * cost.per_image:8,.0f} us an image   share {now.epoch_share:<5g} {steps:7,} steps   "
            f"{cost.per_image * steps * now.batch_size:6.1f} s"
        )
    images = f" and train.images: {new['train']['images']:,}" if options.seconds else ""
    rest = "" if len(asked) == len(trained(values)) else " Methods that run.methods does not list keep theirs (--all)."
    print(f"params.yaml now holds these shares{images}.{rest}")


def costs(values: Mapping[str, Any], names: list[str], enough: float = ENOUGH_SECONDS) -> Iterator[tuple[str, Cost]]:
    """Measure one after another; what learns from labels only where there are some. What does not fit these images is named."""
    data, device = dataset.load(), pick_device()
    for name in names:
        if data.has_labels or name not in LABELLED:
            try:
                yield name, measure(values, name, data, device, enough)
            except (ConfigError, NonFinite, TrackerDown) as error:
                print(f"{name} keeps its share: {error}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
