"""The notebook in examples/ runs from its first cell to its last."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples/nearest.ipynb"


def test_every_cell_runs_where_a_notebook_runs(original: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")
    code = code.replace("ssl-fashion-mnist-12k", "ssl-example") + "\nprint(nearest.shape, len(plt.gca().images))"
    (original / "examples").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=original / "examples",
        capture_output=True,
        text=True,
        env=os.environ | {"MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["torch.Size([20,", "6])", "1"]
