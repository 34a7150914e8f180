"""The benchmark of a GPU, whole and in miniature on a CPU, with no package that the machine with the GPU would lack."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tasks.runtime import files
from tests.conftest import ROOT, textured_images

LACKING = {"PIL", "mlflow", "dvc", "pandas", "sklearn", "scipy", "matplotlib", "lightly", "prefect", "onnxruntime"}
MEASURED = {"ceilings": 2, "steps": 3, "methods": 1, "resume": 1, "neighbors": 1, "cifar": 3}
"""Rows of each part."""


def prepared(folder: Path) -> Path:
    """320 training and 32 test images, as the stage ``prepare`` leaves them; class 1 is the negative of class 0."""
    folder.mkdir()
    for split, count in (("train", 320), ("test", 32)):
        images, labels = textured_images(count, 3, 32), np.arange(count) % 2
        images[labels == 1] = 255 - images[labels == 1]
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", labels)
    np.save(folder / "train_holdout.npy", np.zeros(320, bool))
    facts = {"name": "textures", "classes": ["0", "1"], "image_size": 32, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    files.write_json(folder / "meta.json", facts)
    files.seal(folder)
    return folder


def test_every_part_is_measured_in_miniature(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    arguments = ["gpu", "--device", "cpu", "--small", "--data", str(prepared(tmp_path / "data")), "--out", str(out)]
    code = (
        f"import sys; sys.argv = {arguments}; from benchmarks import gpu; code = gpu.main();"
        f"print('imported:', sorted({LACKING} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("imported: []\n")
    rows = json.loads(out.read_text())["rows"]
    assert {part: sum(row["part"] == part for row in rows) for part in MEASURED} == MEASURED
    assert all(row["value"] > 0 for row in rows)
    assert done.stdout.count("\n| ") == len(rows) + 1  # and the head of the table
