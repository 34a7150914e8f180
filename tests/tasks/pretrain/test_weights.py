"""Where weights come from, what is known of them, and what is refused: one line, and the right code."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from ssl_core.config import ConfigError
from ssl_core.engine.encoders import EncoderConfig, build
from ssl_core.engine.weights import put
from tasks.pretrain import weights
from tasks.runtime import files, params
from tasks.runtime.errors import Stop, explain
from tests.conftest import ROOT
from tests.support.configs import ENCODER, encoder_of
from tests.support.hub import served

LITE0 = replace(ENCODER, name="timm/tf_efficientnet_lite0", weights="package")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``weights/`` of the project in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    return Path("weights")


def refusal(config: EncoderConfig) -> tuple[int, str]:
    with pytest.raises((Stop, ConfigError)) as caught:
        weights.find(config)
    code, message = explain(caught.value)
    assert "\n" not in message and len(message) < 400
    return code, message


def test_the_packaged_weights_give_the_logits_of_their_own_model() -> None:
    """The numbers are those of the model that the authors of the package published for it, on the same input."""
    start = weights.find(LITE0)
    assert start is not None and start.license == "Apache-2.0" and len(start.sha256) == 64
    encoder = build(LITE0, 3, 96, 0)
    assert put(encoder, start.tensors, start.source).share == 1.0
    x = torch.sin(torch.arange(3 * 96 * 96) * 0.37).reshape(1, 3, 96, 96)
    with torch.no_grad():
        logits = encoder.eval()(x) @ start.tensors["classifier.weight"].T + start.tensors["classifier.bias"]
    known = [-0.8773696, 0.0844769, -0.6079501, -3.4203913, 0.4962817, 0.4758633, -1.5093913, 1.2453977]
    torch.testing.assert_close(logits[0, :8], torch.tensor(known), rtol=1e-4, atol=1e-4)
    assert int(logits.argmax()) == 904


def test_the_shipped_row_is_of_these_weights() -> None:
    chosen = params.method_params(params.load(ROOT / "params.yaml"), "pretrained")
    assert chosen.encoder.weights == "package" and chosen.encoder.name == weights.PACKAGED
    assert not chosen.train.trains and 96 <= (chosen.encoder.input_size or 0) <= 128


def test_the_preprocessing_is_that_of_the_weights() -> None:
    start = weights.Start("", {}, "", mean=(0.3, 0.4, 0.5), std=(0.1, 0.2, 0.3))
    assert start.preprocessing(3) == ((0.3, 0.4, 0.5), (0.1, 0.2, 0.3))
    assert start.preprocessing(1) == (pytest.approx((0.4,)), pytest.approx((0.2,)))
    assert weights.Start("", {}, "").preprocessing(3) is None


@pytest.mark.parametrize("kind", ["safetensors", "pth", "state_dict"])
def test_a_file_is_read_and_hashed(folder: Path, kind: str) -> None:
    state = encoder_of(seed=3).state_dict()
    path = folder / ("mine.safetensors" if kind == "safetensors" else "mine.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": state} if kind == "state_dict" else state, path)
    start = weights.find(replace(ENCODER, weights=str(path)))
    assert start is not None and start.sha256 == files.sha256(path) and start.mean is None
    assert all(torch.equal(start.tensors[name].reshape(value.shape), value) for name, value in state.items())


def test_no_weights_are_no_start() -> None:
    assert weights.find(ENCODER) is None


class Code:
    """What a checkpoint should not hold."""


def test_bad_files_are_refused(folder: Path) -> None:
    torch.save({"model": Code()}, folder / "code.pth")
    (folder / "pickled.pth").write_bytes(pickle.dumps({"model": Code()}))  # in a protocol that torch does not read at all
    (folder / "noise.pth").write_bytes(bytes(range(1, 200)))
    torch.save({"epoch": 1}, folder / "none.pth")
    torch.save([torch.ones(3)], folder / "list.pth")
    torch.save({"stem": torch.ones(10_000)}, folder / "whole.pth")
    (folder / "half.pth").write_bytes((folder / "whole.pth").read_bytes()[:5000])
    (folder / "half.safetensors").write_bytes(b"\x10" + bytes(20))
    save_file({"stem": torch.tensor([1.0, float("nan")])}, folder / "nan.safetensors")
    (folder / "readme.txt").write_text("hello")
    expected = {
        "code.pth": (2, "needs code to be unpickled"),
        "pickled.pth": (2, "needs code to be unpickled"),
        "none.pth": (2, "holds no tensors by name"),
        "list.pth": (2, "holds no tensors by name"),
        "noise.pth": (6, "is damaged"),
        "half.pth": (6, "is damaged"),
        "half.safetensors": (6, "half.safetensors cannot be read: it is damaged"),
        "nan.safetensors": (6, "not finite"),
        "readme.txt": (2, "neither .safetensors nor .pth"),
        "absent.pth": (2, "does not exist"),
    }
    for name, (code, words) in expected.items():
        found, message = refusal(replace(ENCODER, weights=f"weights/{name}"))
        assert (found, words in message, name in message) == (code, True, True), (name, found, message)


def test_names_that_are_no_weights_are_refused(folder: Path) -> None:
    assert refusal(replace(ENCODER, weights="elsewhere/mine.pth"))[0] == 2
    assert refusal(replace(ENCODER, weights="weights/../mine.pth"))[0] == 2
    assert refusal(replace(ENCODER, weights="hub")) == (
        2,
        "encoder.weights: hub has none for small; it has for timm/NAME and resnet18 to 50",
    )
    code, message = refusal(replace(ENCODER, name="timm/resnet18.a1_in2k", weights="hub"))
    assert code == 2 and "timm has no weights 'resnet18.a1_in2k'; did you mean 'resnet18.a1_in1k'" in message
    code, message = refusal(replace(ENCODER, weights="package"))
    assert code == 2 and "holds weights of timm/tf_efficientnet_lite0" in message


def test_a_model_that_is_not_registered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    code, message = refusal(replace(ENCODER, weights="models:/nothing@champion"))
    assert code == 2 and message.startswith(
        "encoder.weights: models:/nothing@champion is not registered here (there is no store"
    )


DOWNLOAD = """
import sys
from dataclasses import replace
from ssl_core.config import ConfigError
from tasks.pretrain.weights import find
from tasks.runtime.errors import Stop, explain
from tests.support.configs import ENCODER

for name in sys.argv[1:]:
    try:
        start = find(replace(ENCODER, name=f"timm/{name}", weights="hub"))
        print(name, start.source, start.license, float(sum(v.double().sum() for v in start.tensors.values())), sep="|")
    except Stop as error:
        print(name, *explain(error), sep="|")
"""


def test_weights_are_downloaded_from_a_hub_and_a_broken_connection_is_one_line(tmp_path: Path) -> None:
    import timm

    names = ("test_byobnet.r160_in1k", "test_efficientnet.r160_in1k", "test_resnet.r160_in1k")
    states = {name: timm.create_model(name.split(".")[0]).state_dict() for name in names[:2]}
    content = {f"timm/{name}/model.safetensors": save(state) for name, state in states.items()}
    with served(content, broken=[f"timm/{names[1]}/model.safetensors"]) as address:
        env = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", DOWNLOAD, *names]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, broken, absent = (line.split("|") for line in done.stdout.splitlines())
    total = float(sum(value.double().sum() for key, value in states[names[0]].items() if "head." not in key))
    assert whole[1:3] == [f"hub: timm/{names[0]}", "apache-2.0"] and float(whole[3]) == pytest.approx(total)
    for name, (_, code, message) in zip(names[1:], (broken, absent), strict=True):
        assert code == "4" and f"the weights of timm/{name} could not be downloaded (" in message
        assert message.endswith("name a file in weights/")
    # The hub is gone now: what was downloaded before serves, and the rest is one line without a minute of retries.
    done = subprocess.run([*command[:3], names[0], names[2]], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    again, absent = (line.split("|") for line in done.stdout.splitlines())
    assert again[1:3] == whole[1:3] and absent[1] == "4" and "(127.0.0.1: Connection refused)" in absent[2], done


def test_a_stage_depends_on_the_file_it_names_and_on_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.pretrain.__main__ import make
    from tests.support.project import training_project

    changes = {"run": {"methods": ["simclr", "start"]}, "encoder": {"weights": "weights/mine.safetensors"}}
    monkeypatch.chdir(training_project(tmp_path / "p", **changes))
    found = []
    for name, seed in (("mine", 1), ("other", 1), ("other", 2), ("mine", 2)):
        save_file(encoder_of(width=8, seed=seed).state_dict(), f"weights/{name}.safetensors")
        found.append(make("simclr", 0)[0].fingerprint)
    assert found[0] == found[1] == found[2] != found[3]
