"""Encoders on several sets of images: one pretraining, many tasks, side by side.

A task is a labelled set of its own (``run.tasks``) on which every encoder is scored by the same protocol, frozen. Here are its
scores beside those on the images that encoders are trained on.
"""

import re
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.choice import champion
from tasks.conclusions import caution
from tasks.results import Result, Row, known, load_scores, ranked, up_to_date
from tasks.runtime import params
from tasks.runtime.words import aligned, markdown, unseen
from tasks.verdict import Verdict, judge

POOL = "data"
"""What the images are called that encoders are trained on."""
TEST, RANK = "linear_top1", "average_rank"


@dataclass(frozen=True)
class Task:
    """One set of images and the scores on it."""

    name: str
    rows: tuple[Row, ...]
    """Best first, by held-out labels."""
    missing: tuple[str, ...]
    """Encoders that are not scored here yet."""

    @property
    def best(self) -> Result | None:
        """Its champion: the method to take for these images, by their held-out labels."""
        return champion([result for row in self.rows for result in row.results])

    @cached_property
    def verdict(self) -> Verdict:
        """What may be said of its rows, as of the pool's."""
        return judge([result for row in self.rows for result in row.results])

    @property
    def scores(self) -> dict[str, float]:
        """Mean test accuracy of the linear probe by method."""
        return {row.method: mean for row in self.rows if (mean := row.mean(TEST)) is not None}

    @property
    def size(self) -> str:
        """What its scores stand on; empty where that is not known."""
        first = next(r.metrics for row in self.rows for r in row.results)
        images, recalls = first.protocol.get("test_labels"), first.score("per_class") or []
        return f"{images:,} test images in {sum(r is not None for r in recalls)} classes" if images and recalls else ""

    @property
    def leak(self) -> Mapping[str, Any]:
        """What ``prepare_task`` found of its test images in the pool; empty for the pool."""
        return next((r.metrics.found.get("in_pool") or {} for row in self.rows for r in row.results), {})

    @property
    def ranks(self) -> dict[str, float]:
        """1 for the best method or baseline; equal scores share the mean of their places."""
        scores = {method: round(score, 9) for method, score in self.scores.items()}  # a mean over seeds has rounding of its own
        return {
            m: (1 + sum(o >= s for o in scores.values()) + sum(o > s for o in scores.values())) / 2 for m, s in scores.items()
        }


@dataclass(frozen=True)
class Transfer:
    """All sets of images with labels that ``params.yaml`` names."""

    tasks: tuple[Task, ...]
    """The pool first, if it has labels; then in the order of ``run.tasks``."""
    chose: str | None
    """The one whose held-out labels choose; None where the pool has none and the first task is not scored yet."""
    unscored: tuple[str, ...] = ()
    """Tasks on which no encoder is scored yet."""

    @cached_property
    def ranks(self) -> list[tuple[str, float]]:
        """The average rank of each method and baseline over the tasks on which all are scored, best first."""
        every = [task.ranks for task in self.tasks]
        methods = [m for m in every[0] if all(m in ranks for ranks in every)] if every else []
        means = {m: statistics.fmean(ranks[m] for ranks in every) for m in methods}
        return sorted(means.items(), key=lambda pair: pair[1])

    def columns(self, result: Result) -> dict[str, float | None]:
        """What stands of the tasks in a table with a line for each encoder: the average rank of its method, its own scores."""
        own = {
            f"{task.name}.{TEST}": next((r.get(TEST) for row in task.rows for r in row.results if r.name == result.name), None)
            for task in self.tasks
            if task.name != POOL
        }
        return {RANK: dict(self.ranks).get(result.method), **own}

    @property
    def table(self) -> list[tuple[str, float, list[float]]]:
        """(method, average rank, its score on each task)."""
        return [(method, rank, [task.scores[method] for task in self.tasks]) for method, rank in self.ranks]


def load(root: Path, out_of_date: Collection[str] = ()) -> Transfer | None:
    """Read the scores on the pool and on every task; None where ``run.tasks`` is empty.

    Args:
        out_of_date: stages whose scores are left out.

    Raises:
        IntegrityError: nothing is evaluated yet on the pool, or a file is damaged.
    """
    names = params.run_config(params.load(root / params.PARAMS)).tasks
    if not names:
        return None
    scored = {POOL: load_scores(root), **{name: load_scores(root, name) for name in names}}
    tasks = [Task(name, tuple(ranked(up_to_date(found, out_of_date))), tuple(lacks)) for name, (found, lacks) in scored.items()]
    pool_chooses = known([r for row in tasks[0].rows for r in row.results], "holdout_linear_top1")
    unscored = tuple(name for name, (found, _) in scored.items() if not found)
    chose = POOL if pool_chooses else None if names[0] in unscored else names[0]
    return Transfer(tuple(task for task in tasks if task.scores), chose, unscored)


# ---------------------------------------------------------------------- words


def sentences(transfer: Transfer) -> list[str]:
    """Which images chose, what each task would choose, and which test images encoders have seen."""
    chose = "the images that encoders are trained on" if transfer.chose == POOL else f"the task {transfer.chose}"
    found = [f"{task.name}: {task.size}." for task in transfer.tasks if task.size]
    found += [f"The champion was chosen by held-out labels of {chose}."] if transfer.chose else []
    bests = {task.name: task.best.method for task in transfer.tasks if task.best}
    if len(set(bests.values())) > 1:
        found.append(f"Held-out labels of each choose: {', '.join(f'{best} for {name}' for name, best in bests.items())}.")
    aliases = [f"champion-{name}" for name in bests if name != POOL]
    if aliases:
        found.append(f"In the registry the best encoder for a task has the alias {', '.join(aliases)}.")
    found += _cautions(transfer)
    found += [leak for task in transfer.tasks if (leak := _leak(task))]
    found += [twice for task in transfer.tasks if (twice := _tested_twice(task))]
    found += [f"Not scored on {t.name} yet: {', '.join(t.missing)}." for t in transfer.tasks if t.missing]
    return found + [f"Not scored on {name} yet: any encoder." for name in transfer.unscored]


def _cautions(transfer: Transfer) -> list[str]:
    """What is said against the champion of each task. Advice that another one has, or the leaderboard of the images that chose,
    is not given again."""
    every = {task.name: re.split(r"(?<=[.]) ", caution(task.verdict)) for task in transfer.tasks}
    given, found = set(every.get(transfer.chose or POOL, ())[1:]), []
    for name, (first, *advice) in every.items():
        if first and name != POOL:
            found.append(" ".join([f"{name}: {first}", *(each for each in advice if each not in given)]))
        given |= set(advice)
    return found


def _leak(task: Task) -> str:
    leak = task.leak
    blind = f"{unseen(task.name, leak['otherwise'])}." if leak.get("otherwise") else ""
    if not leak or not leak["equal"] + leak["alike"]:
        return blind
    named = [*leak["examples"], *leak["alike_examples"]]
    names = ", ".join(named)
    more = ", ..." if leak["equal"] + leak["alike"] > len(named) else ""
    return (
        f"Of {leak['test_images']:,} test images of {task.name}, {leak['equal']:,} are among the images that encoders are"
        f" trained on and {leak['alike']:,} look like one, without their labels; its scores may be too good: {names}{more}."
        f"{' ' if blind else ''}{blind}"
    )


def _tested_twice(task: Task) -> str:
    if not (count := task.leak.get("tested")):
        return ""
    both = f"Of {task.leak['test_images']:,} test images of {task.name}, {count:,} are test images of the pool too"
    return f"{both}: the two scores are in part of the same images."


def to_csv(transfer: Transfer) -> str:
    """``transfer.csv``: a line for each method, a column for each set of images, and the average rank."""
    lines = [["method", RANK, *(task.name for task in transfer.tasks)]]
    lines += [[method, f"{rank:g}", *map(repr, scores)] for method, rank, scores in transfer.table]
    return "".join(",".join(line) + "\n" for line in lines)


TITLE = "Linear probe on the test images of each set"


def lines(transfer: Transfer) -> list[list[str]]:
    """The same for people, in percent, under its head."""
    head = ["method", "average rank", *(f"{task.name} %" for task in transfer.tasks)]
    return [head, *([m, f"{rank:.1f}", *(f"{100 * s:.1f}" for s in scores)] for m, rank, scores in transfer.table)]


def to_markdown(transfer: Transfer) -> str:
    """For leaderboard.md, with what is to be known."""
    said = "\n".join(f"- {sentence}" for sentence in sentences(transfer))
    return f"## Tasks\n\n{TITLE}.\n\n{markdown(lines(transfer))}\n\n{said}\n"


def to_text(transfer: Transfer) -> str:
    """For a terminal."""
    return "\n".join([f"{TITLE}:", aligned(lines(transfer)), *sentences(transfer)])
