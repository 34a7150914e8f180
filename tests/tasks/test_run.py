"""``make run`` from outside: a mistake costs seconds and has its exit code; a terminal shows what runs."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.dvc import runner
from tests.conftest import ROOT
from tests.support import tiny_graph as tiny
from tests.support.processes import wait_for
from tests.support.project import command, copy_project, environment, set_params

WORK = """
from pathlib import Path
from tasks import run
schedule = run.bring_up_to_date(Path.cwd(), jobs=2)
print("codes", [schedule.outcomes[name].code for name in schedule.failed])
"""


def test_a_failed_stage_gives_its_exit_code_and_its_message(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", git=True)
    (tmp_path / "images.tar").write_text("no archive")
    set_params(project, {"data": {"source": "archive", "path": str(tmp_path / "images.tar")}})
    result = command(project, "tasks.run")
    assert result.returncode == 3, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr and "failed to reproduce" not in result.stdout
    assert [said.count("images.tar is not a tar") for said in (result.stdout, result.stderr)] == [1, 1]  # first and last
    assert not (project / "out").exists() and not (project / "data/prepared").exists()


def test_a_service_s_account_without_a_shell_runs_stages_and_a_failure_is_not_hidden_by_old_results(tmp_path: Path) -> None:
    project = tiny.make(tmp_path / "p")
    (project / "out/metrics").mkdir(parents=True)
    (project / "out/metrics/rotation-0.json").write_text("{}")  # of a method that is listed no more
    (project / "out/metrics/byol-0.json").write_text("{}")  # of other images
    tiny.control(project, prepare={"code": 3})
    done = tiny.start(project, "tasks.run", env=environment(PYTHONPATH=str(ROOT), SHELL="/bin/false"))
    assert done.wait(60) == 3
    said = (project / ".ssl/flow.log").read_text()
    assert "error: prepare failed: exit 3" in said and "What was scored so far" not in said


def test_labels_of_other_images_stop_a_run_before_anything_is_trained(tmp_path: Path) -> None:
    project = tiny.make(tmp_path / "p")
    tiny.label_others(project)
    code, log = tiny.finish(project, "tasks.run", env=environment(PYTHONPATH=str(ROOT)))
    assert code == 3 and "label-these.csv: 0.png, 1.png" in log and "another picture now" in log, log
    assert tiny.computed(project) == ["prepare"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_children_and_starts_nothing_more(tmp_path: Path, number: signal.Signals) -> None:
    project = tiny.make(tmp_path / "p")
    tiny.control(project, pretrain_byol_0={"seconds": 60}, pretrain_simclr_0={"seconds": 60})
    process = tiny.start(project, "tasks.run", "-j", "1", env=environment(PYTHONPATH=str(ROOT)))
    wait_for(lambda: [n for n in tiny.computed(project) if n.startswith("pretrain")])
    asked = time.monotonic()
    process.send_signal(number)
    assert process.wait(20) == 75 and time.monotonic() - asked < 10 and not tiny.stages_alive(project)
    assert len(tiny.computed(project)) == 2  # prepare and one method


def test_a_reader_that_goes_away_stops_the_work_as_in_other_tools(tmp_path: Path) -> None:
    project = tiny.make(tmp_path / "p")
    tiny.control(project, pretrain_simclr_0={"seconds": 30}, pretrain_byol_0={"seconds": 30})
    line = f"({sys.executable} -m tasks.run -j 1; echo code $? >&2) | head -1"
    env = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(["bash", "-c", line], cwd=project, env=env, capture_output=True, text=True, timeout=120)
    assert done.stderr == "code 141\n" and len(done.stdout.splitlines()) == 1
    assert not tiny.stages_alive(project)


def test_a_mistake_in_params_is_found_before_anything_runs(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", git=True)
    shipped = (project / "params.yaml").read_text()
    for change, message in (
        ({"method": {"byol": {"momentun": 0.9}}}, "did you mean 'momentum'"),
        ({"evaluate": {"knn_k": [0]}}, "evaluate.knn_k[0] is 0"),  # read after the training only
        ({"run": {"seeds": 0}}, "run.seeds is 0; it must be a list"),  # DVC fails at it with a traceback
    ):
        set_params(project, change)
        result = command(project, "tasks.run")
        assert result.returncode == 2
        assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
        (project / "params.yaml").write_text(shipped)
    assert not (project / "data/prepared").exists()


@pytest.mark.fault("F19")
def test_a_full_disk_is_named_though_no_message_could_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / ".ssl" / "exit" / "prepare"
    for free, message in ((0, f"no space left on the device of {tmp_path}"), (1 << 30, "dvc ended with 1 and no message")):
        monkeypatch.setattr(runner.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        outcome = runner._outcome(1, left, "")
        assert outcome.code == 4 and outcome.message.startswith(message)


def in_terminal(project: Path, program: str) -> list[list[str]]:
    """Run Python code with a terminal of 24 lines and 70 columns; the screen after each redrawing."""
    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
    env = environment(PYTHONPATH=str(ROOT), TERM="xterm")
    process = subprocess.Popen([sys.executable, "-c", program], cwd=project, env=env, stdout=child, stderr=subprocess.DEVNULL)
    os.close(child)
    data = b""
    try:
        while block := os.read(main, 4096):
            data += block
    except OSError:  # how a terminal says that the other end is closed
        pass
    os.close(main)
    assert process.wait(60) == 0, data.decode()
    return screens(data.decode().replace("\r\n", "\n"))


def screens(written: str) -> list[list[str]]:
    """What a terminal shows before each redrawing and at the end; the cursor is always in the last line."""
    lines, shown = [""], []
    for code, text in re.findall(r"(\r|\x1b\[[\d;?]*[A-Za-z])|([^\r\x1b]+)", written):
        first, *rest = text.split("\n")
        lines = [*lines[:-1], lines[-1] + first, *rest]
        if code == "\r":
            shown.append(lines)
        elif code == "\x1b[2K":  # erase the line
            lines = [*lines[:-1], ""]
        elif code == "\x1b[1A":  # go up one
            lines = lines[:-1]
        else:  # show or hide the cursor; colors
            assert code in ("", "\x1b[?25l", "\x1b[?25h", "\x1b[0m"), repr(code)
    return [*shown, lines[:-1] if lines[-1] == "" else lines]


def test_a_terminal_shows_a_line_for_each_running_stage_redrawn_in_place(tmp_path: Path) -> None:
    project = tiny.make(tmp_path / "p")
    slow = {"seconds": 3}
    tiny.control(project, pretrain_simclr_0=slow, pretrain_byol_0={**slow, "code": 5})
    screens = in_terminal(project, WORK)
    both = [s for s in screens if len(s) > 2 and s[-3].startswith("1 of 6 stages done, 2 running")]
    assert any("pretrain@simclr-0" in s[-1] + s[-2] and "0 %  epoch" in s[-1] and "0 %  epoch" in s[-2] for s in both)
    assert all(len(line) < 70 for s in both for line in s[-3:])
    end = screens[-1]
    assert end[-1] == "codes [5]" and not any("running" in line or "epoch" in line for line in end)
    assert sum(": ran (" in line for line in end) == 4 and sum(": failed (" in line for line in end) == 1
    assert "[pretrain@simclr-0] worked on pretrain@simclr-0" in end

    tiny.control(project)
    again = in_terminal(project, WORK)[-1]  # what is there already starts no process and takes no line
    assert sum(": ran (" in line for line in again) == 3 and len(again) == 7
