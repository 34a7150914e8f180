"""The first twenty losses of every method, remembered: a change of numbers anywhere on the way shows here first.

``python -m tests.golden`` computes them anew from params.yaml, ``python -m tests.golden simclr`` those of one method; what
changed is the diff of golden.json. On one machine every digit repeats, so no diff means: not a bit has changed. The
parameters are remembered, too, so that tuning params.yaml makes no test fail. The same command writes README's table of
methods, which follows from their files.

Processors round differently, and training amplifies it: a unit near the kink of its ReLU falls on the other side, and a
whole gradient changes. By how much depends on the method, so it is measured: the same twenty steps are run again with every
input, every output of a layer and every gradient moved by about one rounding (``shake``). ``spread`` remembers how far the
losses were from the undisturbed ones, up to each step. A loss may differ from the remembered one by SAFETY times that and
one rounding of itself (``bounds``). Kernels of AVX-512, AVX2 and plain x86-64 differ by at most twice the spread. At the full
learning rates SimCLR's losses are noise after a few steps, so a tenth of them is used.
"""

import contextlib
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssl_core.catalogue import BASELINES, METHODS
from ssl_core.engine.method import Batch, Method
from tasks.preset import merge
from tasks.runtime import params
from tests.conftest import ROOT
from tests.ssl_core.engine.test_contract import BATCH, TRAINED, N, build

STEPS = 20
CALM = 0.1  # share of the learning rates
ROUNDING = 2.0**-24  # largest relative error of one, float32
SHAKEN = 4  # runs behind a spread
SAFETY = 8
FILE = ROOT / "tests/golden.json"
README = ROOT / "README.md"


class Enough(Exception):
    """As many losses as were asked for."""


def read() -> dict[str, Any]:
    """``params``: the sections a training reads; ``losses`` and ``spread``: 20 numbers each by name of the method."""
    golden: dict[str, Any] = json.loads(FILE.read_text())
    return golden


def losses(values: dict[str, Any], name: str, steps: int = STEPS, shaken: int | None = None) -> list[float]:
    """The loss before each of the first updates: float32 on a CPU, 64 color images of 32 px, 16 a step.

    A parameter that is newer than the remembered ones has its shipped value, which changes no result.

    Args:
        steps: how many, of a training of twenty.
        shaken: seed of the disturbance; None for an undisturbed run.
    """
    known = params.load(ROOT / "params.yaml")
    for block in known["method"].values():  # what a method has otherwise than all is remembered as a whole
        for section in ("encoder", "train", "augment"):
            block.pop(section, None)
    merge(known, values)
    method, trainer = build(known, name, channels=3, size=32, epochs=STEPS * BATCH // N)
    assert trainer.optimizer is not None
    for group in trainer.optimizer.param_groups:
        group["peak_lr"] *= CALM
    forward, seen = trainer.forward, []
    move = (lambda x: x) if shaken is None else shake(method, shaken)

    def remember(batch: Batch) -> dict[str, Tensor]:
        if len(seen) == steps:
            raise Enough
        out = forward(batch._replace(views=tuple(move(view) for view in batch.views)))
        seen.append(out["loss"].item())
        return out

    trainer.forward = remember
    with contextlib.suppress(Enough):
        trainer.run()
    return seen


def shake(method: Method, seed: int) -> Callable[[Tensor], Tensor]:
    """From now on layers' outputs and gradients of ``method`` are off by about a rounding; returns what moves an input so.

    The error is normal, its deviation a rounding of the tensor's root mean square: like that of a sum in another order it
    does not shrink where the terms of the sum cancel.
    """
    generator = torch.Generator().manual_seed(seed)

    def move(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        size = ROUNDING * x.detach().square().mean().sqrt()
        return x + torch.randn(x.shape, generator=generator) * size

    for module in method.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, inputs, out: move(out))
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.register_hook(move)
    return move


def spread(values: dict[str, Any], name: str, calm: list[float]) -> list[float]:
    """How far the losses of shaken runs were from the ``calm`` ones, at each step or before it."""
    runs = [losses(values, name, shaken=seed) for seed in range(SHAKEN)]
    distances = [max(abs(loss - own) for loss in step) for own, *step in zip(calm, *runs, strict=True)]
    return [max(distances[: i + 1]) for i in range(STEPS)]


def bounds(golden: dict[str, Any], name: str) -> list[float]:
    """How far a loss may be from the remembered one, step by step."""
    rounding = ROUNDING * max(abs(loss) for loss in golden["losses"][name])
    return [SAFETY * (distance + rounding) for distance in golden["spread"][name]]


def excess(golden: dict[str, Any], name: str, computed: list[float]) -> float:
    """The largest deviation of ``computed`` losses in multiples of what is allowed."""
    allowed = zip(computed, golden["losses"][name], bounds(golden, name), strict=False)
    return max(abs(now - then) / bound for now, then, bound in allowed)


def table(readme: str) -> str:
    """README's text with the table of methods as the catalogue has it. The order of its rows stays, and what is on by default:
    params.yaml, which may hold a comparison of one's own, says it of a new row."""
    run = params.run_config(params.load(ROOT / "params.yaml")).methods
    facts = {name: f"{about.title} | {about.year} | {about.family} |" for name, about in METHODS.items()}
    facts |= {name: f"baseline: {title} | | |" for name, title in BASELINES.items()}
    before, head, rest = readme.partition("| on by default |\n|---|---|---|---|---|\n")
    rows, blank, after = rest.partition("\n\n")
    listed = re.findall(r"^\| `(\w+)`", rows, re.M)
    default = {*re.findall(r"^\| `(\w+)` .*\| yes \|$", rows, re.M), *(name for name in run if name not in listed)}
    names = [name for name in dict.fromkeys([*listed, *facts]) if name in facts]
    names.sort(key=lambda name: name in BASELINES)
    rows = "\n".join(f"| `{name}` | {facts[name]} {'yes ' if name in default else ''}|" for name in names)
    return before + head + rows + blank + after


def main(names: list[str]) -> None:
    """Compute the losses of these methods, or of all, and write golden.json and README's table."""
    README.write_text(table(README.read_text()))
    shipped = params.load(ROOT / "params.yaml")
    new = {"params": {k: shipped[k] for k in ("encoder", "train", "augment")}, "losses": {}, "spread": {}}
    golden = read() if names else new
    golden["params"].setdefault("method", {})
    for name in names or TRAINED:
        golden["params"]["method"][name] = shipped["method"][name]
        computed = losses(golden["params"], name)
        golden["losses"][name] = [float(f"{loss:.7g}") for loss in computed]
        golden["spread"][name] = [float(f"{distance:.2g}") for distance in spread(golden["params"], name, computed)]
    parts = [f'"params": {json.dumps(golden["params"])}']
    for part in ("losses", "spread"):
        lines = [f'"{name}": {json.dumps(values)}' for name, values in golden[part].items()]
        parts.append(f'"{part}": {{\n' + ",\n".join(lines) + "}")
    FILE.write_text("{" + ",\n".join(parts) + "}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
