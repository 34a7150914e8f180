"""The first twenty losses of every method, remembered: a change of numbers anywhere on the way shows here first.

``python -m tests.golden`` computes them anew from params.yaml, ``python -m tests.golden simclr`` those of one method; what
changed is the diff of golden.json. The parameters are remembered, too, so that tuning params.yaml makes no test fail.

Processors round differently, and training amplifies it: a unit near the kink of its ReLU falls on the other side, and a
whole gradient changes. At a tenth of the learning rates this stays small: over 1 and 2 threads and the kernels of AVX-512,
AVX2 and plain x86-64 the losses differed by up to 2e-4 (SimCLR; 2e-5 elsewhere), while the 20 updates change them by 8e-4
(CPC) and more. At the full rates SimCLR's differed by 9e-2.
"""

import json
import sys
from typing import Any

import torch
from torch import Tensor

from ssl_core.engine.method import Batch
from tasks.preset import merge
from tasks.runtime import params
from tests.conftest import ROOT
from tests.ssl_core.engine.test_contract import BATCH, TRAINED, N, build

STEPS = 20
CALM = 0.1  # share of the learning rates
TOLERANCE = 5e-4
FILE = ROOT / "tests/golden.json"


def read() -> dict[str, Any]:
    """``params``: the sections a training reads; ``losses``: 20 numbers by name of the method."""
    golden: dict[str, Any] = json.loads(FILE.read_text())
    return golden


def losses(values: dict[str, Any], name: str) -> list[float]:
    """The loss before each of the first twenty updates: float32 on a CPU, 64 color images of 32 px, 16 a step.

    A parameter that is newer than the remembered ones has its shipped value, which changes no result.
    """
    known = params.load(ROOT / "params.yaml")
    merge(known, values)
    _, trainer = build(known, name, channels=3, size=32, epochs=STEPS * BATCH // N)
    assert trainer.optimizer is not None
    for group in trainer.optimizer.param_groups:
        group["peak_lr"] *= CALM
    forward, seen = trainer.forward, []

    def remember(batch: Batch) -> dict[str, Tensor]:
        out = forward(batch)
        seen.append(out["loss"].item())
        return out

    trainer.forward = remember
    trainer.run()
    return seen


def main(names: list[str]) -> None:
    """Compute the losses of these methods, or of all, and write the file."""
    shipped = params.load(ROOT / "params.yaml")
    golden = read() if names else {"params": {k: shipped[k] for k in ("encoder", "train", "augment")}, "losses": {}}
    golden["params"].setdefault("method", {})
    for name in names or TRAINED:
        golden["params"]["method"][name] = shipped["method"][name]
        golden["losses"][name] = [float(f"{loss:.7g}") for loss in losses(golden["params"], name)]
    lines = [f'"{name}": {json.dumps(values)}' for name, values in golden["losses"].items()]
    FILE.write_text(f'{{"params": {json.dumps(golden["params"])},\n"losses": {{\n' + ",\n".join(lines) + "}}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
