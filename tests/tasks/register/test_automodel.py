"""transformers' AutoModel on a package: by the user's word alone, and what it saves is a package again."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.encoder import load
from tests.conftest import textured_images
from tests.tasks.register.test_other_tools import package

RUN = """
import copy, json, sys
import numpy as np, torch
from transformers import AutoModel

folder, work = sys.argv[1:]
images = torch.from_numpy(np.load(f"{work}/images.npy"))
refused = {}
for name, options in {"no word": {}, "device": {"trust_remote_code": True, "device_map": "cpu"}}.items():
    try:
        AutoModel.from_pretrained(folder, **options)
    except Exception as error:
        refused[name] = str(error)
    refused[f"{name}: executed"] = any(name.startswith("transformers_modules.") for name in sys.modules)
net = AutoModel.from_pretrained(folder, trust_remote_code=True)
training = net.training
net.train()(images).square().sum().backward()
torch.optim.SGD(net.parameters(), 0.1).step()
net.eval().save_pretrained(f"{work}/saved")
again = AutoModel.from_pretrained(f"{work}/saved", trust_remote_code=True)
other = AutoModel.from_pretrained(f"{work}/saved", trust_remote_code=True, layer="block1")
with torch.no_grad():
    found = {"trained": net(images), "again": again(images), "other": other(images)}
    found["block1"] = net.maps(images)["block1"].mean((2, 3))
    half = copy.deepcopy(net).half()(images).dtype
np.savez(f"{work}/found.npz", **{name: value.numpy() for name, value in found.items()})
with open(f"{work}/said.json", "w") as said:
    json.dump({"refused": refused, "training": training, "half": str(half)}, said)
"""


def ran(folder: Path, work: Path, images: np.ndarray) -> dict[str, Any]:
    """What ``RUN`` says of a package, in a process of its own with a cache of its own."""
    np.save(work / "images.npy", images)
    home = {"HF_HOME": str(work / "cache"), "HF_HUB_OFFLINE": "1"}  # where transformers copies the code that it executes
    command = [sys.executable, "-I", "-c", RUN, str(folder), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, env=os.environ | home, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads((work / "said.json").read_text())
    return said


def test_automodel_needs_the_users_word_trains_and_saves_a_package(tmp_path: Path) -> None:
    folder, images = package(tmp_path / "package", "small", "block3"), textured_images(4, 1, 40)
    said = ran(folder, tmp_path, images)
    assert not said["training"] and said["half"] == "torch.float16"
    refused = said["refused"]
    assert "trust_remote_code=True" in refused["no word"] and not refused["no word: executed"]
    assert "device_map" in refused["device"] and refused["device: executed"]
    with np.load(tmp_path / "found.npz") as found, torch.no_grad():
        before, after = (load(place)(torch.from_numpy(images)).numpy() for place in (folder, tmp_path / "saved"))
        assert not np.allclose(found["trained"], before, atol=1e-2)
        assert all(np.allclose(found[name], after, atol=1e-5) for name in ("trained", "again"))
        assert np.allclose(found["other"], found["block1"], atol=1e-5)


def test_a_process_without_transformers_reads_the_file_without_it(tmp_path: Path) -> None:
    folder = package(tmp_path / "package", "small", "block3")
    code = "import sys; sys.path[:0] = [sys.argv[1]]; import modeling; modeling.load(sys.argv[1])"
    code += "; assert 'transformers' not in sys.modules and not hasattr(modeling, 'AutoEncoder')"
    done = subprocess.run([sys.executable, "-I", "-c", code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
