"""The report's charts over the training: losses, kNN and the label-free indicators."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.report.figures import BLUE, CLASS_COLORS, DASHES, GREY, RED, TEXT, WIDTH, color, new_figure, style, to_svg

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def learning_curves(histories: Mapping[str, Sequence["pd.DataFrame"]]) -> bytes:
    """Training loss per epoch, one panel a method (losses of different methods have no common scale), a line per seed."""
    columns = 5
    lines = -(-len(histories) // columns)
    with style():
        figure, axes = new_figure(WIDTH, 1.6 * lines + 0.25, lines, columns)
        for panel, (method, seeds) in zip(axes, histories.items(), strict=False):
            for history in seeds:
                look = {"color": color(method), "alpha": 1 if len(seeds) == 1 else 0.7}
                few = np.isfinite(history["loss"]).sum() < 4  # one epoch is no line
                panel.plot(history["epoch"], history["loss"], marker="o" if few else None, markersize=3, **look)
            panel.set_title(method)
            panel.locator_params(nbins=4)
            panel.locator_params(axis="x", integer=True)
        for panel in axes[len(histories) :]:
            panel.set_axis_off()
        for panel in axes[max(0, len(histories) - columns) : len(histories)]:
            panel.set_xlabel("epoch")
        return to_svg(figure)


SHARE = "share of the training, %"


def share_of_training(history: "pd.DataFrame") -> "pd.Series[float]":
    """Where each row stands between the start (0) and the end (100): methods take equal time, and 2 or 30 epochs."""
    return 100 * history["epoch"] / max(history["epoch"].iloc[-1], 1)


def knn_curves(histories: Mapping[str, Sequence["pd.DataFrame"]], best: str | None) -> bytes | None:
    """kNN among the watched training images over the share of each training, all methods on one scale; None without labels."""
    shown = {m: [h for h in seeds if "knn" in h and len(h) > 1] for m, seeds in histories.items()}
    shown = {m: seeds for m, seeds in shown.items() if seeds}
    if not shown:
        return None
    with style():
        figure, (axes,) = new_figure(WIDTH, 3.4)
        ends = []
        for method, seeds in shown.items():
            look = {"linewidth": 2.2, "zorder": 3} if method == best else {"linewidth": 1.2, "alpha": 0.75}
            for history in seeds:
                axes.plot(share_of_training(history), 100 * history["knn"], color=color(method), **look)
            ends.append((100 * float(seeds[0]["knn"].iloc[-1]), method))
        low, high = axes.get_ylim()
        level = low
        for end, method in sorted(ends):  # names do not cover each other
            level = max(end, level + (high - low) * 0.055)
            axes.annotate(method, (100, end), (103, level), annotation_clip=False, fontsize=8, va="center_baseline")
        axes.set_xlim(0, 100)
        axes.set_xlabel(SHARE)
        axes.set_ylabel("kNN, %")
        return to_svg(figure)


INDICATORS = {
    "effective_rank": "effective rank (RankMe): directions in use",
    "feature_std": "feature std of unit vectors: spread",
    "alignment": "alignment: distance of two views of one image",
    "uniformity": "uniformity: lower is more evenly spread",
}


def health_curves(
    histories: Mapping[str, Sequence["pd.DataFrame"]], verdicts: Mapping[str, str], best: str | None
) -> bytes | None:
    """The label-free indicators over the share of each training, a panel each; None if no history has one.

    Methods are grey, but for the best in blue and the unhealthy in red; where none is the best, each has a look of its own. The
    dashed line is the untrained encoder.
    """
    looks, legend = _looks(list(histories), verdicts, best)
    curves = [
        (looks[method], history) for method in sorted(histories, key=lambda m: m == best) for history in histories[method]
    ]
    shown = [name for name in INDICATORS if any(name in history for _, history in curves)]
    if not shown:
        return None
    lines = -(-len(shown) // 2)
    with style():
        figure, axes = new_figure(WIDTH, 2.1 * lines + 0.3, lines, 2)
        for panel, name in zip(axes, shown, strict=False):
            _indicator(panel, name, [(look, history) for look, history in curves if name in history])
        for panel in axes[len(shown) :]:
            panel.set_axis_off()
        for label, look in (legend | {"untrained": {"color": TEXT, "linestyle": "--"}}).items():
            axes[0].plot([], [], label=label, **look | {"linewidth": 1.2})
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4 if best else 6)
        return to_svg(figure)


Look = dict[str, Any]
"""How matplotlib draws a line."""


def _looks(methods: Sequence[str], verdicts: Mapping[str, str], best: str | None) -> tuple[dict[str, Look], dict[str, Look]]:
    """The line of each method, and those of the legend by its words."""
    sick = [method for method in methods if verdicts.get(method, "healthy") != "healthy"]
    if best is None:
        tints = [tint for tint in CLASS_COLORS if tint != GREY]
        dashes: tuple[Any, ...] = ("-", *DASHES)
        looks: dict[str, Look] = {
            method: {"color": tints[i % len(tints)], "linestyle": dashes[i // len(tints) % len(dashes)], "linewidth": 1.4}
            for i, method in enumerate(methods)
        }
        return looks, {f"{method} (collapsed)" if method in sick else method: look for method, look in looks.items()}
    first, ill, other = {"color": BLUE, "linewidth": 2}, {"color": RED, "linewidth": 2}, {"color": GREY, "linewidth": 1.1}
    looks = {method: first if method == best else ill if method in sick else other | {"alpha": 0.55} for method in methods}
    return looks, {best: first, "others": other} | ({"collapsed in part or whole": ill} if sick else {})


def _indicator(panel: "Axes", name: str, curves: Sequence[tuple[Look, "pd.DataFrame"]]) -> None:
    """One indicator of every training, and the median of what it was before training."""
    for look, history in curves:
        panel.plot(share_of_training(history), history[name], **look)
    starts = [history[name].iloc[0] for _, history in curves if history["epoch"].iloc[0] == 0]
    if starts:
        panel.axhline(float(np.median(starts)), color=TEXT, linestyle=(0, (4, 3)), linewidth=1)
    panel.set_title(INDICATORS[name])
    panel.set_xlim(0, 100)
    panel.set_xlabel(SHARE)
