"""Real exploits, planted where this project reads and where it tells others to read: none of them runs."""

import contextlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.register import export, modeling
from tasks.register.registry import load
from tasks.runtime import dataset, files, saved_encoder
from tasks.runtime.errors import IntegrityError
from tests.support.registered import stored


class Exploit:
    """Unpickling it makes the file ``EXPLOITED`` in the current directory."""

    def __reduce__(self):
        return os.system, ("touch EXPLOITED",)


def exploited() -> bool:
    return Path("EXPLOITED").exists()


def torch_pickle() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": Exploit()}, buffer)
    return buffer.getvalue()


def exported_program(tmp_path: Path) -> bytes:
    """A ``.pt2`` whose sample inputs are the exploit."""
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "honest.pt2")
    with zipfile.ZipFile(tmp_path / "honest.pt2") as honest, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as evil:
        for name in honest.namelist():
            evil.writestr(name, torch_pickle() if "sample_inputs" in name else honest.read(name))
    return (tmp_path / "evil.pt2").read_bytes()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Exploit()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def test_the_exploits_are_real(tmp_path, monkeypatch):
    """Each runs when it is read as others read it; ``torch.export.load`` needs no word of consent for it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt2").write_bytes(exported_program(tmp_path))
    readers = (
        lambda: torch.export.load(tmp_path / "evil.pt2"),
        lambda: torch.load(io.BytesIO(torch_pickle()), weights_only=False),
        lambda: np.load(io.BytesIO(array()), allow_pickle=True),
    )
    for read in readers:
        with contextlib.suppress(Exception):  # what comes out is no tensor: too late
            read()
        assert exploited()
        Path("EXPLOITED").unlink()


# ------------------------------------------------------------------ the registry


def plant(package: Path, name: str, data: bytes, *, trusted: bool) -> None:
    """Put a file into a package; ``trusted``: and make manifest and registry agree, as whoever owns the store can."""
    from mlflow import MlflowClient

    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_bytes(data)
    if trusted:
        (package / files.MANIFEST).unlink()
        files.seal(package)
        version = MlflowClient().get_model_version_by_alias("ssl-example", "champion")
        digest = files.sha256(package / files.MANIFEST)
        MlflowClient().set_model_version_tag("ssl-example", version.version, "ssl.manifest", digest)


CODE = b"import pathlib; pathlib.Path('EXPLOITED').touch()\n"
MLMODEL = b"""flavors:
  python_function: {loader_module: planted, code: code, data: encoder.onnx, env: {virtualenv: python_env.yaml}}
  onnx: {code: code, data: encoder.onnx, onnx_version: '1'}
"""


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", [modeling.WEIGHTS, modeling.CONFIG, export.ONNX, "data/model.pt2", "data/model.pth", "x.npy"])
@pytest.mark.fault("F71")
def test_a_pickle_in_a_registered_package_does_not_run(root, tmp_path, name, trusted):
    data = exported_program(tmp_path) if name.endswith(".pt2") else array() if name.endswith(".npy") else torch_pickle()
    plant(stored(), name, data, trusted=trusted)
    if name in (modeling.WEIGHTS, modeling.CONFIG) or not trusted:  # a manifest lists every file
        with pytest.raises(IntegrityError):
            load()
    else:  # a listed one that this loader does not open
        load()
    assert not exploited()


@pytest.mark.fault("F71")
def test_code_in_a_registered_package_does_not_run(root):
    package = stored()
    for name in ("modeling.py", "code/planted.py", "code/onnx.py", "code/torch.py", "__init__.py"):
        plant(package, name, CODE, trusted=True)
    plant(package, "MLmodel", MLMODEL, trusted=True)
    load()
    assert not exploited()


README = """
import os, sys
import numpy as np
from tasks.encoder import load
encoder = load("models:/ssl-example@champion")
import mlflow, onnxruntime
folder = mlflow.artifacts.download_artifacts("models:/ssl-example@champion")
images = np.zeros((2, 1, 28, 28), np.uint8)
features = onnxruntime.InferenceSession(f"{folder}/encoder.onnx").run(None, {"images": images})[0]
again = load(folder)
print("loaded", features.shape)
"""


@pytest.mark.fault("F71")
def test_the_documented_lines_run_nothing_of_the_store(root, tmp_path):
    package = stored()
    for name in ("modeling.py", "code/planted.py", "code/onnx.py"):
        plant(package, name, CODE, trusted=True)
    plant(package, "MLmodel", MLMODEL, trusted=True)
    plant(package, "data/model.pt2", exported_program(tmp_path), trusted=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_ALLOW")}  # as a user's own process has it
    done = subprocess.run([sys.executable, "-c", README], capture_output=True, text=True, env=environment)
    assert "loaded (2, 16)" in done.stdout, done.stderr
    assert not exploited()


def test_onnxruntime_refuses_a_pickle(tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes(torch_pickle())
    with pytest.raises(Exception, match=r"(?i)protobuf|invalid|fail"):
        onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    assert not exploited()


# ------------------------------------------------------------------ what DVC keeps


@pytest.mark.fault("F71")
def test_a_pickle_in_what_dvc_keeps_does_not_run(root):
    """Sealed again, as whoever can write to a remote can do: arrays, weights, descriptions and features."""
    prepared, saved = root / dataset.PREPARED, root / "out/encoders/simclr-0"
    arrays = sorted(p.name for p in prepared.glob("*.npy"))
    assert arrays
    for folder, name, data, read in (
        *((prepared, name, array(), dataset.load) for name in arrays),
        *((prepared, name, torch_pickle(), dataset.load) for name in arrays),
        (saved, saved_encoder.WEIGHTS, torch_pickle(), lambda: saved_encoder.load(saved)),
        (saved, saved_encoder.FACTS, torch_pickle(), lambda: saved_encoder.load(saved)),
    ):
        before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
        (folder / name).write_bytes(data)
        facts = {k: v for k, v in files.read_json(folder / files.MANIFEST).items() if k not in ("files", "schema")}
        files.seal(folder, **facts)
        with contextlib.suppress(
            IntegrityError
        ):  # a zip is to numpy a set of arrays, whose pickles it refuses when they are read
            read()
        assert not exploited(), name
        for path, content in before.items():
            path.write_bytes(content)
    features = root / "out/features/simclr-0.safetensors"
    features.write_bytes(torch_pickle())
    with pytest.raises(IntegrityError):
        files.load_tensors(features)
    assert not exploited()
