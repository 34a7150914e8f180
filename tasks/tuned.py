"""What fine-tuning found: each encoder trained further with a share of the labels, beside the same network from scratch.

The labels are those of the pool that encoders are trained on, or of a task.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_core.catalogue import BASELINES
from ssl_core.networks import network
from tasks.judged import ACTUAL, GROUP, by_encoder
from tasks.metrics import load as load_metrics
from tasks.runtime import files, params, recorded
from tasks.runtime.errors import IntegrityError
from tasks.runtime.files import MEND
from tasks.runtime.words import aligned, markdown
from tasks.trainings import read_training
from tasks.worth import OTHER, RESAMPLES

if TYPE_CHECKING:
    from ssl_core.evaluation.comparison import Difference

SCRATCH = "random_init"
"""The row of a start from scratch."""


@dataclass(frozen=True)
class Tuned:
    """One encoder, fine-tuned with one share of the labels, over its seeds and choices of labels."""

    labels: int
    mean: float
    """Test accuracy."""
    interval: tuple[float, float]
    """95 %, over choices of labels and test images."""
    over_scratch: "Difference | None"
    """Minus the same from scratch, on the same labels and test images; None for that itself, or where it was not asked for."""
    rates: tuple[float, ...]
    """The learning rates that were chosen."""
    each: Mapping[str, float]
    """Test accuracy of each encoder, by ``METHOD-SEED``."""


@dataclass(frozen=True)
class Tuning:
    """All that was fine-tuned."""

    shares: tuple[str, ...]
    """Of the labels, as text: ``0.01``; fewest first."""
    rows: Mapping[str, Mapping[str, Tuned]]
    """By method and share; the best with the fewest labels first."""
    missing: tuple[str, ...] = ()
    """Encoders that are listed and not fine-tuned yet."""
    edges: tuple[str, ...] = ()
    """``METHOD-SEED`` whose chosen rate is the first or last of the candidates."""
    task: str | None = None
    """Whose labels; None: those of the images that encoders are trained on."""
    others: tuple[str, ...] = ()
    """Methods whose network is not that of the start from scratch."""
    below: Mapping[str, float] = field(default_factory=dict)
    """By method whose encoder loses by fine-tuning with all labels: what a linear probe gets on it, frozen."""
    length: str = "images"
    """The parameter that says how long a fine-tuning is: ``images`` or ``epochs``."""
    has_scratch: bool = True  # whether a start from scratch was asked for

    @property
    def title(self) -> str:
        """Of the table."""
        return f"Fine-tuning on {self.task}" if self.task else "Fine-tuning"

    @property
    def file(self) -> str:
        """The name of its CSV without the ending."""
        return f"finetune-{self.task}" if self.task else "finetune"

    @property
    def place(self) -> str:
        """The name of its section on the page."""
        return f"finetuning-{self.task}" if self.task else "finetuning"


@dataclass(frozen=True)
class _File:
    """What the stage left of one encoder."""

    name: str
    made: int
    """When, in nanoseconds."""
    metrics: Mapping[str, Any]
    right: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(S, M) bool by share."""
    groups: np.ndarray | None = None
    """(M,) equal for images that belong together."""

    @property
    def seed(self) -> str:
        """As text."""
        return self.name.rpartition("-")[2]

    @property
    def mark(self) -> Any:
        """What must be alike in results that are compared."""
        shapes = {share: right.shape for share, right in self.right.items()}
        return self.metrics["recipe"], self.metrics.get("data_sha256"), shapes


def load_all(root: Path, out_of_date: Collection[str] = ()) -> list[Tuning]:
    """``load`` of the pool and of each task, as far as there is something.

    Args:
        out_of_date: stages whose results are left out.

    Raises:
        IntegrityError: a file is damaged.
    """
    tasks = params.run_config(params.load(root / params.PARAMS)).tasks
    return [tuning for task in (None, *tasks) if (tuning := load(root, task, out_of_date))]


def load(root: Path, task: str | None = None, out_of_date: Collection[str] = ()) -> Tuning | None:
    """Read the results of ``run.finetune``; None where it is empty, nothing is there yet or the images have no labels.

    Args:
        task: with whose labels; None: those of the images that encoders are trained on.
        out_of_date: stages whose results are left out.

    Raises:
        IntegrityError: a file is damaged.
    """
    stage = f"finetune_task@{task}-" if task else "finetune@"
    run = params.run_config(params.load(root / params.PARAMS))
    names = {
        method: [name for seed in run.seeds if stage + (name := f"{method}-{seed}") not in out_of_date]
        for method in run.finetune
    }
    every = [name for group in names.values() for name in group]
    recorded.check_all((path for name in every for path in _paths(root, name, task)), root)
    read = _of_the_latest({m: [f for name in group if (f := _read(root, name, task))] for m, group in names.items()})
    if not read:
        return None
    shares = _distinct(next(iter(read.values()))[0].metrics["shares"])
    scratch = read.get(SCRATCH, [])
    rows = {
        method: {share: _tuned(found, [] if method == SCRATCH else scratch, share) for share in shares}
        for method, found in read.items()
    }
    rows = dict(sorted(rows.items(), key=lambda row: [-row[1][share].mean for share in shares]))
    there = {f.name: f.metrics for found in read.values() for f in found}
    missing = tuple(name for name in every if name not in there)
    edges = tuple(name for name, metrics in there.items() if _at_edge(metrics))
    frozen = {method: _frozen(root, [f.name for f in found], task, out_of_date) for method, found in read.items()}
    every_label = [share for share in shares if float(share) == 1]
    below = {m: probe for m, (probe, low) in frozen.items() for s in every_label if rows[m][s].interval[1] < low}
    length = "epochs" if (next(iter(there.values()))["recipe"].get("train") or {}).get("epochs") else "images"
    others = _other_networks(root, read)
    return Tuning(tuple(shares), rows, missing, edges, task, others, below, length, SCRATCH in run.finetune)


def _distinct(shares: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The shares, fewest labels first; of several that are the same number of labels, as in few images of many classes, one."""
    known = {shares[share]["labels"]: share for share in sorted(shares, key=float, reverse=True) if float(share) != 1}
    return sorted({*known.values(), *(share for share in shares if float(share) == 1)}, key=float)


def _frozen(root: Path, names: Sequence[str], task: str | None, out_of_date: Collection[str]) -> tuple[float, float]:
    """What a linear probe gets on the frozen encoders, on average, and the lowest end of its intervals; 0 where not known."""
    stage, folder = (f"evaluate_task@{task}-", f"{task}/") if task else ("evaluate@", "")
    paths = [root / f"out/metrics/{folder}{name}.json" for name in names if stage + name not in out_of_date]
    recorded.check_all(paths, root)
    read = [load_metrics(path)[0] for path in paths if path.exists()]
    known = [(score, pair[0]) for m in read if (score := m.score("linear_top1")) and (pair := m.interval("linear"))]
    if not known or len(known) < len(names):
        return 0.0, 0.0
    return sum(score for score, _ in known) / len(known), min(low for _, low in known)


def _other_networks(root: Path, read: Mapping[str, Sequence[_File]]) -> tuple[str, ...]:
    made = {method: network(read_training(root, found[0].name).network) for method, found in read.items()}
    return tuple(method for method, own in made.items() if SCRATCH in made and own != made[SCRATCH])


def _of_the_latest(read: Mapping[str, Sequence[_File]]) -> dict[str, list[_File]]:
    """Those that are of the recipe and the images of the latest; the others are still to be made again."""
    every = [f for found in read.values() for f in found]
    if not every:
        return {}
    mark = max(every, key=lambda f: f.made).mark
    kept = {method: [f for f in found if f.mark == mark] for method, found in read.items()}
    return {method: found for method, found in kept.items() if found}


def _paths(root: Path, name: str, task: str | None) -> tuple[Path, Path]:
    file = f"finetune/{task}/{name}" if task else f"finetune/{name}"
    return root / f"out/metrics/{file}.json", root / f"out/predictions/{file}.safetensors"


def _read(root: Path, name: str, task: str | None) -> _File | None:
    metrics, predictions = _paths(root, name, task)
    if not metrics.exists():
        return None
    values, arrays = files.read_json(metrics), files.load_tensors(predictions)
    try:
        if not values["shares"]:
            return None
        found = {share: arrays[share] == arrays[ACTUAL] for share in values["shares"]}
        if any(not isinstance(own["labels"], int) or not isinstance(own["lr"], list) for own in values["shares"].values()):
            raise TypeError("labels and lr of each share")
        _at_edge(values)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise IntegrityError(f"{metrics} and its predictions do not hold the shares they should ({error}); {MEND}") from None
    return _File(name, metrics.stat().st_mtime_ns, values, found, arrays.get(GROUP))


def _at_edge(metrics: Mapping[str, Any]) -> bool:
    """Whether the lowest or highest candidate was chosen with the most labels; few of them tell little."""
    tried, most = metrics["recipe"]["config"]["lr"], max(metrics["shares"], key=float)
    return len(tried) > 1 and bool({min(tried), max(tried)} & set(metrics["shares"][most]["lr"]))


def _tuned(found: Sequence[_File], scratch: Sequence[_File], share: str) -> Tuned:
    import torch

    from ssl_core.evaluation import comparison

    right, other = (
        torch.from_numpy(by_encoder([f.right[share] for f in group])) if group else None for group in (found, scratch)
    )
    assert right is not None
    over, groups = None, None if found[0].groups is None else torch.from_numpy(found[0].groups)
    if other is not None:
        paired = right.shape == other.shape and len(right) > 1 and [f.seed for f in found] == [f.seed for f in scratch]
        over = (comparison.paired if paired else comparison.difference)(right, other, RESAMPLES, 0, groups)
    own = [f.metrics["shares"][share] for f in found]
    rates = tuple(sorted({rate for one in own for rate in one["lr"]}))
    interval = comparison.interval(right, RESAMPLES, 0, groups)
    each = {f.name: float(f.right[share].mean()) for f in found}
    return Tuned(own[0]["labels"], float(right.double().mean()), interval, over, rates, each)


# ---------------------------------------------------------------------- words


def heading(share: str, row: Mapping[str, Tuned]) -> str:
    """``1 % (100)``: a share and how many labels that is; the share that it is, where classes need more than was asked for."""
    labels, every = row[share].labels, next((own.labels for name, own in row.items() if float(name) == 1), None)
    part = labels / every if every else float(share)
    shown = float(share) if abs(part / float(share) - 1) < OTHER else part
    return f"{100 * shown:.3g} % ({labels:,})"


def table(tuning: Tuning) -> tuple[list[str], list[list[str]]]:
    """The headings and lines of the table for people; ``+`` and ``-`` where a row is clearly above or below scratch."""
    first = next(iter(tuning.rows.values()))
    head = ["method", *(heading(share, first) for share in tuning.shares)]
    return head, [[_name(method), *(_cell(row[share]) for share in tuning.shares)] for method, row in tuning.rows.items()]


def _name(method: str) -> str:
    return "from scratch *" if method == SCRATCH else method + (" *" if method in BASELINES else "")


def _cell(found: Tuned) -> str:
    low, high = found.interval
    over = found.over_scratch
    mark = "" if over is None or not over.is_clear else " +" if over.mean > 0 else " -"
    return f"{100 * found.mean:.1f} ({100 * low:.1f} to {100 * high:.1f}){mark}"


def sentences(tuning: Tuning) -> list[str]:
    """How to read the table, and what it lacks."""
    found = [
        "Test accuracy after fine-tuning encoder and head with so many labels, one recipe for all; the learning rate was chosen"
        " by training labels that the choice did not train on. In brackets the 95 % interval."
    ]
    if SCRATCH in tuning.rows:
        apart = f", which is another network than that of {', '.join(tuning.others)}" if tuning.others else ""
        found.append(f"+ and -: clearly above or below the start from scratch (paired, on the same labels and images){apart}.")
    elif not tuning.has_scratch:
        found.append(f"Without {SCRATCH} in run.finetune there is no start from scratch to compare with.")
    if tuning.edges:
        edge = f"A rate at the edge of finetune.lr was chosen for {', '.join(tuning.edges)}"
        found.append(f"{edge}: a rate beyond it may be better; add one.")
    if tuning.below:
        pairs = [
            f"{m} {100 * tuning.rows[m][tuning.shares[-1]].mean:.1f} % against {100 * p:.1f} %" for m, p in tuning.below.items()
        ]
        found.append(
            f"With all labels clearly below the linear probe on the same encoder frozen: {', '.join(pairs)}. The fine-tuning is"
            f" too short or its rate is wrong: raise finetune.train.{tuning.length}, and give finetune.lr further rates."
        )
    return found + [f"Not fine-tuned yet: {', '.join(tuning.missing)}."] * bool(tuning.missing)


def to_csv(tuning: Tuning) -> str:
    """``finetune.csv`` or ``finetune-TASK.csv``: a line for each method and share."""
    lines = [["method", "share", "labels", "accuracy", "low", "high", "over_scratch", "over_low", "over_high", "over_p", "lr"]]
    for method, row in tuning.rows.items():
        for share, own in row.items():
            over = own.over_scratch
            beside = [over.mean, over.low, over.high, over.p] if over else [""] * 4
            rates = " ".join(f"{rate:g}" for rate in own.rates)
            lines.append([str(v) for v in (method, share, own.labels, own.mean, *own.interval, *beside, rates)])
    return "".join(",".join(line) + "\n" for line in lines)


def to_markdown(tuning: Tuning) -> str:
    """The table for people, in percent, with what is to be known."""
    head, lines = table(tuning)
    said = "\n".join(f"- {sentence}" for sentence in sentences(tuning))
    return f"## {tuning.title}\n\n{markdown([head, *lines])}\n\n{said}\n".replace("*", "\\*")


def to_text(tuning: Tuning) -> str:
    """The same for a terminal."""
    head, lines = table(tuning)
    return "\n".join([f"{tuning.title}:", aligned([head, *lines]), *sentences(tuning)])
