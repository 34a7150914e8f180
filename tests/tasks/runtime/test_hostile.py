"""Mistaken or hostile files are one line: params.yaml, tensors, arrays and labels; no parameter meets a shell."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml

from ssl_core.catalogue import BASELINES, METHODS
from tasks.runtime import dataset, files, params
from tasks.runtime.errors import IntegrityError, UsageError, explain
from tests.conftest import ROOT
from tests.support.project import write_prepared

TEXT = (ROOT / "params.yaml").read_text()
HOSTILE = {
    "Latin-1": ("é" + TEXT).encode("latin-1", "replace"),
    "UTF-16": TEXT.encode("utf-16"),
    "nested": TEXT.encode() + b"\nx: " + b"[" * 5000,
    "a list as a name": TEXT.encode() + b"\n? [a, b]\n: 1\n",
    "a date that is none": TEXT.encode() + b"\nx: 2020-13-45\n",
    "an octal number": re.sub(r"(?m)^  seed: \d+", "  seed: 010", TEXT, count=1).encode(),
    "a number of base 60": re.sub(r"(?m)^  seed: \d+", "  seed: 1:30", TEXT, count=1).encode(),
    "a scalar for a mapping": re.sub(r"(?ms)^method:\n.*", "method:\n  simclr: small\n", TEXT).encode(),
    "a scalar for a part": re.sub(r"(?ms)^method:\n.*", "method:\n  simclr:\n    train: fast\n", TEXT).encode(),
    "a huge seed": re.sub(r"(?m)^  seeds: .*", "  seeds: [99999999999999999999]", TEXT, count=1).encode(),
}


@pytest.mark.fault("F76", "F49")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_params_yaml_in_another_form_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "params.yaml"
    assert HOSTILE[kind] != TEXT.encode()
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(Exception) as caught:
        params.check(params.load(path))
    code, message = explain(caught.value)
    assert code == UsageError.code and "\n" not in message and len(message) < 400, message


def test_a_mark_at_the_start_of_the_text_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert params.load(tmp_path / "params.yaml") == params.load(ROOT / "params.yaml")


def tensors(header: bytes, data: bytes = bytes(8)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "a header longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "overlapping": tensors(json.dumps({"a": ONE, "b": ONE}).encode()),
    "surplus bytes": tensors(json.dumps({"a": ONE}).encode(), bytes(9)),
    "missing bytes": tensors(json.dumps({"a": ONE}).encode(), bytes(7)),
    "a hole": tensors(json.dumps({"a": ONE | {"data_offsets": [4, 12]}}).encode(), bytes(12)),
    "another type": tensors(json.dumps({"a": ONE | {"dtype": "F99"}}).encode()),
    "negative": tensors(json.dumps({"a": ONE | {"shape": [-2]}}).encode()),
    "nested": tensors(b'{"a":' * 3000),
    "a name written twice": tensors(f'{{"a": {json.dumps(ONE)}, "a": {json.dumps(ONE)}}}'.encode()),
    "no text": tensors(b"\xff\xfe{}"),
    "empty": b"",
}


@pytest.mark.fault("F72")
@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_file_of_tensors_is_damage(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(HEADERS[kind])
    with pytest.raises(IntegrityError) as caught:
        files.load_tensors(path)
    assert "\n" not in str(caught.value)


ARRAYS = {
    "labels out of range": ("train_labels", lambda a: a + 100),
    "a label one past the last class": ("train_labels", lambda a: a + (a == a.max())),
    "labels below -1": ("test_labels", lambda a: a - 9),
    "labels that are not whole": ("train_labels", lambda a: a + 0.5),
    "labels that are no numbers": ("train_labels", lambda a: np.full(len(a), np.nan)),
    "labels of another number": ("train_labels", lambda a: a[:-1]),
    "labels of another type": ("train_labels", lambda a: a.astype(np.int32)),
    "labels of another byte order": ("train_labels", lambda a: a.astype(">i8")),
    "images of another shape": ("train_images", lambda a: a[:, 0]),
    "images of floats": ("test_images", lambda a: a.astype(np.float32)),
    "a split of another type": ("train_holdout", lambda a: a.astype(np.int64)),
    "groups of another number": ("train_groups", lambda a: a[:-1]),
    "groups of another type": ("train_groups", lambda a: a.astype(np.int32)),
}


@pytest.mark.fault("I61", "I62", "F38")
@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_that_does_not_fit_is_one_line_though_its_seal_does(tmp_path: Path, kind: str) -> None:
    write_prepared(tmp_path)
    place = tmp_path / "data/prepared"
    for split in ("train", "test"):
        np.save(place / f"{split}_groups.npy", np.load(place / f"{split}_labels.npy"))
    files.seal(place)
    assert dataset.load(place).train_groups is not None
    name, change = ARRAYS[kind]
    np.save(place / f"{name}.npy", change(np.load(place / f"{name}.npy")))
    files.seal(place)
    with pytest.raises(IntegrityError, match="run dvc repro -f prepare") as caught:
        dataset.load(place)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.fault("I62", "F71")
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04", b"\x80\x04."])
def test_a_file_that_is_no_array_is_one_line(tmp_path: Path, content: bytes) -> None:
    write_prepared(tmp_path)
    (tmp_path / "data/prepared/train_images.npy").write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        dataset.load(tmp_path / "data/prepared")
    assert "train_images.npy" in str(caught.value)


@pytest.mark.fault("F75")
def test_a_stage_hands_a_shell_nothing_but_names_and_seeds() -> None:
    """A name that is no method or task's is refused before DVC fills it in; a seed is a whole number."""
    item = r"\$\{(item\.method|item\.seed|item\.task|key)\}"
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        assert re.fullmatch(rf"python -m tasks(\.\w+)+( {item})*", stage.get("do", stage)["cmd"]), name
    assert all(re.fullmatch(r"\w+", name) for name in (*METHODS, *BASELINES))
    values = params.load(ROOT / "params.yaml")
    for hostile in ("simclr; touch pwned", "$(touch pwned)", "a b", "x'\n"):
        for key in ("methods", "tasks"):
            wrong = values | {"run": values["run"] | {key: [hostile]}, "tasks": {hostile: {"source": "sample", "path": "x"}}}
            assert explain(refused(wrong))[0] == 2
        further = values | {"data": values["data"] | {"source": "folder", "more": {hostile: "x"}}}
        assert explain(refused(further))[0] == 2


def refused(values: dict[str, object]) -> Exception:
    try:
        params.check(values)
    except Exception as error:
        return error
    raise AssertionError("accepted")
