"""The lines of docs/other-tools.md, run as they are where this project's code is not: every tool gives the same features."""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from ssl_core.engine.encoders import EncoderConfig, build, description
from tasks.encoder import load
from tasks.register import export, modeling
from tasks.runtime import files
from tests.conftest import ROOT, textured_images
from tests.support.processes import wait_for

PAGE = (ROOT / "docs/other-tools.md").read_text()
SIDE = 32
RUN = """
import json, sys
sys.modules["ssl_core"] = sys.modules["tasks"] = None  # importing the project fails
import numpy as np, torch
torch.set_grad_enabled(False)
work = sys.argv[1]
found = {}
for heading, given in json.load(open(f"{work}/jobs.json")).items():
    space = {"images": np.load(f"{work}/images.npy"), "labels": [0, 1, 0, 1], "folder": given["folder"], "torch": torch}
    sys.path[:1] = [given["folder"]]
    for code in given["code"]:
        exec(code, space)
    found[heading] = np.asarray(eval(given["features"], space))
np.savez(f"{work}/found.npz", **found)
"""


def code(heading: str) -> str:
    """The Python lines under a heading of the page, as they are."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", part, re.S))


def package(place: Path, name: str, layer: str) -> Path:
    """What these tools read of the folder that a user fetches, of an untrained encoder; tracing its graph takes seconds."""
    config = EncoderConfig(name=name, width=8, depth=1, patch_size=4, norm="batch")
    encoder = build(config, 1, SIDE, seed=3).eval()
    facts = {"encoder": description(config, 1, SIDE), "mean": [0.4], "std": [0.3]}
    place.mkdir()
    files.save_tensors(place / modeling.WEIGHTS, {key: value.numpy() for key, value in encoder.state_dict().items()})
    files.write_json(place / modeling.CONFIG, made := export.describe(encoder, facts, layer))
    files.write_text(place / modeling.SOURCE, modeling.source(made, "An encoder."))
    return place


def at_champion(text: str, root: Path) -> str:
    """The page's address of the registry and the model, as this project has them."""
    return text.replace("/PROJECT", str(root.resolve())).replace("ssl-fashion-mnist-12k", "ssl-example")


def agree(found: np.ndarray, folder: Path, images: np.ndarray) -> bool:
    """Whether features are those of the encoder in ``folder``, to 1e-5 of the largest."""
    with torch.no_grad():
        expected = load(folder)(torch.from_numpy(images)).numpy()
    return found.shape == expected.shape and bool(abs(found - expected).max() < 1e-5 * max(1, abs(expected).max()))


@pytest.mark.slow
def test_each_tool_gives_the_same_features_by_the_lines_of_the_page(original: Path, tmp_path: Path) -> None:
    first = PAGE.split("\n## ")[0]
    fetch, sees = re.findall(r"```python\n(.*?)```", first, re.S)
    images = textured_images(4, 1, SIDE)
    np.save(tmp_path / "images.npy", images)
    kinds = {"small": "block3", "resnet18": "block4", "timm/mobilenetv3_small_100": "block1"}
    folders = {kind: package(tmp_path / kind.replace("/", "-"), kind, layer) for kind, layer in kinds.items()}
    tools = {
        "The Hugging Face folder": ("small", "features"),
        "torchvision": ("resnet18", "net.eval()(x)"),
        "timm": ("resnet18", "net.eval()(x)[-1].mean((2, 3))"),
        "A network of timm": (
            "timm/mobilenetv3_small_100",
            "net.eval().forward_intermediates(x, norm=True)[1][0].mean((2, 3))",
        ),
    }
    jobs = {
        heading: {"folder": str(folders[kind]), "code": [sees, code(heading)], "features": features}
        for heading, (kind, features) in tools.items()
    }
    start = at_champion(fetch, original)
    (loaded,) = re.findall(r"`(mlflow\.pyfunc\.load_model.*?)`", PAGE)
    of_champion = {
        "ONNX Runtime": (code("ONNX Runtime"), "features"),
        "scikit-learn": (code("scikit-learn"), "encode.transform(images)"),
        "MLflow": ("", at_champion(loaded, original)),
    }
    jobs |= {name: {"folder": "", "code": [start, lines], "features": out} for name, (lines, out) in of_champion.items()}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run([sys.executable, "-I", "-c", RUN, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    for heading, (kind, _) in tools.items():
        assert agree(found[heading], folders[kind], images), heading
    for heading in of_champion:
        assert agree(found[heading], original / "out/encoders/simclr-0", images), heading


@pytest.mark.slow
def test_a_server_of_mlflow_answers_with_the_same_features(original: Path, tmp_path: Path) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (start,) = re.findall(r"```bash\n(.*?)```", PAGE.split("\n## MLflow\n")[1].split("\n## ")[0], re.S)
    command = at_champion(start, original).replace("5001", port)
    found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # as in an activated environment
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            f"exec env {command}", shell=True, cwd=tmp_path, stdout=log, stderr=log, env=os.environ | found
        )
    try:
        address = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(f"{address}/ping").status_code == 200
            except httpx.TransportError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                return False

        wait_for(answers, 120)
        for shape in ((4, SIDE), (1, 40)):
            images = textured_images(shape[0], 1, shape[1])
            space = {"images": images}
            exec(code("MLflow").replace("5001", port), space)
            assert agree(np.asarray(space["features"], np.float32), original / "out/encoders/simclr-0", images)
    finally:
        server.terminate()
        server.wait(30)
