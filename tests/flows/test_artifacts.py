"""What the flow shows of the results: the score that chooses, which rows are baselines, and a new champion as an event."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import leaderboard, transfer
from tasks.results import load_results
from tasks.tracking.registered import REGISTRATION, Registration
from tasks.verdict import judge
from tests.conftest import ROOT
from tests.support import prefect_server as server
from tests.support.example_results import write_project
from tests.support.processes import wait_for
from tests.tasks.test_transfer import project_of


def test_the_leaderboard_has_the_score_that_chooses_and_marks_baselines(tmp_path: Path) -> None:
    from flows import artifacts

    write_project(tmp_path, methods=("simclr", "raw_pixels"), num_test=40)
    board = tmp_path / "leaderboard.csv"
    board.write_text(leaderboard.to_csv(judge(load_results(tmp_path)[0])))
    rows, about = artifacts.leaderboard(board)
    assert [row["method"] for row in rows] == ["simclr", "raw_pixels *"]
    assert list(rows[0])[:3] == ["method", "seed", "holdout_linear_top1"] and {"epochs", "steps", "seconds"} <= rows[0].keys()
    assert "sorted by the mean holdout_linear_top1" in about and "* baseline" in about
    board.write_text("method,seed\nsimclr,0\n")
    assert artifacts.leaderboard(board)[0] == [{"method": "simclr", "seed": "0"}]


def test_a_champion_that_is_not_to_be_used_is_nowhere_named_without_saying_so(tmp_path: Path) -> None:
    from flows import artifacts

    write_project(tmp_path, methods=("rotation", "raw_pixels"), num_test=40)
    board = tmp_path / "leaderboard.csv"
    Registration("ssl-fm", {}, {"champion": "rotation-0"}).write(tmp_path / REGISTRATION)
    verdict = artifacts.judged(tmp_path)
    assert verdict and verdict.not_beaten == ["raw_pixels"]
    board.write_text(leaderboard.to_csv(verdict))
    assert next(row for row in artifacts.leaderboard(board)[0] if row["method"] == "rotation")["verdict"] == str(
        verdict.standings["rotation"].answer or "healthy"
    )
    page = artifacts.page(tmp_path, "1 stage: 1 ran", verdict)
    assert page.index("Do not use this yet") < page.index(
        "- Champion (best of the methods, not to be used yet): **rotation-0**"
    )
    warning, first = artifacts.said(verdict)[-2:]
    assert warning.startswith("Do not use this yet") and first.startswith("rotation ")
    assert artifacts.judged(tmp_path / "nothing") is None and artifacts.said(None) == []


def test_tasks_and_what_a_training_gained_are_shown_where_there_are_any(tmp_path: Path) -> None:
    from flows import artifacts

    board, transfer = tmp_path / "leaderboard.csv", tmp_path / "transfer.csv"
    board.write_text("method,seed,over_start,standing\nsimclr,0,-0.1,worse than its start\nbyol,0,0.2,\n")
    rows, _ = artifacts.leaderboard(board)
    assert [row["standing"] for row in rows] == ["worse than its start", ""] and rows[1]["over_start"] == "0.2"
    board.write_text("method,seed,over_start,standing\nsimclr,0,,\n")
    assert "standing" not in artifacts.leaderboard(board)[0][0]
    transfer.write_text("method,average_rank,data,tiles\nsimclr,1.5,0.81234,0.9\n")
    assert artifacts.tasks(transfer) == [{"method": "simclr", "average_rank": "1.5", "data": "0.8123", "tiles": "0.9"}]
    Registration("ssl-fm", {}, {"champion": "simclr-0", "champion-tiles": "byol-0"}).write(tmp_path / REGISTRATION)
    assert "- Champion of tiles: **byol-0**, `models:/ssl-fm@champion-tiles`" in artifacts.page(tmp_path, "1 stage: 1 ran")


def test_a_new_champion_is_an_event_and_stands_in_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import artifacts

    seen: list[Any] = []
    monkeypatch.setattr(artifacts, "emit_event", lambda event, resource, payload: seen.append((event, resource, payload)))
    artifacts.announce(tmp_path, None)  # nothing is registered yet
    for best in ("simclr-0", "simclr-0", "byol-0"):
        Registration("ssl-fm", {}, {"champion": best}).write(tmp_path / REGISTRATION)
        artifacts.announce(tmp_path, ("ssl-fm", "rotation-0"))
    assert [payload["before"] for *_, payload in seen] == ["rotation-0", "simclr-0"] and seen[-1][2]["champion"] == "byol-0"
    assert {(event, resource["prefect.resource.id"]) for event, resource, _ in seen} == {
        ("ssl-pipeline.champion-changed", "ssl-pipeline.model.ssl-fm")
    }
    assert "- Champion: **byol-0**, `models:/ssl-fm@champion`" in artifacts.page(tmp_path, "1 stage: 1 ran")


def test_the_champion_of_a_task_is_judged_by_the_rows_of_the_task(tmp_path: Path) -> None:
    from flows import artifacts

    root = project_of(tmp_path / "p", labelled=True)  # rotation is the best on the tiles
    Registration("ssl-fm", {}, {"champion": "simclr-0", "champion-tiles": "rotation-0"}).write(root / REGISTRATION)
    page = artifacts.page(root, "1 stage: 1 ran", artifacts.judged(root))
    assert "- Champion of tiles (best of the methods, not to be used yet): **rotation-0**" in page
    several = transfer.load(root)
    assert several and any(said.startswith("tiles: Do not use this yet: raw pixels") for said in transfer.sentences(several))


def test_the_automation_of_the_page_listens_to_the_event() -> None:
    from prefect.automations import Automation

    from flows import artifacts

    trigger = Automation.model_validate(yaml.safe_load(of_the_page("the champion changed"))).trigger
    assert trigger.expect == {artifacts.CHANGED} and trigger.match["prefect.resource.id"] == ["ssl-pipeline.model.*"]


def of_the_page(name: str) -> str:
    """The automation of that name in docs/orchestration.md."""
    (text,) = re.findall(rf"```yaml\n(name: {name}\n.*?)```", (ROOT / "docs/orchestration.md").read_text(), re.S)
    return str(text)


def test_the_automation_of_the_page_hears_of_failed_and_crashed_runs_of_these_flows(tmp_path: Path) -> None:
    (tmp_path / "failed.yaml").write_text(of_the_page("a run failed"))
    server.cli(tmp_path, "automation create --from-file failed.yaml")
    ended = {
        name: end(name, kind) for name, kind in (("other", "FAILED"), ("ssl-pipeline", "FAILED"), ("watch-data", "CRASHED"))
    }
    heard = wait_for(lambda: len(found := heard_of()) >= 2 and found, 60)
    assert heard == {ended["ssl-pipeline"], ended["watch-data"]}
    (automation,) = server.api("automations/filter", automations={"name": {"any_": ["a run failed"]}})
    server.patch(f"automations/{automation['id']}", enabled=False)


def end(flow: str, kind: str) -> str:
    """Let a run of the flow end so; the event that says it."""
    run = server.api("flow_runs/", flow_id=server.api("flows/", name=flow)["id"], state={"type": "RUNNING"})
    answer = server.api(f"flow_runs/{run['id']}/set_state", state={"type": kind}, force=True)
    return f"prefect.event.{answer['state']['id']}"


def heard_of() -> set[str]:
    """The events that started an automation."""
    wanted = {
        "event": {"name": ["prefect.automation.triggered"]},
        "occurred": {"since": server.now(-600), "until": server.now(60)},
    }
    related = [each for event in server.api("events/filter", filter=wanted)["events"] for each in event["related"]]
    return {each["prefect.resource.id"] for each in related if each["prefect.resource.role"] == "triggering-event"}
