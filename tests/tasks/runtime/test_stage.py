"""The stage runtime, with real processes and real signals."""

import contextlib
import json
import os
import re
import resource
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_core.methods.counting import Counting
from tasks.runtime import files
from tests.support.processes import wait_for
from tests.support.project import command, duplicate, environment, set_params, start, training_project

STAGE = ("tasks.pretrain", "simclr", "0")
OUTPUTS = ("out/encoders/simclr-0", "out/history/simclr-0.csv")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_project(tmp_path_factory.mktemp("template") / "p", method={"simclr": {"train": {"epochs": 20}}})


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return duplicate(template, tmp_path / "p")


def outputs(project: Path) -> dict[str, bytes]:
    found = {}
    for out in OUTPUTS:
        path = project / out
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            found[file.relative_to(project).as_posix()] = file.read_bytes()
    return found


@pytest.fixture(scope="module")
def unbroken(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    project = duplicate(template, tmp_path_factory.mktemp("unbroken") / "p")
    result = command(project, *STAGE)
    assert result.returncode == 0, result.stderr
    return outputs(project)


def checkpoints(project: Path) -> list[Path]:
    return sorted(project.glob(".ssl/work/*/*/checkpoints/step-*"))


def newest_step(project: Path) -> int:
    return max((int(p.name.removeprefix("step-")) for p in checkpoints(project)), default=0)


def runs_in_mlflow(project: Path) -> list[tuple[str, str]]:
    """(name, status) of every run, once MLflow has what the journals say."""
    assert command(project, "tasks.sync").returncode == 0
    with contextlib.closing(sqlite3.connect(project / "mlruns/mlflow.db")) as store:
        return store.execute("SELECT name, status FROM runs").fetchall()


@pytest.mark.fault("F1", "R3")
def test_killed_again_and_again_it_ends_with_the_same_bits_as_one_run(project: Path, unbroken: dict[str, bytes]) -> None:
    def killed_when(condition) -> None:  # type: ignore[no-untyped-def]
        process = start(project, *STAGE, SSL_CHECKPOINT_SECONDS="0")
        wait_for(lambda: condition() or process.poll() is not None, pause=0.01)  # the window is short
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()

    killed_when(lambda: list(project.glob(".ssl/work/*/*/journal.jsonl")))
    killed_when(lambda: newest_step(project) > 5)
    assert not (project / OUTPUTS[0]).exists(), "something was published before the end"
    assert runs_in_mlflow(project) == [("simclr-0", "KILLED")]
    killed_when(lambda: list(project.glob(".ssl/work/*/*/outs/out")))
    result = command(project, *STAGE)
    assert result.returncode == 0, result.stderr
    assert "continuing from step" in result.stderr
    assert outputs(project) == unbroken
    assert runs_in_mlflow(project) == [("simclr-0", "FINISHED")]


@pytest.mark.fault("F4")
def test_sigterm_saves_and_says_how_to_go_on(project: Path, unbroken: dict[str, bytes]) -> None:
    process = start(project, *STAGE, SSL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: len(checkpoints(project)) > 0)
    process.terminate()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "the same command continues from here" in stderr and "Traceback" not in stderr
    assert json.loads((project / ".ssl/exit/pretrain@simclr-0").read_text())["code"] == 75
    assert command(project, *STAGE).returncode == 0
    assert outputs(project) == unbroken


@pytest.mark.fault("F12", "F26")
def test_a_damaged_checkpoint_is_passed_over(project: Path, unbroken: dict[str, bytes]) -> None:
    process = start(project, *STAGE, SSL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: len(checkpoints(project)) > 1)
    process.terminate()
    process.communicate(timeout=120)
    newest = checkpoints(project)[-1] / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    result = command(project, *STAGE)
    assert result.returncode == 0
    assert "damaged" in result.stderr and "continuing from step" in result.stderr
    assert outputs(project) == unbroken


@pytest.mark.fault("F9", "R1")
def test_a_second_command_waits_and_then_publishes_the_first_ones_result(project: Path, unbroken: dict[str, bytes]) -> None:
    first, second = start(project, *STAGE), start(project, *STAGE)
    codes = (first.wait(60), second.wait(60))
    first.communicate(), second.communicate()
    assert codes == (0, 0)
    assert outputs(project) == unbroken
    assert len(list(project.glob(".ssl/work/pretrain@simclr-0/*"))) == 1


@pytest.mark.fault("F28")
def test_an_edit_during_the_run_is_refused_and_undoing_it_keeps_the_result(project: Path, unbroken: dict[str, bytes]) -> None:
    original = (project / "params.yaml").read_text()
    process = start(project, *STAGE, SSL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: len(checkpoints(project)) > 0)
    set_params(project, {"train": {"lr": 0.123}})
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 6
    assert "changed while it ran" in stderr
    assert not (project / OUTPUTS[0]).exists()
    (project / "params.yaml").write_text(original)
    started = time.monotonic()
    result = command(project, *STAGE)
    assert result.returncode == 0 and "continuing" not in result.stderr
    assert outputs(project) == unbroken
    assert time.monotonic() - started < 60


@pytest.mark.fault("F28")
def test_an_edit_of_code_during_a_run_is_never_recorded(project: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    process = start(project, "dvc", "repro", "-s", "pretrain@simclr-0", SSL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: len(checkpoints(project)) > 0)
    with (project / "ssl_core/parts/losses.py").open("a") as code:
        code.write("# edited\n")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 255 and "changed while it ran" in stdout + stderr
    assert not (project / OUTPUTS[0]).exists() and not (project / "dvc.lock").exists()


@pytest.mark.fault("F8")
def test_it_stops_when_dvc_above_it_is_killed(project: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    set_params(project, {"run": {"methods": ["simclr"]}, "method": {"simclr": {"train": {"epochs": 10_000}}}})
    log = (project / "log").open("w")
    arguments = ["dvc", "repro", "-s", "pretrain@simclr-0"]
    full = [os.sys.executable, "-m", *arguments]
    dvc = subprocess.Popen(full, cwd=project, env=environment(SSL_CHECKPOINT_SECONDS="0"), stdout=log, stderr=log)
    wait_for(lambda: len(checkpoints(project)) > 0)
    lock = next(project.glob(".ssl/work/*/*/.lock"))
    pid = int(re.search(r"process (\d+)", lock.read_text())[1])  # type: ignore[index]
    dvc.kill()
    dvc.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3], 8)


MISTAKES = [
    ({"method": {"simclr": {"train": {"lr": "1e-3"}}}}, 2, "train.lr is '1e-3'"),
    ({"train": {"learning_rate": 0.1}}, 2, "train.learning_rate is unknown"),
    ({"method": {"simclr": {"train": {"optimizer": "sdg"}}}}, 2, "must be one of sgd, adam, adamw, lars"),
    ({"method": {"simclr": {"temprature": 0.1}}}, 2, "did you mean 'temperature'"),
    ({"augmnt": {"flip": 0.5}}, 2, "did you mean 'augment'"),
    ({"method": {"byol": {"momentun": 0.9}}}, 2, "did you mean 'momentum'"),  # of another method: before an hour is spent
    ({"run": {"methods": ["simclr", "boyl"]}}, 2, "did you mean 'byol'"),
    ({"encoder": {"name": "resnet19"}}, 2, "did you mean 'resnet18'"),
]


@pytest.mark.parametrize(("change", "code", "message"), MISTAKES)
def test_a_wrong_parameter_is_one_line(project: Path, change: dict, code: int, message: str) -> None:  # type: ignore[type-arg]
    set_params(project, change)
    result = command(project, *STAGE)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (project / "out").exists()


def test_a_batch_larger_than_the_images_is_lowered_said_and_stored(project: Path) -> None:
    set_params(project, {"train": {"batch_size": 1000, "epochs": 1}})
    result = command(project, *STAGE)
    assert result.returncode == 0, result.stderr
    words = "train.batch_size 96 instead of 1000"
    assert f"simclr: 96 training images are few: {words}" in result.stderr
    facts = json.loads((project / "out/encoders/simclr-0/encoder.json").read_text())
    assert (facts["train"]["batch_size"], facts["few_images"]) == (96, words)
    assert command(project, "tasks.evaluate", *STAGE[1:]).returncode == 0
    assert json.loads((project / "out/metrics/simclr-0.json").read_text())["protocol"]["few_images"] == words


TEXTS = [
    ("train:\n", "train:\n  lr: 0.5\n  lr: 0.6\n", "written twice"),
    ("flip: 0.5", "flip: off", "is false"),
    ("name: small", "name: no", "in quotes"),
    ("seed: 0", "seed: !!python/object/apply:os.system ['touch pwned']", "not valid"),
]


@pytest.mark.parametrize(("old", "new", "message"), TEXTS)
@pytest.mark.fault("F76")
def test_what_yaml_lets_pass_is_caught(project: Path, root: Path, old: str, new: str, message: str) -> None:
    text = (root / "params.yaml").read_text()
    assert old in text
    (project / "params.yaml").write_text(text.replace(old, new, 1))
    result = command(project, *STAGE)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not (project / "pwned").exists()


@pytest.mark.fault("F39")
def test_a_training_that_collapses_is_stopped_where_that_is_asked_for(project: Path) -> None:
    """Decay takes all weights in the first step."""
    decay = {"optimizer": "sgd", "lr": 1.0, "weight_decay": 1.0, "decay_norm_and_bias": True, "warmup": 0.0, "final_lr": 1.0}
    set_params(project, {"method": {"simclr": {"train": decay | {"epochs": 3, "stop_on_collapse": True}}}})
    result = command(project, *STAGE)
    assert result.returncode == 5, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: simclr collapsed at epoch ")
    assert not (project / OUTPUTS[0]).exists()
    set_params(project, {"method": {"simclr": {"train": {"stop_on_collapse": False}}}})
    result = command(project, *STAGE)
    assert result.returncode == 0 and "warning: simclr has collapsed at epoch " in result.stderr


def test_an_alarm_of_the_method_is_said_once_and_kept_with_the_encoder(project: Path) -> None:
    """Decay takes all weights at once, so that counting counts nothing from its second step on."""
    train = {
        "optimizer": "adamw",
        "epochs": 3,
        "lr": 1.0e-3,
        "weight_decay": 16000.0,
        "decay_norm_and_bias": True,
        "warmup": 0.0,
        "final_lr": 1.0,
    }
    set_params(project, {"method": {"counting": {"train": train | {"batch_size": 16, "precision": "float32"}}}})
    result = command(project, "tasks.pretrain", "counting", "0")
    assert result.returncode == 0, result.stderr
    assert (
        result.stderr.count("warning: counting at epoch 1: it counts nothing at all")
        == 1
        == result.stderr.count("counts nothing")
    )
    facts = json.loads((project / "out/encoders/counting-0/encoder.json").read_text())
    assert facts["warnings"] == [Counting.alarms["zero_solution"]]
    events = map(json.loads, (project / "out/journal/counting-0.jsonl").read_text().splitlines())
    assert [e["tags"] for e in events if e["event"] == "tags"] == [{"warning.zero_solution": facts["warnings"][0]}]


@pytest.mark.fault("F25")
def test_a_damaged_input_is_refused(project: Path) -> None:
    images = project / "data/prepared/train_images.npy"
    data = bytearray(images.read_bytes())
    data[-1] ^= 1
    images.write_bytes(data)
    result = command(project, *STAGE)
    assert result.returncode == 6
    assert "does not match its manifest" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.fault("F19")
def test_where_no_more_can_be_written_a_stage_ends_with_one_line_and_no_output(project: Path) -> None:
    process = start(project, *STAGE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))  # of each file; Python ignores the signal
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 4, stderr
    assert "a file would be larger than this user (ulimit -f)" in stderr and "Traceback" not in stderr
    assert not (project / OUTPUTS[0]).exists() and not list(project.rglob("*.tmp"))


def test_what_a_dead_process_left_half_written_is_removed_and_what_another_is_writing_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own, left = (tmp_path / f".a.json.{pid}.0f0f.tmp" for pid in (os.getpid(), ended.pid))
    for path in (own, left):
        path.touch()
    assert files.remove_leftovers(tmp_path) == [left] and own.exists() and not left.exists()
