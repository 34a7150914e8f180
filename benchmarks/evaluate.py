"""Evaluation of frozen features: k nearest neighbors and linear probes against lightly and scikit-learn.

Everybody gets the same float32 features (in which scikit-learn's solver is faster than in float64) and the same threads.
Agreement is printed beside the speed: predictions that are equal for kNN; for the probe how far both end above the optimum,
which a much longer solve finds. The probe's rival fits the strengths one after another with its default tolerance, as its
users do; it fits every 16th of them and its time is scaled to all.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from lightly.utils.benchmarking import knn_predict
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import NOISE
from ssl_core.evaluation.knn import knn
from ssl_core.evaluation.probe import linear_probe
from tasks.runtime.cores import cores

CLASSES, K, TEMPERATURE, STRENGTHS, EVERY = 10, 200, 0.1, 48, 16
TOLERANCE, OPTIMUM = 3e-6, 1e-9
"""Of our probes: all objectives are then within 1e-4 of the optimum, and no farther from it than scikit-learn's; and of the
solve that gives the optimum."""
FLOORS = {"scikit-learn kNN": 1.5, "lightly knn_predict": 0.9, "scikit-learn LogisticRegression": 10.0}


def features(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping classes in directions of very unequal variance, rectified: as ill-conditioned as an encoder's output."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=shared) * torch.logspace(0, -2, d)[:, None]
    centers = 0.4 * torch.randn(CLASSES, d, generator=shared)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return ((centers[labels] + torch.randn(n, d, generator=generator)) @ mix / d**0.5 + 0.2).relu(), labels


def timed(job: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def table(title: str, seconds: dict[str, list[float]], note: str) -> tuple[list[str], bool]:
    """Rows: seconds of every contender, the first being ours, and how many times faster ours is."""
    rows, held = [], True
    mine = next(iter(seconds.values()))
    for name, theirs in seconds.items():
        ratios = sorted(t / m for m, t in zip(mine, theirs, strict=True))
        ratio, floor, spread = (
            statistics.median(ratios),
            FLOORS.get(name),
            (max(theirs) - min(theirs)) / statistics.median(theirs),
        )
        held = held and (floor is None or ratio >= floor * (1 - NOISE))
        limit = f", floor {floor:g}" if floor else ""
        comparison = note if theirs is mine else f"ours **{ratio:.2f}x** as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}{limit})"
        rows.append(
            f"| {title} | {name} | {statistics.median(theirs):.2f} s | {min(theirs):.2f} s | {spread:.0%} | {comparison} |"
        )
    return rows, held


def neighbors(train: int, queries: int, d: int, rounds: int) -> tuple[list[str], bool]:
    """kNN at one size."""
    (x, y), (q, _) = features(train, d, 1), features(queries, d, 2)
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found["ours"] = knn(x, y, q, (K,), (TEMPERATURE,), CLASSES)[K, TEMPERATURE]

    def lightly() -> None:
        bank = F.normalize(x).T.contiguous()
        parts = [knn_predict(F.normalize(rows), bank, y, CLASSES, K, TEMPERATURE)[:, 0] for rows in q.split(256)]
        found["lightly"] = torch.cat(parts)

    def sklearn() -> None:
        model = KNeighborsClassifier(K, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / TEMPERATURE))
        found["sklearn"] = torch.from_numpy(model.fit(x.numpy(), y.numpy()).predict(q.numpy()))

    jobs = {"ours, exact, ties by index": ours, "lightly knn_predict": lightly, "scikit-learn kNN": sklearn}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            seconds[name].append(timed(job))
    equal = [float((found["ours"] == found[name]).float().mean()) for name in ("lightly", "sklearn")]
    note = f"same prediction as lightly {equal[0]:.2%}, scikit-learn {equal[1]:.2%}"
    return table(f"kNN, {queries} queries, {train} x {d}, k {K}", seconds, note)


def probes(n: int, d: int, rounds: int) -> tuple[list[str], bool]:
    """Linear probes with many strengths at one size."""
    x, y = features(n, d, 1)
    strengths = torch.logspace(-6, 1, STRENGTHS, dtype=torch.float64)
    standard = StandardScaler().fit_transform(x.numpy())
    best = linear_probe(x[None], y[None], strengths[None], CLASSES, OPTIMUM).objective[0]
    gaps: dict[str, list[float]] = {"ours": [], "scikit-learn": []}
    seconds: dict[str, list[float]] = {f"ours, {STRENGTHS} side by side": [], "scikit-learn LogisticRegression": []}
    ours, theirs = seconds.values()
    for number in range(rounds):
        start = time.perf_counter()
        found = linear_probe(x[None], y[None], strengths[None], CLASSES, TOLERANCE)
        ours.append(time.perf_counter() - start)
        spent = 0.0
        for i in range(number % EVERY, STRENGTHS, EVERY):
            strength = float(strengths[i])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                start = time.perf_counter()
                model = LogisticRegression(C=1 / (n * strength), max_iter=1000).fit(standard, y)
                spent += time.perf_counter() - start
            coefficients = torch.from_numpy(model.coef_).double()
            logits = torch.from_numpy(standard).double() @ coefficients.T + torch.from_numpy(model.intercept_)
            reached = F.cross_entropy(logits, y) + strength / 2 * coefficients.square().sum()
            gaps["scikit-learn"].append(float(reached - best[i]))
        gaps["ours"].append(float((found.objective[0] - best).max()))
        theirs.append(spent * EVERY)
    note = "objective above the optimum by at most " + ", ".join(f"{max(gap):.0e} ({name})" for name, gap in gaps.items())
    return table(f"linear probes, {n} x {d}", seconds, note)


def run(options: argparse.Namespace) -> tuple[list[str], bool]:
    """Lines of Markdown, and whether the floors were held."""
    torch.set_num_threads(cores())
    rounds = options.rounds
    if options.quick:
        parts = [neighbors(1_000, 100, 32, rounds), probes(500, 32, rounds)]
    else:
        parts = [neighbors(10_000, 2_000, 128, rounds), neighbors(50_000, 2_000, 512, rounds)]
        parts += [probes(9_000, 192, rounds), probes(10_000, 128, rounds)]  # the first: a choice in the run that is shipped
    return [*HEADER, *(row for rows, _ in parts for row in rows)], all(held for _, held in parts)


HEADER = [
    "| benchmark | contender | time, median | best | spread | faster than (median of the rounds' ratios) |",
    "|---|---|--:|--:|--:|---|",
]
