"""The report's charts: matplotlib figures as SVG that follow the reader's light or dark theme.

Colors are Okabe and Ito's, which stay apart for color-blind readers (https://jfly.uni-koeln.de/color/).
"""

import io
import itertools
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from ssl_core.catalogue import LABELLED, METHODS
from tasks.results import Result, Row
from tasks.runtime.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
GREY, TEXT, LINES = "#8a8f98", "#111213", "#212223"
WIDTH = 9.6
"""Inches; the page stretches the charts to its own width."""
FAMILY_COLORS = {"pretext": ORANGE, "contrastive": BLUE, "non-contrastive": GREEN, "clustering": PINK, "reconstruction": SKY}
CLASS_COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, "#F0E442", "#332288")
MARKERS = "o^sDvP*X"
DASHES = ("--", ":", "-.", (0, (1, 1)))
# The placeholder colors, and the blue that is too dark for a dark page, become variables which the reader's theme sets.
THEME = """<style>:root{--text:#24292f;--lines:#d5dae0;--blue:#0072b2}
@media (prefers-color-scheme:dark){:root{--text:#d5dbe3;--lines:#3a424d;--blue:#3d9fe0}}</style>"""
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False, "text.color": TEXT, "axes.labelcolor": TEXT,
    "axes.titlesize": 9, "axes.titlelocation": "left", "axes.edgecolor": LINES, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": LINES, "grid.linewidth": 0.6,
    "xtick.color": LINES, "ytick.color": LINES, "xtick.labelcolor": TEXT, "ytick.labelcolor": TEXT, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "report", "lines.linewidth": 1.6,
    "savefig.transparent": True,
}  # fmt: skip


def style() -> AbstractContextManager[None]:
    """The look of every figure; file backend, no display needed."""
    import matplotlib

    matplotlib.use("agg")
    return matplotlib.rc_context(STYLE)  # type: ignore[arg-type]


def to_svg(figure: "Figure") -> bytes:
    """The figure as SVG text that takes its text and line colors from the reader's theme."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    for color, variable in ((TEXT, "text"), (LINES, "lines"), (BLUE.lower(), "blue")):
        text = text.replace(color, f"var(--{variable})")
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif", text)
    return text.replace("<defs>", f"{THEME}<defs>", 1).encode()


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple["Figure", list["Axes"]]:
    """An empty figure of that many inches, and its panels row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.ravel())


def color(method: str) -> str:
    """A method's color: that of its family; grey for a baseline."""
    return FAMILY_COLORS.get(METHODS[method][1], GREY) if method in METHODS else GREY


def scores(rows: Sequence[Row]) -> bytes:
    """Test scores as dots with intervals, best held-out score on top; baselines grey, the best row that needs no training as a
    line."""
    with style():
        figure, (axes,) = new_figure(WIDTH, 0.8 + 0.27 * len(rows))
        for y, row in enumerate(rows):
            for column, filled in (("knn", False), ("linear", True)):
                _dot(axes, row, column, y + (0.14 if filled else -0.14), filled)
        bars = [mean for row in rows if row.is_free and (mean := row.mean("linear_top1")) is not None]
        if bars:
            axes.axvline(100 * max(bars), color=GREY, linestyle=(0, (4, 3)), linewidth=1)
        axes.set_yticks(range(len(rows)), [row.method for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("test accuracy, % (bars: 95 % bootstrap interval)")
        axes.plot([], [], "o", color=GREY, label="linear probe")
        axes.plot([], [], "o", color=GREY, markerfacecolor="none", label="kNN")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, handletextpad=0.2)
        return to_svg(figure)


def _dot(axes: "Axes", row: Row, column: str, y: float, filled: bool) -> None:
    tint = color(row.method)
    for result in row.results:
        value, interval = result.get(f"{column}_top1"), result.metrics.interval(column)
        if value is None:
            continue
        if interval:
            axes.plot([100 * v for v in interval], [y, y], color=tint, linewidth=1.2, alpha=0.6)
        axes.plot([100 * value], [y], "o", color=tint, markersize=5, markerfacecolor=tint if filled else "none")


def knn_against_linear(rows: Sequence[Row]) -> bytes:
    """Mean kNN accuracy against mean linear accuracy, one labelled dot a method, colored by family."""
    points = [
        (100 * x, 100 * y, r.method)
        for r in rows
        if (x := r.mean("knn_top1")) is not None and (y := r.mean("linear_top1")) is not None
    ]
    with style():
        figure, (axes,) = new_figure(WIDTH, 4.4)
        for x, y, method in points:
            look = {"marker": "o"} if method in METHODS else {"marker": "s", "markerfacecolor": "none"}
            axes.plot([x], [y], color=color(method), markersize=7, **look)
        axes.set_xlabel("kNN, % of the test images")
        axes.set_ylabel("linear probe, %")
        families = {METHODS[m][1] for *_, m in points if m in METHODS}
        for family in [f for f in FAMILY_COLORS if f in families]:
            axes.plot([], [], "o", color=FAMILY_COLORS[family], label=family)
        axes.plot([], [], "s", color=GREY, markerfacecolor="none", label="baseline")
        axes.legend(loc="upper left", handletextpad=0.2)
        axes.margins(0.08)
        axes.autoscale_view()
        _labels(axes, points)
        return to_svg(figure)


def _labels(axes: "Axes", points: Sequence[tuple[float, float, str]]) -> None:
    """Names beside their dots, farther away (with a line) where they would cover another name or dot."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    letter, height, gap = (x1 - x0) * 0.0085, (y1 - y0) * 0.042, (x1 - x0) * 0.01
    taken = [(x - gap / 2, x + gap / 2, y) for x, y, _ in points]

    def is_free(left: float, right: float, at: float) -> bool:
        inside = x0 < left and right < x1 and y0 < at < y1
        return inside and all(right < start or end < left or abs(at - level) > height * 0.9 for start, end, level in taken)

    corners = ((1, 1), (-1, 1), (1, -1), (-1, -1))  # right below, left below, right above, left above
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        for far, (side, down) in itertools.product(range(15), corners):
            near, at = x + side * gap * (1 + far / 2), y - down * far * height
            left, right = sorted((near, near + side * letter * len(name)))
            if is_free(left, right, at):
                break
        taken.append((left, right, at))
        if far:
            axes.plot([x, near], [y, at], color=LINES, linewidth=0.8, zorder=0)
        axes.text(near, at, name, ha="left" if side > 0 else "right", va="center_baseline", fontsize=8)
    axes.set(xlim=(x0, x1), ylim=(y0, y1))


def few_labels(rows: Sequence[Row], best: str | None) -> bytes | None:
    """Linear accuracy against the share of labels, and what a constant answer gets; None where no few-label probe was made."""
    lines = {row.method: line for row in rows if len(line := label_curve(row.best)) > 1}
    if not lines:
        return None
    with style():
        figure, (axes,) = new_figure(WIDTH, 3.6)
        looks = [{"color": GREY, "linestyle": dash, "marker": mark} for dash, mark in zip(DASHES, "s^Dv", strict=True)]
        named = {best: {"color": BLUE, "marker": "o"}} | dict(
            zip([r.method for r in rows if r.is_free], itertools.cycle(looks))
        )
        for method, line in sorted(lines.items(), key=lambda item: item[0] in named):
            share, mean, spread = (np.array(v) for v in zip(*line, strict=True))
            if method in LABELLED:  # its encoder has seen every label: an upper mark, not a curve
                axes.plot([100], [mean[-1]], "*", color=GREEN, markersize=12, label=f"{method} (all labels)")
            elif method in named:
                axes.plot(share, mean, **named[method], markersize=4, label=method, linewidth=2)
                axes.fill_between(share, mean - spread, mean + spread, color=named[method]["color"], alpha=0.15, linewidth=0)
            else:
                axes.plot(share, mean, color=GREY, alpha=0.5, linewidth=1)
        axes.plot([], [], color=GREY, linewidth=1, label="other methods")
        usual = [share for row in rows if (share := row.best.metrics.score("majority_top1")) is not None]
        if usual:
            axes.axhline(100 * usual[0], color=RED, linewidth=1, label="always the most frequent class")
        axes.set_xscale("log")
        shares = sorted({s for line in lines.values() for s, *_ in line})
        axes.set_xticks(shares, [f"{s:.3g} %" for s in shares], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("share of the training labels the probe sees")
        axes.set_ylabel("test accuracy, %")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)
        return to_svg(figure)


def label_curve(result: Result) -> list[tuple[float, float, float]]:
    """(share of labels that was seen, mean, std) in percent, fewest labels first, ending with all of them."""
    seen = {few.seen or few.share: few for few in result.metrics.few_labels()}  # of few labels two shares may be the same
    curve = [(100 * share, 100 * few.mean, 100 * few.std) for share, few in sorted(seen.items()) if share < 1]
    everything = result.get("linear_top1")
    return curve if everything is None else [*curve, (100.0, 100 * everything, 0.0)]


def confusion(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """Row-normalized confusion matrix (actual x predicted), the diagonal faded so that mistakes stand out."""
    from matplotlib.colors import LinearSegmentedColormap

    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    whole = [printable(name) for name in names]  # a control character would break the chart
    short = [name if len(name) <= 18 else f"{name[:17]}…" for name in whole]
    side = 1.8 + 0.36 * len(names)
    with style():
        figure, (axes,) = new_figure(side + 0.4, side)
        wrong = shares * (1 - np.eye(len(names)))
        cmap = LinearSegmentedColormap.from_list("mistakes", [(0.84, 0.37, 0.0, 0.0), (0.84, 0.37, 0.0, 1.0)])
        axes.imshow(wrong, cmap=cmap, vmin=0, vmax=max(1.0, wrong.max()))
        for (i, j), value in np.ndenumerate(shares):
            if value >= 1:
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, fontweight="bold" if i == j else "normal")
        axes.set_xticks(range(len(names)), short, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), short)
        axes.grid(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
        return to_svg(figure)


def scatter_map(points: np.ndarray, labels: np.ndarray, shown: Sequence[int]) -> bytes:
    """PNG of (n, 2) points: a color and marker for each of the labels ``shown``, grey for the others."""
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with style():
        figure = Figure(figsize=(2.6, 2.6), dpi=160)
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        axes.scatter(*points[~np.isin(labels, shown)].T, s=5, color=GREY, linewidths=0)
        for i, label in enumerate(shown):
            look = {"color": CLASS_COLORS[i % len(CLASS_COLORS)], "marker": MARKERS[i // len(CLASS_COLORS)]}
            axes.scatter(*points[labels == label].T, s=9, linewidths=0, **look)
        axes.set_axis_off()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
