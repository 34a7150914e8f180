"""What the trained encoders of ``benchmarks.label_free`` tell: criteria without labels, and choices by a few, beside the truth.

The truth is the test accuracy of a linear probe with all labels on the last layer, which is what a user without labels gets.
"""

import itertools
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import machine
from ssl_core.clustering import kmeans
from ssl_core.engine.augment import AugmentConfig, view
from ssl_core.engine.features import frozen
from ssl_core.evaluation.comparison import difference, of_means
from ssl_core.labelling import explained_by_few, spread
from ssl_core.rng import Rng, permutation
from tasks.results import load_results
from tasks.runtime import dataset, files, saved_encoder
from tasks.worth import RESAMPLES

COUNT = 1000
"""Training images that the criteria look at."""
VIEWS = 4
NEIGHBORS, CLUSTERS = 10, 20
BUDGETS = (25, 50, 100)
"""Images that are labelled."""
DRAWS = 20
"""Choices of these images."""
LARGEST = 3
"""Criteria in a combination."""
REGRET, SPEARMAN = 0.01, 0.8
"""What a criterion has to reach to be trusted: at most, and at least."""
NO_ORDER = -1.0
"""Of labels no order of all encoders is asked, but the best one."""
STILL = {"view_share": 1.0, "flip": 0.5, "hue": 0.1, "blur_sigma": (0.1, 1.0), "solarize": 0.0}
MILD = AugmentConfig(
    **STILL, crop_scale=(0.6, 1.0), jitter=0.5, brightness=0.2, contrast=0.2, saturation=0.2, grayscale=0.0, blur=0.0
)
STRONG = AugmentConfig(
    **STILL, crop_scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, grayscale=0.2, blur=0.3
)
Columns = Mapping[str, Sequence[float]]
"""By criterion: a number for each encoder, higher for one that should be better."""


class Outcome(NamedTuple):
    """How well numbers choose."""

    spearman: float
    regret: float
    """Accuracy lost against the best encoder."""


class Told(NamedTuple):
    """What a few labels tell of the encoder that they choose."""

    others: int
    clear: int
    """Those that are clearly worse by these labels."""
    better: int
    """Those of them that are better in truth."""
    clearly: int
    """Those of them that are so by a paired test on the same test images."""


@dataclass(frozen=True)
class Found:
    """One set of images."""

    about: str
    kept_aside: bool
    methods: Sequence[str]
    truth: Sequence[float]
    columns: Columns
    few: Mapping[tuple[str, int], Sequence[tuple[Outcome, Told]]]
    """By how the images were picked and how many: what came out for each draw."""


# ---------------------------------------------------------------------- without labels


def criteria(views: Mapping[str, Sequence[Tensor]], rank: float) -> dict[str, float]:
    """Numbers of one encoder from features (N, D) of several views of the same images, ``mild`` and ``strong``."""
    found = {"effective rank": rank}
    for name, pair in views.items():
        first, second = (F.normalize(x) for x in pair[:2])
        similarity = first @ second.T
        own = torch.arange(len(first))
        found[f"retrieval, {name}"] = float((similarity.argmax(1) == own).double().mean())
        apart = (2 - 2 * similarity).sum() - (2 - 2 * similarity.diagonal()).sum()
        found[f"normalized alignment, {name}"] = -float(
            (2 - 2 * similarity.diagonal()).mean() / (apart / (len(own) ** 2 - len(own)))
        )
        found[f"neighborhood overlap, {name}"] = _overlap(first, second)
        found[f"pseudo-label stability, {name}"] = _stability(first, second)
    return found | {"LiDAR": lidar(torch.stack(list(views["strong"]), 1))}


def _overlap(first: Tensor, second: Tensor) -> float:
    """Share of an image's neighbors by one view that are neighbors by the other."""
    near = [(x @ x.T).fill_diagonal_(-torch.inf).topk(NEIGHBORS, 1).indices for x in (first, second)]
    members = [torch.zeros(len(first), len(first)).scatter_(1, ids, 1.0) for ids in near]
    return float((members[0] * members[1]).sum(1).mean() / NEIGHBORS)


def _stability(first: Tensor, second: Tensor) -> float:
    """Share of images whose other view falls into the same cluster."""
    centers, own = kmeans(first, CLUSTERS, 20, 0)
    return float((torch.cdist(second, centers).argmin(1) == own).double().mean())


def lidar(features: Tensor) -> float:
    """Effective rank of the between-image covariance where that within images is white (Thilak et al., arXiv 2312.04000).

    Args:
        features: (N, V, D), V views of N images.
    """
    x = features.double()
    middle = x.mean(1)
    within = (x - middle[:, None]).flatten(0, 1)
    between = middle - middle.mean(0)
    sigma = within.T @ within / len(within) + 1e-4 * torch.eye(x.shape[2], dtype=x.dtype)
    values, axes = torch.linalg.eigh(sigma)
    white = between @ (axes / values.clamp(min=1e-12).sqrt())
    p = torch.linalg.eigvalsh(white.T @ white / len(white)).clamp(min=0)
    p = p / p.sum() + 1e-12
    return float((-(p * p.log()).sum()).exp())


def combination(columns: Columns, names: Sequence[str]) -> list[float]:
    """The mean place of each encoder by several criteria."""
    return [float(v) for v in np.mean([rankdata(columns[name]) for name in names], axis=0)]


def outcome(values: Sequence[float], truth: Sequence[float]) -> Outcome:
    """How well ``values`` order encoders and choose among them."""
    chosen = truth[int(np.argmax(values))]
    rho = float(spearmanr(values, truth).statistic) if len(set(values)) > 1 else 0.0
    return Outcome(rho, max(truth) - chosen)


def told(each: Tensor, right: Tensor) -> Told:
    """What is said beside the chosen encoder, and how much of it the test contradicts.

    Args:
        each: (E, n) how much of each label each of E encoders explains.
        right: (E, M) bool, which test images a linear probe with all labels gets right.
    """
    best = int(each.mean(1).argmax())
    others = [other for other in range(len(each)) if other != best]
    clear = [other for other in others if of_means(each[best, None], each[other, None], RESAMPLES, 0).is_clear]
    better = [other for other in clear if right[other].sum() > right[best].sum()]
    clearly = [other for other in better if difference(right[other, None], right[best, None], RESAMPLES, 0).is_clear]
    return Told(len(others), len(clear), len(better), len(clearly))


# ---------------------------------------------------------------------- one set


def sample(data: dataset.Dataset) -> tuple[Tensor, Tensor]:
    """The images that the criteria look at, and their numbers among the training images."""
    count = min(COUNT, len(data.train_images))
    ids = torch.arange(count) * len(data.train_images) // count
    return torch.from_numpy(data.train_images[ids.numpy()]), ids


def measured(path: Path, images: Tensor, ids: Tensor, rank: float) -> dict[str, float]:
    """The criteria of one encoder: of its last layer, whatever it was trained with, on the same views as all others.

    Args:
        path: of the saved encoder.
        rank: its effective rank.
    """
    encoder, facts = saved_encoder.load(path)

    def seen(config: AugmentConfig, number: int) -> Tensor:
        x = view(images, Rng(ids, 0, number), config, facts["mean"], facts["std"], images.shape[-1])
        return frozen(encoder, torch.split(x, 250), "float32")[0]

    views = {"mild": [seen(MILD, n) for n in (1, 2)], "strong": [seen(STRONG, n) for n in range(3, 3 + VIEWS)]}
    return criteria(views, rank)


def study(about: str, directory: Path, kept_aside: bool) -> Found:
    """Measure every encoder of a workspace."""
    data = dataset.load(directory / dataset.PREPARED)
    methods = sorted(path.stem.removesuffix("-0") for path in (directory / "out/metrics").glob("*.json"))
    metrics = {name: files.read_json(directory / f"out/metrics/{name}-0.json") for name in methods}
    truth = [float(metrics[name]["linear_top1"]) for name in methods]
    images, ids = sample(data)
    rows = [
        measured(directory / f"out/encoders/{name}-0", images, ids, metrics[name]["health"]["effective_rank"])
        for name in methods
    ]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    stored = [
        torch.from_numpy(files.load_tensors(directory / f"out/features/{n}-0.safetensors")["train"]).float() for n in methods
    ]
    labels = torch.from_numpy(np.array(data.train_labels))
    read = {r.method: torch.from_numpy(r.right["linear"]) for r in load_results(directory)[0] if r.kept}
    right = torch.stack([read[name] for name in methods])
    return Found(about, kept_aside, methods, truth, columns, _few(stored, labels, truth, right))


def _few(
    stored: Sequence[Tensor], labels: Tensor, truth: Sequence[float], right: Tensor
) -> dict[tuple[str, int], list[tuple[Outcome, Told]]]:
    """Choices by labels of images that stand for all, and of random ones."""
    found: dict[tuple[str, int], list[tuple[Outcome, Told]]] = {}
    pickers: dict[str, Callable[[int, int], Tensor]] = {
        "picked": lambda count, draw: spread(stored, count, draw),
        "random": lambda count, draw: permutation(len(labels), draw)[:count],
    }
    for how, pick in pickers.items():
        for count in BUDGETS:
            outcomes = []
            for draw in range(DRAWS):
                rows = pick(count, draw)
                each = torch.stack([explained_by_few(x[rows], labels[rows]) for x in stored])
                outcomes.append((outcome(each.mean(1).tolist(), truth), told(each, right)))
            found[how, count] = outcomes
    return found


# ---------------------------------------------------------------------- the page


def best_combination(sets: Sequence[Found]) -> tuple[str, ...]:
    """The criteria whose mean place orders encoders best on the worst of the sets that were not kept aside."""
    names = list(sets[0].columns)
    groups = itertools.chain(*(itertools.combinations(names, size) for size in range(1, LARGEST + 1)))
    known = [s for s in sets if not s.kept_aside]
    return max(groups, key=lambda g: min(outcome(combination(s.columns, g), s.truth).spearman for s in known))


def reached(outcomes: Sequence[Outcome], order: float) -> bool:
    """Whether a criterion may choose: its regret, and the rank correlation that is asked for on every set."""
    regret = statistics.fmean(o.regret for o in outcomes)
    return regret <= REGRET and min(o.spearman for o in outcomes) >= order


def _line(name: str, outcomes: Sequence[Outcome], order: float = SPEARMAN) -> str:
    cells = [f"{o.spearman:+.2f} / {100 * o.regret:.1f}" for o in outcomes]
    mean = 100 * statistics.fmean(o.regret for o in outcomes)
    return f"| {' | '.join([name, *cells, f'{mean:.1f}', 'yes' if reached(outcomes, order) else 'no'])} |"


def _mean(found: Sequence[tuple[Outcome, Told]]) -> Outcome:
    outcomes = [each for each, _ in found]
    return Outcome(statistics.fmean(o.spearman for o in outcomes), statistics.fmean(o.regret for o in outcomes))


def _told_line(name: str, of_sets: Sequence[Sequence[tuple[Outcome, Told]]]) -> str:
    sums = [Told(*map(sum, zip(*(each for _, each in found), strict=True))) for found in of_sets]
    sums.append(Told(*map(sum, zip(*sums, strict=True))))
    cells = [
        " / ".join([f"{100 * s.clear / s.others:.0f}", *(f"{100 * n / max(1, s.clear):.1f}" for n in (s.better, s.clearly))])
        for s in sums
    ]
    return f"| {' | '.join([name, *cells])} |"


def page(found: Mapping[str, tuple[str, Path, bool]], options: str) -> str:
    """``docs/label-free.md``: what to do, and the study."""
    sets = [study(*entry) for entry in found.values()]
    names = [f"{name}{' (kept aside)' if s.kept_aside else ''}" for name, s in zip(found, sets, strict=True)]
    head = f"| | {' | '.join(names)} | mean regret | reached |\n|---|{'---|' * (len(names) + 2)}"
    chosen = best_combination(sets)
    lines = [_line(key, [outcome(s.columns[key], s.truth) for s in sets]) for key in sets[0].columns]
    lines.append(_line(f"together: {', '.join(chosen)}", [outcome(combination(s.columns, chosen), s.truth) for s in sets]))
    picks = {f"{count} labels, {how}": (how, count) for how, count in sets[0].few}
    few = [_line(name, [_mean(s.few[pick]) for s in sets], NO_ORDER) for name, pick in picks.items()]
    clear = [_told_line(name, [s.few[pick] for s in sets]) for name, pick in picks.items()]
    of = next(directory for _, directory, _ in found.values())
    asked = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, cwd=of, capture_output=True, text=True, check=True).stdout.strip()
    about = [
        f"- **{name}**: {s.about}; best {max(zip(s.truth, s.methods, strict=True))[1]} {100 * max(s.truth):.1f} %,"
        f" median {100 * statistics.median(s.truth):.1f} %, worst {100 * min(s.truth):.1f} %."
        for name, s in zip(names, sets, strict=True)
    ]
    notes = (Path("docs") / "label-free-notes.md").read_text().rstrip()
    verdict = "; ".join(
        f"{len(passed)} of {len(rows)} {what}"
        for what, rows in (("criteria without labels", lines), ("choices by few labels", few))
        for passed in [[row for row in rows if row.endswith("| yes |")]]
    )
    return "\n".join(
        [notes, "", f"Made by `python -m benchmarks.label_free {options}` at commit {commit}:", "", *machine(), "", *about, "",
         "## Without labels", "", head, *lines, "", "## With a few labels", "",
         f"Means over {DRAWS} choices of the images.", "", head, *few, "",
         "### What these labels tell", "",
         "Of the other encoders, in percent: those that are clearly worse than the chosen one by the labels; of these, those"
         " that are better on the test images, and those that are clearly better there, by a paired test.", "",
         f"| | {' | '.join(names)} | all |", f"|---|{'---|' * (len(names) + 1)}", *clear, "", f"Reached: {verdict}.", ""]
    )  # fmt: skip
