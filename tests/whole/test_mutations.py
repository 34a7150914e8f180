"""Mutated files of every kind, fixed seeds: each is read, or refused in one line; no traceback and no hang.

What a seal or dvc.lock covers is compared with the truth in test_damage.py, journals are mutated in test_tracking.py; here are
the readers of what nothing covers. Mutated pixels that decode are the decoder's to judge: it must live.
"""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.prepare.workers import Job, decode_all
from tasks.runtime import checkpoint, dataset, declared, errors, files, params, recorded
from tasks.runtime.stage_name import StageName
from tests.conftest import ROOT
from tests.support import corpus, damage
from tests.support.project import write_prepared

FORESEEN = (errors.Stop, errors.ConfigError)
SECONDS = 20
NAMES = ("prepare", "pretrain@simclr-0", "evaluate@simclr-0", "report", "register")


def read_params(root: Path) -> None:
    params.check(params.load())


def read_graph(root: Path) -> None:
    for name in NAMES:
        declared.entry(StageName.parse(name), params.load())


def read_checkpoint(root: Path) -> None:
    assert checkpoint.load(root / "checkpoints", {"method.weight": torch.zeros(2, 3)}) is None  # it was removed


def write_checkpoint(root: Path) -> None:
    tensors = {"method.weight": torch.arange(6.0).view(2, 3)}
    row = {"epoch": 0, "step": 0, "loss": 0.5}
    checkpoint.save(root / "checkpoints", 1, tensors, {"step": 1, "history": [row], "seconds": 1.5, "journal": 10})


LOCK = """schema: '2.0'
stages:
  prepare:
    cmd: python -m tasks.prepare
    outs:
    - path: data/prepared
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
      size: 10
"""
KINDS: dict[str, tuple[int, int, str, Callable[[Path], object]]] = {
    "parameters": (25, 1500, "params.yaml", read_params),
    "graph": (25, 1000, "dvc.yaml", read_graph),
    "lock": (100, 1500, "dvc.lock", recorded.outputs),
    "tensors": (100, 2500, "x.safetensors", lambda root: files.load_tensors(root / "x.safetensors")),
    "images": (50, 1000, "data/prepared/train_images.npy", lambda root: dataset.load()),
    "labels": (50, 1000, "data/prepared/train_labels.npy", lambda root: dataset.load()),
    "meta": (50, 1000, "data/prepared/meta.json", lambda root: dataset.load()),
}
"""By kind: mutations of the quick and of the long test, the file, and who reads it."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "dvc.lock").write_text(LOCK)
    write_prepared(tmp_path, n=12, m=4, size=8)
    files.save_tensors(tmp_path / "x.safetensors", {"a": np.arange(6.0), "b": np.ones((2, 3), np.float32)})
    return tmp_path


def mutate(project: Path, kind: str, rounds: int, seed: int) -> None:
    _, _, name, read = KINDS[kind]
    chance, path = random.Random(f"{kind} {seed}"), project / name
    data = path.read_bytes()
    read(project)
    for number in range(rounds):
        path.write_bytes(damage.mutated(data, chance))
        signal.alarm(SECONDS)
        try:
            read(project)
        except FORESEEN as error:
            assert "\n" not in errors.explain(error)[1], error
        except Exception as error:
            error.add_note(f"{name}, round {number} of seed {seed}: {path.read_bytes()[:3000]!r}")
            raise
        finally:
            signal.alarm(0)


@pytest.mark.fault("F72", "F76", "I62")
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_read_or_refused(project: Path, kind: str) -> None:
    mutate(project, kind, KINDS[kind][0], seed=0)


@pytest.mark.stress
@pytest.mark.fault("F72", "F76", "I62")
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_mutated_files_are_read_or_refused(project: Path, kind: str) -> None:
    mutate(project, kind, KINDS[kind][1], seed=1)


@pytest.mark.stress
@pytest.mark.fault("F25")
def test_a_mutated_checkpoint_is_never_gone_on_from(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(2)
    for number in range(1500):
        write_checkpoint(project)
        path = project / "checkpoints/step-0000000001" / (files.MANIFEST, "state.json", "state.safetensors")[number % 3]
        path.write_bytes(damage.mutated(path.read_bytes(), chance))
        read_checkpoint(project)
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.stress
@pytest.mark.fault("I5", "I7", "I12")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_thousands_of_mutated_images_are_decoded_or_named(kind: str) -> None:
    chance, whole = random.Random(kind), corpus.encoded(corpus.picture(), kind)
    jobs = [Job(row, f"{row}.{kind}", damage.mutated(whole, chance)) for row in range(700)]
    done = sorted(decode_all(iter(jobs), 16, 3, workers=2), key=lambda answer: answer.row)
    assert [answer.row for answer in done] == list(range(len(jobs)))
    for answer in done:
        assert "\n" not in answer.bad if answer.bad else len(answer.pixels) == 16 * 16 * 3
