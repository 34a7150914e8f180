"""The lines of docs/other-tools.md, run as they are where this project's code is not: every tool gives the same features."""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import requests
import torch

from ssl_core.engine.encoders import EncoderConfig, build, description, open_residuals
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
for job, given in json.load(open(f"{work}/jobs.json")).items():
    space = {"images": np.load(f"{work}/images.npy"), "labels": [0, 1, 0, 1], "folder": given["folder"]}
    sys.path[:1] = [given["folder"]]
    for code in given["code"]:
        exec(code, space)
    found[job] = np.asarray(eval(given["features"], space))
np.savez(f"{work}/found.npz", **found)
"""


def fences(heading: str = "", kind: str = "python") -> list[str]:
    """What stands in the fences of a kind under a heading of the page, as it is; without a heading: before the first."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0] if heading else PAGE.split("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", part, re.S)


def code(heading: str) -> str:
    """The Python lines under a heading of the page, as they are."""
    return "\n".join(fences(heading))


IMPORTS, FETCH, SEES = fences()
LAST = "net.eval().forward_intermediates(x, norm=True)[0].mean((2, 3))"
STAGE = "net.eval().forward_intermediates(x, norm=True)[1][int(config['layer'][5:]) - 1].mean((2, 3))"
ONLY = "net.eval()(x)[int(config['layer'][5:]) - 1].mean((2, 3))"
SIZED = "in_chans=x.shape[1], img_size=size"


@dataclass(frozen=True)
class Case:
    """Lines of the page on an encoder: the Python that gives the features, or what has to differ in the lines."""

    heading: str
    encoder: str
    layer: str
    features: str = "features"
    input_size: int | None = None
    in_chans: str = "in_chans=x.shape[1]"


CASES = [
    Case("The Hugging Face folder", "small", "block3"),
    Case("torchvision", "resnet18", "block4", "net.eval()(x)"),
    Case("torchvision", "resnet18", "block4", "net.eval()(x)", 36),
    Case("torchvision", "resnet50", "block4", "net.eval()(x)", 24),
    Case("timm", "resnet18", "block4", "net.eval()(x)[-1].mean((2, 3))"),
    Case("timm", "resnet18", "block4", "net.eval()(x)[-1].mean((2, 3))", 36),
    Case("A network of timm", "timm/mobilenetv3_small_100", "block1", STAGE),
    Case("A network of timm", "timm/mobilenetv3_small_100", "block5", LAST, 64),
    Case("A network of timm", "timm/tf_efficientnet_lite0", "block6", LAST, 64),
    Case("A network of timm", "timm/vit_tiny_patch16_224", "block12", STAGE, 64, SIZED),
    Case("A network of timm, features only", "timm/mobilenetv3_small_100", "block5", ONLY),
    Case("A network of timm, features only", "timm/tf_efficientnet_lite0", "block3", ONLY, 64),
    Case("A network of timm, features only", "timm/convnext_atto", "block4", ONLY, 64),
    Case("AutoModel of transformers", "small", "block3"),
    # its buffers are computed, and not stored
    Case("AutoModel of transformers", "timm/tiny_vit_5m_224", "block4", input_size=64),
]


def package(place: Path, name: str, layer: str, input_size: int | None = None) -> Path:
    """What these tools read of the folder that a user fetches, of an untrained encoder; tracing its graph takes seconds."""
    config = EncoderConfig(name=name, width=8, depth=1, patch_size=4, norm="batch", input_size=input_size)
    encoder = open_residuals(build(config, 1, SIDE, seed=3)).eval()
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
    return found.shape == expected.shape and bool(abs(found - expected).max() < 1e-5 * abs(expected).max())


def run(jobs: dict[str, Any], images: np.ndarray, work: Path) -> dict[str, np.ndarray]:
    """The features that each job's lines give, in one process that cannot import the project."""
    np.save(work / "images.npy", images)
    (work / "jobs.json").write_text(json.dumps(jobs))
    home = {"HF_HOME": str(work / "cache"), "HF_HUB_OFFLINE": "1"}  # where transformers copies the code that it executes
    command = [sys.executable, "-I", "-c", RUN, str(work)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, env=os.environ | home)
    assert done.returncode == 0, done.stderr
    return dict(np.load(work / "found.npz"))


def test_no_tool_needs_more_than_three_lines() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, re.M)
    assert {case.heading for case in CASES} < set(headings)
    for heading in headings:
        for lines in fences(heading, "python(?: by-hand)?"):
            assert len([line for line in lines.splitlines() if line]) <= 3, heading


@pytest.mark.slow
def test_each_tool_of_torch_gives_the_same_features_by_the_lines_of_the_page(tmp_path: Path) -> None:
    jobs, folders = {}, {}
    for number, case in enumerate(CASES):
        job = f"{number} {case.heading}"
        folders[job] = package(tmp_path / str(number), case.encoder, case.layer, case.input_size)
        lines = code(case.heading).replace("in_chans=x.shape[1]", case.in_chans)
        jobs[job] = {"folder": str(folders[job]), "code": [IMPORTS, SEES, lines], "features": case.features}
    images = textured_images(4, 1, SIDE)
    for job, found in run(jobs, images, tmp_path).items():
        assert agree(found, folders[job], images), job


@pytest.mark.slow
def test_each_tool_of_a_store_gives_the_same_features_by_the_lines_of_the_page(original: Path, tmp_path: Path) -> None:
    (loaded,) = re.findall(r"`(mlflow\.pyfunc\.load_model.*?)`", PAGE)
    tools = {
        "ONNX Runtime": (code("ONNX Runtime"), "features"),
        "scikit-learn": (code("scikit-learn"), "encode.transform(images)"),
        "MLflow": ("", at_champion(loaded, original)),
    }
    start = [IMPORTS, at_champion(FETCH, original)]
    jobs = {name: {"folder": "", "code": [*start, lines], "features": out} for name, (lines, out) in tools.items()}
    images = textured_images(4, 1, SIDE)
    for job, found in run(jobs, images, tmp_path).items():
        assert agree(found, original / "out/encoders/simclr-0", images), job


@pytest.mark.slow
def test_a_server_of_mlflow_answers_with_the_same_features(original: Path, tmp_path: Path) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (start,) = fences("MLflow", "bash")
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
            space = {"images": images, "requests": requests}
            exec(code("MLflow").replace("5001", port), space)
            assert agree(np.asarray(space["features"], np.float32), original / "out/encoders/simclr-0", images)
    finally:
        server.terminate()
        server.wait(30)
