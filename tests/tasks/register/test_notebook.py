"""The notebook in examples/ runs from its first cell to its last."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples/nearest.ipynb"


def test_every_cell_runs_where_a_notebook_runs(original: Path, tmp_path: Path) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert all(cell["outputs"] == [] for cell in cells) and len([line for line in code.splitlines() if line]) <= 10
    code = code.replace("ssl-fashion-mnist-12k", "ssl-example")
    code += (
        f".save({str(tmp_path / 'picture.png')!r})\nprint(tuple(nearest.shape), tuple(images.shape[1:]))"  # a notebook shows it
    )
    (original / "examples").mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", code], cwd=original / "examples", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(8, 6) (1, 28, 28)"
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (480, 640)
