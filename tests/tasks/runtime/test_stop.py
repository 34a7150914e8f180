"""Signals at any moment and twice: exit code 75 before patience ends, and the same command finishes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import wait_for
from tests.support.project import command, duplicate, environment, start, training_project

STAGES = [
    ("tasks.prepare",),
    ("tasks.pretrain", "simclr", "0"),
    ("tasks.evaluate", "simclr", "0"),
    ("tasks.report",),
    ("tasks.register",),
]
IN_C = "mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock; lock(mutex); lock(mutex)"
"""A call that no signal interrupts."""
SLOW = """
import ctypes, sys, time
sys.argv[:] = ["x"]
from tasks.runtime.stage import Stage, main
from tasks.runtime.stage_name import StageName
def body(stage):
    print("at work", flush=True)
    {work}
main(lambda: (Stage(StageName("prepare")), body))
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_project(tmp_path_factory.mktemp("stop") / "p", method={"simclr": {"train": {"epochs": 20}}})


@pytest.mark.fault("F5")
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage[0])
def test_a_stage_that_is_still_importing_ends_as_one_that_was_asked(
    template: Path, tmp_path: Path, stage: tuple[str, ...]
) -> None:
    project = duplicate(template, tmp_path / "p")
    slow = project / "tasks/runtime/declared.py"
    slow.write_text("import time\nopen('importing', 'w').close()\ntime.sleep(1)\n" + slow.read_text())
    process = start(project, *stage, forked=False)
    wait_for((project / "importing").exists)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode in (75, 2, 6), said  # a stage whose inputs are missing says so
    assert "Traceback" not in said and len(said.strip().splitlines()) == 1, said
    if stage[0] in ("tasks.prepare", "tasks.pretrain"):
        assert process.returncode == 75 and not (project / "out").exists()


@pytest.mark.fault("F5")
@pytest.mark.parametrize(
    ("work", "number"),
    [
        ("time.sleep(60)", signal.SIGTERM),
        ("[0 for _ in range(10**10)]", signal.SIGTERM),
        (IN_C, signal.SIGTERM),
        (IN_C, signal.SIGINT),
    ],
)
def test_work_that_does_not_poll_ends_before_the_runner_kills_it(
    template: Path, tmp_path: Path, work: str, number: signal.Signals
) -> None:
    project = duplicate(template, tmp_path / "p")
    full = [sys.executable, "-c", SLOW.format(work=work)]
    process = subprocess.Popen(
        full, cwd=project, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout and process.stdout.readline() == "at work\n"
    started = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75 and time.monotonic() - started < 9
    assert said.startswith("error: prepare was asked to stop") and said.count("\n") == 1
    assert '"code": 75' in (project / ".ssl/exit/prepare").read_text()


def ended(template: Path, place: Path, *numbers: signal.Signals) -> tuple[int, str]:
    """A training that gets these signals, and then is completed by the same command; the first one's exit code and words."""
    project = duplicate(template, place)
    process = start(project, "tasks.pretrain", "simclr", "0", SSL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: list(project.glob(".ssl/work/*/*/checkpoints/step-*")))
    for number in numbers:
        process.send_signal(number)
    _, said = process.communicate(timeout=120)
    again = command(project, "tasks.pretrain", "simclr", "0")
    assert again.returncode == 0 and "continuing from step" in again.stderr, again.stderr
    assert not list(project.rglob("*.tmp"))
    return int(process.returncode or 0), said


@pytest.mark.fault("F6", "F7")
@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT,),
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGKILL),
    ],
    ids=lambda numbers: "-".join(n.name for n in numbers),
)
def test_a_second_signal_damages_nothing(template: Path, tmp_path: Path, numbers: tuple[signal.Signals, ...]) -> None:
    code, said = ended(template, tmp_path / "p", *numbers)
    assert code in ((-9, 75) if signal.SIGKILL in numbers else (75,)) and "Traceback" not in said


@pytest.mark.fault("R4")
def test_a_copy_of_the_project_elsewhere_goes_on_and_ends_with_the_same_bits(template: Path, tmp_path: Path) -> None:
    project = duplicate(template, tmp_path / "p")
    process = start(project, "tasks.pretrain", "simclr", "0", SSL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: list(project.glob(".ssl/work/*/*/checkpoints/step-*")))
    process.kill()
    process.communicate(timeout=120)
    copy = duplicate(project, tmp_path / "another place")
    done = [command(place, "tasks.pretrain", "simclr", "0") for place in (copy, project)]
    assert all(run.returncode == 0 and "continuing from step" in run.stderr for run in done), done
    found = [{p.name: p.read_bytes() for p in (place / "out/encoders/simclr-0").iterdir()} for place in (copy, project)]
    assert found[0] == found[1] and len(found[0]) > 3
