"""One training in two processes, through the stage's own command: real signals, one journal, the same bits."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.processes import wait_for
from tests.support.project import command, duplicate, start, training_project
from tests.tasks.runtime.test_stage import STAGE, newest_step, outputs

EPOCHS = 8


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_project(tmp_path_factory.mktemp("template") / "p", train={"processes": 2, "epochs": EPOCHS})


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return duplicate(template, tmp_path / "p")


def ranks(project: Path) -> dict[int, int]:
    """The training processes in ``project`` by rank."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve() == project.resolve():
                rank = re.search(rb"\0RANK=(\d+)\0", b"\0" + (entry / "environ").read_bytes())
                if rank and b"tasks.pretrain" in (entry / "cmdline").read_bytes():
                    found[int(rank[1])] = int(entry.name)
        except OSError:
            continue
    return found


@pytest.mark.fault("F8", "R7")
def test_whatever_ends_it_the_same_command_continues_and_ends_with_the_same_bits(project: Path, tmp_path: Path) -> None:
    quiet = duplicate(project, tmp_path / "quiet")
    unbroken = command(quiet, *STAGE)
    assert unbroken.returncode == 0, unbroken.stderr
    assert unbroken.stderr.count("100 %") == 1  # one process reports

    process = start(project, *STAGE, SSL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: newest_step(project) > 5)
    os.kill(ranks(project)[1], signal.SIGKILL)  # one of the processes
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL and "process 1 of the training ended with 137" in stderr, stderr
    assert json.loads((project / ".ssl/exit/pretrain@simclr-0").read_text())["code"] == 137
    assert not ranks(project)

    before = newest_step(project)
    process = start(project, *STAGE, SSL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: newest_step(project) > before)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75 and time.monotonic() - asked < 10
    assert stderr.count("the same command continues from here") == 1 and "Traceback" not in stderr, stderr
    assert not ranks(project) and not (project / "out/encoders/simclr-0").exists()

    last = command(project, *STAGE)
    assert last.returncode == 0 and "continuing from step" in last.stderr, last.stderr
    assert outputs(project) == outputs(quiet)
    events = [json.loads(line) for line in (project / "out/journal/simclr-0.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events if e["event"] != "metrics"] == ["start", "artifact", "end"]
    assert [e["step"] for e in events if e["event"] == "metrics"] == list(range(EPOCHS + 1))


@pytest.mark.stress
def test_without_the_process_that_watches_they_end_and_what_is_done_is_only_published(project: Path) -> None:
    process = start(project, *STAGE, SSL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: newest_step(project) > 5)
    process.kill()
    process.communicate()
    wait_for(lambda: not ranks(project), 10)
    assert command(project, *STAGE).returncode == 0
    before = outputs(project)
    shutil.rmtree(project / "out")
    again = command(project, *STAGE)
    assert again.returncode == 0 and "%" not in again.stderr and outputs(project) == before
