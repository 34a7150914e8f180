"""The Prefect flow, as a process against a real server (one for all tests), over stages of no work."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.dvc.outcome import Fate, Outcome
from tests.support import prefect_server as server
from tests.support import tiny_graph as tiny
from tests.support.processes import wait_for
from tests.support.project import environment

FLOW = "flows.pipeline"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    yield tiny.make(tmp_path / "p")
    tiny.end_all(tmp_path / "p")


def artifacts(flow_run_id: str) -> dict[str, str]:
    rows = server.api("artifacts/filter", flow_runs={"id": {"any_": [flow_run_id]}})
    return {row["key"]: str(row["data"]) for row in rows}


def said(log: str) -> list[str]:
    """The lines of a flow but those of Prefect's own threads, which on a slow machine still send events at the end."""
    return [line for line in log.splitlines() if "| EventsWorker - " not in line]


@pytest.mark.fault("F11")
def test_failures_are_retried_when_it_helps_and_named_at_the_end(project: Path) -> None:
    tiny.control(project, pretrain_byol_0={"code": 5}, prepare={"code": 75, "once": True}, pretrain_simclr_0={"seconds": 2})
    code, log = tiny.finish(project, FLOW, "-j", "2")
    assert code == 5 and "\nerror: pretrain@byol-0 failed: exit 5" in log and "worked on pretrain@simclr-0" in log
    assert tiny.computed(project).count("prepare") == 2  # 75: preempted, again
    assert tiny.computed(project).count("pretrain@byol-0") == 1  # 5: diverged, it would again
    flow_run = server.newest_run()
    assert flow_run["state_type"] == "FAILED" and "evaluate@byol-0 not run" in flow_run["state"]["message"]
    states = server.task_states(flow_run["id"])
    assert states["pretrain@byol-0"] == "Failed" and states["report"] == "Completed" and "evaluate@byol-0" not in states
    shown = artifacts(flow_run["id"])
    assert "simclr-0.json" in shown["leaderboard"] and "pretrain@byol-0 failed" in shown["summary"]
    assert not [key for key in shown if key.startswith("progress-")]  # they are of use while a stage runs

    tiny.control(project)
    code, log = tiny.finish(project, FLOW, "-m", "byol", "-S", "method.byol.train.lr=2")
    assert code == 0 and "recorded as experiment byol-method-byol-train-lr=2-20" in log
    states = server.task_states(server.newest_run()["id"])
    assert states["prepare"] == "Unchanged" and states["report"] == "Completed" and "pretrain@simclr-0" not in states
    assert "lr: 2" in (project / "params.yaml").read_text() and tiny.is_clean(project)


def test_an_experiment_has_no_scores_of_an_earlier_report(project: Path) -> None:
    tiny.set_lr(project, "simclr", 7)
    code, log = tiny.finish(project, FLOW)
    assert code == 0
    tiny.set_lr(project, "simclr", 8)  # of the other method, which is not asked for
    code, log = tiny.finish(project, FLOW, "-m", "byol", "-S", "method.byol.train.lr=2")
    assert code == 0 and "not recorded as an experiment: the report was not made" in log


def test_labels_of_other_images_stop_a_flow_before_anything_is_trained(project: Path) -> None:
    tiny.label_others(project)
    code, log = tiny.finish(project, FLOW)
    assert code == 3 and "another picture now" in log and tiny.computed(project) == ["prepare"], log


def test_a_mistake_in_params_is_one_line_before_anything_runs(project: Path) -> None:
    for old, new, message in (
        ("seeds: [0]", "seeds: 0", "run.seeds is 0; it must be a list"),
        ("knn_k:", "knnk:", "evaluate.knnk is unknown; did you mean 'knn_k'?"),
    ):
        before = (project / "params.yaml").read_text()
        (project / "params.yaml").write_text(before.replace(old, new))
        code, log = tiny.finish(project, FLOW)
        assert code == 2 and said(log)[-1] == f"error: params.yaml: {message}" and "Traceback" not in log
        (project / "params.yaml").write_text(before)
    (project / ".ssl" / "flow.lock").unlink()
    (project / ".ssl" / "flow.lock").mkdir()  # the environment's fault, in the middle of the flow
    code, log = tiny.finish(project, FLOW)
    assert code == 4 and said(log)[-1].startswith("error: Is a directory (") and "Traceback" not in log
    assert not tiny.computed(project)


def test_a_wrong_choice_is_told_before_a_server_starts(project: Path, tmp_path: Path) -> None:
    env = environment(PREFECT_HOME=str(tmp_path / "home"), PYTHONPATH=server.prefect_environment()["PYTHONPATH"])
    before = (project / "params.yaml").read_text()
    for arguments, message in (
        (("-m", "simclr,moko"), "params.yaml: run.methods: 'moko' is unknown; did you mean 'moco'?"),
        (("-m", ","), "-m names no method"),
        (("-S", "train.epochz=2"), "did you mean 'epochs'?"),
        (("-S", "train.epochs=-2"), "params.yaml: train.epochs is -2; it must be a number of at least 0"),
    ):
        code, log = tiny.finish(project, FLOW, *arguments, env=env)
        assert code == 2 and message in said(log)[-1] and len(said(log)) == 1, log
    code, log = tiny.finish(project, FLOW, "-s", "0", "1", "prepare", env=env)
    assert code == 2 and "[TARGET ...] [-m NAME ...]" in said(log)[0], log
    assert said(log)[-1].endswith("'prepare' is no seed; targets come before the options")
    assert (project / "params.yaml").read_text() == before and not (tmp_path / "home/prefect.db").exists()


@pytest.mark.fault("F11")
def test_an_exit_code_says_whether_to_try_again() -> None:
    from prefect.states import Failed

    from flows.pipeline import worth_retrying

    codes = [1, 2, 3, 4, 5, 6, 70, 75, 128 + signal.SIGKILL, 128 + signal.SIGTERM]
    again = [c for c in codes if worth_retrying(None, None, Failed(data=Outcome(c, Fate.FAILED, "")))]  # type: ignore[arg-type]
    assert again == [4, 75, 137, 143]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_children_and_starts_nothing_more(project: Path, number: signal.Signals) -> None:
    tiny.control(project, pretrain_byol_0={"seconds": 60}, pretrain_simclr_0={"seconds": 60})
    process = tiny.start(project, FLOW, "-j", "1")
    wait_for(lambda: [n for n in tiny.computed(project) if n.startswith("pretrain")])
    start = time.monotonic()
    process.send_signal(number)
    process.wait(60)
    wait_for(lambda: not tiny.stages_alive(project), max(0.0, start + 10 - time.monotonic()))
    assert len(tiny.computed(project)) == 2  # prepare and one method
    assert server.newest_run()["state_type"] in ("CRASHED", "CANCELLED")


@pytest.mark.fault("F8", "F68")
def test_after_kill_9_of_the_flow_its_stage_is_recorded_and_its_run_closed(project: Path) -> None:
    tiny.control(project, pretrain_byol_0={"seconds": 8}, pretrain_simclr_0={"seconds": 8})
    process = tiny.start(project, FLOW, "-j", "2")
    tiny.running_pid(project, "pretrain@byol-0")
    tiny.running_pid(project, "pretrain@simclr-0")
    dead = server.newest_run()["id"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    code, log = tiny.finish(project, FLOW, "-j", "2")
    assert code == 0, log
    assert sorted(tiny.computed(project)) == sorted(tiny.NAMES)  # the orphans were waited for, nothing ran twice
    assert tiny.is_clean(project)
    runs = server.api("flow_runs/filter", flow_runs={"id": {"any_": [dead]}})
    assert runs[0]["state_type"] == "CRASHED" and server.task_states(dead)["pretrain@byol-0"] == "Crashed"


def test_a_run_of_a_flow_that_was_killed_before_it_knew_its_id_is_closed(project: Path) -> None:
    mark, flow = "process-1-dead", server.api("flows/", name="ssl-pipeline")["id"]
    lost = server.api("flow_runs/", flow_id=flow, tags=[mark], state={"type": "RUNNING"})["id"]
    other = server.api("flow_runs/", flow_id=flow, tags=["process-2-alive"], state={"type": "RUNNING"})["id"]
    left = project / ".ssl" / "flows" / mark
    left.parent.mkdir(parents=True)
    left.touch()
    code, log = tiny.finish(project, "flows.runs")
    assert code == 0 and f"closed flow run {lost}" in log and not left.exists(), log
    states = {run["id"]: run["state_type"] for run in server.api("flow_runs/filter", flow_runs={"id": {"any_": [lost, other]}})}
    assert states == {lost: "CRASHED", other: "RUNNING"}
    server.api(f"flow_runs/{other}/set_state", state={"type": "COMPLETED"})


@pytest.mark.fault("F68")
def test_a_killed_stage_is_tried_again_and_a_killed_server_waited_for(project: Path) -> None:
    tiny.control(project, pretrain_byol_0={"seconds": 4}, pretrain_simclr_0={"seconds": 4})
    process = tiny.start(project, FLOW, "-j", "2")
    os.kill(tiny.running_pid(project, "pretrain@byol-0"), signal.SIGKILL)
    tiny.running_pid(project, "pretrain@simclr-0")
    server.restart_server(signal.SIGKILL)
    assert process.wait(120) == 0, (project / ".ssl/flow.log").read_text()
    assert sorted(tiny.computed(project)) == sorted([*tiny.NAMES, "pretrain@byol-0"])
    assert server.newest_run()["state_type"] == "COMPLETED" and tiny.is_clean(project)
