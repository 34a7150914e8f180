"""A training that ends with a number that is not finite leaves its step, and a command repeats it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.doctor import Doctor
from tasks.pretrain import capture
from tasks.runtime import files
from tests.support import damage
from tests.support.project import command, duplicate, training_project, write_prepared

STAGE = ("tasks.pretrain", "moco", "0")
CAPTURE = ".ssl/captures/moco-0"
MOCO = {"hidden": 16, "dim": 8, "queue": 32, "splits": 2, "train": {"epochs": 4, "epoch_share": 1.0}}
SPOILED = """

def spoiled(self, batch, honest=MoCo.loss):
    if batch.progress >= 0.4:
        batch = batch._replace(views=tuple(view * 3e38 for view in batch.views))
    return honest(self, batch)


MoCo.loss = spoiled
"""
"""A method that goes wrong at step 10 of 24. Its loss depends on what its queue holds before the step."""


def spoiled_project(place: Path) -> Path:
    project = training_project(place, method={"moco": MOCO})
    with (project / "ssl_core/methods/moco.py").open("a") as code:
        code.write(SPOILED)
    return project


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose training has ended that way, long after its newest checkpoint: there is none."""
    project = spoiled_project(tmp_path_factory.mktemp("replay") / "p")
    done = command(project, *STAGE, SSL_CHECKPOINT_SECONDS="1000")
    assert done.returncode == 5, done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("error: moco: the loss is not finite at step 10 of 24;")
    assert said.endswith(f"python -m tasks.replay {CAPTURE} repeats the step")
    assert json.loads((project / ".ssl/exit/pretrain@moco-0").read_text())["code"] == 5
    assert not (project / "out/encoders").exists()
    return project


@pytest.fixture
def project(broken: Path, tmp_path: Path) -> Path:
    return duplicate(broken, tmp_path / "p")


@pytest.mark.fault("F36")
def test_the_step_is_repeated_to_the_bit(project: Path) -> None:
    done = [command(project, "tasks.replay", CAPTURE) for _ in range(2)]
    assert [run.returncode for run in done] == [0, 0] and done[0].stdout == done[1].stdout, done
    about, tensors = capture.load(project / CAPTURE)
    assert about.step == about.key[-1] == 10 and set(about.params) == {"encoder", "train", "augment", "method"}
    assert "step 10 of 24: the loss is nan, as captured to the bit" in done[0].stdout
    assert f"where: {about.where}" in done[0].stdout and "momentum_encoder.0.stem.0 (Conv2d)" in about.where
    assert all(value.isfinite().all() for value in tensors.values()), "the state is that before the step"


@pytest.mark.fault("F36")
def test_what_is_kept_does_not_depend_on_the_newest_checkpoint(broken: Path, tmp_path: Path) -> None:
    project = spoiled_project(tmp_path / "p")
    assert command(project, *STAGE, SSL_CHECKPOINT_SECONDS="0").returncode == 5
    assert list(project.glob(".ssl/work/*/*/checkpoints/step-*"))
    for name in (capture.STATE, capture.FACTS):
        assert (project / CAPTURE / name).read_bytes() == (broken / CAPTURE / name).read_bytes(), name


def of_another_loss(project: Path) -> None:
    facts = json.loads((project / CAPTURE / capture.FACTS).read_text())
    files.write_json(project / CAPTURE / capture.FACTS, facts | {"loss": "7fc00001", "machine": {"torch": "1.0"}})
    files.seal(project / CAPTURE)


def without_a_tensor(project: Path) -> None:
    tensors = files.load_tensors(project / CAPTURE / capture.STATE)
    del tensors["method.encoder.stem.0.weight"]
    files.save_tensors(project / CAPTURE / capture.STATE, tensors)
    files.seal(project / CAPTURE)


def of_no_step(project: Path) -> None:
    files.write_json(project / CAPTURE / capture.FACTS, {"step": "one"})
    files.seal(project / CAPTURE)


MISTAKES: list[tuple[Callable[[Path], object], int, str]] = [
    (lambda p: files.remove(p / CAPTURE), 2, f"{CAPTURE} is no folder"),
    (lambda p: damage.flip(p / CAPTURE / capture.STATE), 6, "does not match its manifest"),
    (of_no_step, 6, "is no capture of this version: capture."),
    (without_a_tensor, 6, "does not fit the code here"),
    (lambda p: write_prepared(p, n=97), 6, "is of other images"),
    (of_another_loss, 4, "here and was 7fc00001: torch is "),
]


@pytest.mark.parametrize(("spoil", "code", "words"), MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_repeated_is_one_line(project: Path, spoil: Callable[[Path], object], code: int, words: str) -> None:
    spoil(project)
    done = command(project, "tasks.replay", CAPTURE)
    assert done.returncode == code and words in done.stderr and done.stdout == "", done
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_doctor_names_a_capture_and_removes_a_damaged_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor = Doctor(project)
    doctor.captures()
    assert f"python -m tasks.replay {CAPTURE} repeats" in capsys.readouterr().out and doctor.fixed == []
    damage.flip(project / CAPTURE / capture.STATE)
    doctor.captures()
    assert doctor.fixed == [f"removed {CAPTURE}, which was damaged"] and not (project / CAPTURE).exists()
