"""Interleaved rounds, so that whatever else the machine does hits every contender alike; medians, spread and ratios."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tasks.runtime.cores import cores

Steps = Generator[int, None, None]
"""Yields the number of images done, after each step."""

NOISE = 0.2
"""Share by which a ratio may miss its floor before the run counts as failed."""


@dataclass(frozen=True)
class Contender:
    """One way to do the job."""

    name: str
    trial: Callable[[float], float]
    """Images per second over so many seconds."""
    floors: dict[str, float | None] = field(default_factory=dict)
    """Other contenders this one is compared with, and how many times faster it must be (None: only stated)."""


def rate(steps: Steps, seconds: float, warmup: int) -> float:
    """Images per second after ``warmup`` steps; the set-up before the first step is not timed either."""
    for _ in range(warmup):
        next(steps)
    images, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        images += next(steps)
    steps.close()
    return images / elapsed


def interleave(title: str, contenders: Sequence[Contender], rounds: int, seconds: float) -> tuple[list[str], bool]:
    """Run every contender once a round; the rows of the table, and whether every floor was held."""
    rates: dict[str, list[float]] = {c.name: [] for c in contenders}
    for number in range(rounds):
        for contender in contenders:
            rates[contender.name].append(contender.trial(seconds))
            say(f"{title}, round {number + 1}: {contender.name} {rates[contender.name][-1]:.0f} images/s")
    rows, held = [], True
    for contender in contenders:
        mine = rates[contender.name]
        median = statistics.median(mine)
        comparisons = []
        for other, floor in contender.floors.items():
            ratios = sorted(a / b for a, b in zip(mine, rates[other], strict=True))
            ratio = statistics.median(ratios)
            held = held and (floor is None or ratio >= floor * (1 - NOISE))
            least = f", floor {floor:g}" if floor else ""
            comparisons.append(f"**{ratio:.2f}x** {other} ({ratios[0]:.2f} to {ratios[-1]:.2f}{least})")
        spread = (max(mine) - min(mine)) / median
        cells = (title, contender.name, f"{median:.0f}", f"{max(mine):.0f}", f"{spread:.0%}", "; ".join(comparisons))
        rows.append("| " + " | ".join(cells) + " |")
    return rows, held


def say(line: str) -> None:
    """Show where the benchmark is."""
    print(f"  {line}", file=sys.stderr, flush=True)


HEADER = [
    "| benchmark | contender | images/s, median | best | spread | faster than (median of the rounds' ratios) |",
    "|---|---|--:|--:|--:|---|",
]


def machine() -> list[str]:
    """What the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    packages = ("torch", "torchvision", "lightly", "pillow")
    return [
        f"Machine: {cpu}, {cores()} cores; load {os.getloadavg()[0]:.1f} (1 min): other work lowers all numbers.",
        f"Versions: Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages),
    ]
