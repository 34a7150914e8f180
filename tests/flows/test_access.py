"""No page of another site drives Prefect: servers of ours answer this machine's programs and their own pages alone."""

import http.client
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import foreign
from tests.support import prefect_server as server
from tests.support import tiny_graph as tiny
from tests.support.processes import wait_for
from tests.support.project import environment

ATTACKS = (
    ("POST", "/api/flows/", {"name": "planted"}),
    ("POST", "/api/deployments/", {"name": "planted", "flow_id": "00000000-0000-0000-0000-000000000000"}),
    ("POST", "/api/work_pools/", {"name": "planted", "type": "process"}),
    ("POST", "/api/flows/filter", {}),
    ("GET", "/api/csrf-token?client=evil", None),
)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    yield tiny.make(tmp_path / "p")
    tiny.end_all(tmp_path / "p")


@pytest.mark.fault("F78")
def test_the_server_refuses_other_sites_and_serves_its_own_page_and_programs() -> None:
    port = int(re.findall(r":(\d+)/", server.prefect_environment()["PREFECT_API_URL"])[0])
    assert foreign.listening(server.server_pid()) == {("127.0.0.1", port)}
    for disguise in foreign.disguises(port):
        for attack in ATTACKS:
            status, headers = foreign.send(port, *attack, **disguise)
            assert status == 403 and "access-control-allow-origin" not in headers, (attack, disguise)
        ask = {"access_control_request_method": "POST", "access_control_request_headers": "content-type"}
        assert foreign.send(port, "OPTIONS", "/api/flows/", **(disguise | ask))[0] == 403
        assert foreign.websocket(port, "/api/events/out", **disguise) == 403
        assert foreign.send(port, "GET", "/", **disguise)[0] == 403
    for own in (
        {},
        {"origin": f"http://127.0.0.1:{port}"},
        {"host": f"localhost:{port}", "origin": f"http://localhost:{port}"},
    ):
        assert foreign.send(port, "POST", "/api/flows/filter", {}, **own)[0] == 200
        assert foreign.websocket(port, "/api/events/out", **own) == 101
    assert not [row for row in server.api("flows/filter") if row["name"] == "planted"]
    assert not [row for row in server.api("work_pools/filter") if row["name"] == "planted"]


@pytest.mark.fault("F78")
def test_a_worker_answers_no_page(project: Path) -> None:
    """It listens on loopback for the flows it starts, each of which has a token of its own."""
    code, log = tiny.finish(project, "prefect", "work-pool", "create", "doors", "--type", "process", "--overwrite")
    assert code == 0, log
    worker = tiny.start(project, "prefect", "worker", "start", "--pool", "doors")
    wait_for(lambda: "started" in (project / ".ssl" / "flow.log").read_text().lower(), 120)
    for address, port in foreign.listening(worker.pid):
        assert address == "127.0.0.1"
        for disguise in ({}, *foreign.disguises(port)):
            with pytest.raises((http.client.HTTPException, OSError)):  # closed without a word
                foreign.send(port, "POST", "/", {}, **disguise)
    assert worker.poll() is None


@pytest.mark.fault("F68", "F78")
def test_one_command_needs_no_server_and_starts_one_that_answers_it_alone(project: Path, tmp_path: Path) -> None:
    """However slow its start is: Prefect's own limit is set to less than any start takes."""
    tiny.control(project, prepare={"seconds": 10})
    (tmp_path / "home").mkdir()
    shutil.copyfile(server.migrated(), tmp_path / "home/prefect.db")
    env = environment(PREFECT_HOME=str(tmp_path / "home"), PYTHONPATH=server.prefect_environment()["PYTHONPATH"])
    env.pop("PREFECT_API_URL", None)
    env["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "1"
    process = tiny.start(project, "flows.pipeline", "pretrain@byol-0", env=env, forked=False)  # as a user starts it
    wait_for(lambda: "prepare" in tiny.computed(project) or process.poll() is not None, 180)
    assert process.poll() is None, (project / ".ssl" / "flow.log").read_text()
    ((address, port),) = foreign.listening(process.pid)
    assert address == "127.0.0.1"
    for disguise in ({}, *foreign.disguises(port)):
        for attack in ATTACKS:
            assert foreign.send(port, *attack, **disguise)[0] == 401, (attack, disguise)
    assert process.wait(120) == 0
    log = (project / ".ssl" / "flow.log").read_text()
    assert "2 stages: 2 ran" in log and not re.search(r"\b401\b", log) and "Unauthorized" not in log, log
    tiny.control(project, pretrain_simclr_0={"seconds": 600})
    process = tiny.start(project, "flows.pipeline", "pretrain@simclr-0", env=env, forked=False)
    wait_for(lambda: "pretrain@simclr-0" in tiny.computed(project) or process.poll() is not None, 180)
    ((address, port),) = foreign.listening(process.pid)
    process.kill()  # without a moment to end its server
    wait_for(lambda: not answers(port), 60)


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (
            {},
            4,
            "Prefect's server ended at its start: sqlalchemy.exc.DatabaseError: (sqlite3.DatabaseError) file is not a database",
        ),
        ({"PREFECT_SERVER_EPHEMERAL_ENABLED": "false"}, 2, "PREFECT_SERVER_EPHEMERAL_ENABLED forbids a server for this run"),
    ],
)
def test_a_server_that_cannot_start_is_one_line_with_its_reason(
    project: Path, tmp_path: Path, settings: dict[str, str], code: int, said: str
) -> None:
    (tmp_path / "prefect.db").write_bytes(b"damaged" * 1000)
    env = environment(PREFECT_HOME=str(tmp_path), PYTHONPATH=server.prefect_environment()["PYTHONPATH"], **settings)
    env.pop("PREFECT_API_URL", None)
    found, log = tiny.finish(project, "flows.pipeline", env=env, forked=False)
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert (found, len(errors)) == (code, 1) and said in errors[0] and "Traceback" not in log, log
