"""``make ui``: a port that cannot be used is named, and the pages really open."""

import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tasks import ui
from tasks.tracking import view
from tests.support import foreign
from tests.support.project import command, copy_project, start


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_a_port_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        busy = str(server.getsockname()[1])
        for ports, code, message in (
            (
                {"MLFLOW_PORT": free_port(), "PREFECT_PORT": busy},
                4,
                f"port {busy} is taken; stop what uses it, or set PREFECT_PORT",
            ),
            ({"MLFLOW_PORT": "http"}, 2, "MLFLOW_PORT is 'http'"),
            (dict.fromkeys(("MLFLOW_PORT", "PREFECT_PORT"), free_port()), 2, "MLFLOW_PORT and PREFECT_PORT are both"),
        ):
            done = command(tmp_path, "tasks.ui", PYTHONPATH=str(Path.cwd()), **ports)
            assert done.returncode == code and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_stop_in_time_is_ended() -> None:
    deaf = ["sh", "-c", "trap '' TERM; echo ready; sleep 60 & wait; sleep 60"]
    server = subprocess.Popen(deaf, stdout=subprocess.PIPE, start_new_session=True)
    assert server.stdout and server.stdout.readline() == b"ready\n"
    os.killpg(server.pid, signal.SIGTERM)
    ui.end(server, 0.3)
    assert server.returncode == -signal.SIGKILL


def left_on(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.mark.stress
def test_a_tracker_that_is_there_already_is_named_and_not_served_again(tmp_path: Path) -> None:
    project, port = copy_project(tmp_path / "p", git=True), free_port()
    own = {"PREFECT_PORT": port, "MLFLOW_PORT": free_port(), "PREFECT_HOME": str(tmp_path / "prefect")}
    process = start(project, "tasks.ui", forked=False, MLFLOW_TRACKING_URI="http://user:secret@tracker.example:5000", **own)
    assert process.stdout
    said = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0 and not left_on(port)
    assert (
        said[0].startswith("MLflow   http://")
        and "tracker.example:5000, by MLFLOW_TRACKING_URI: it does not answer now (" in said[0]
    )
    assert "secret" not in said[0] and f"http://127.0.0.1:{port}" in said[1] and said[2] == "Ctrl-C stops it.\n"


@pytest.mark.stress
def test_where_one_server_ends_at_its_start_the_other_one_is_stopped_too(tmp_path: Path) -> None:
    """A store that no server can use."""
    port = free_port()
    own = {"PREFECT_PORT": port, "MLFLOW_PORT": free_port(), "PREFECT_HOME": str(tmp_path / "prefect")}
    project = copy_project(tmp_path / "p", git=True)
    done = command(project, "tasks.ui", MLFLOW_TRACKING_URI="mssql+nothing://nowhere", **own)
    assert done.returncode == 4 and "for a server has ended; run its command by hand to see why" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not left_on(port)


def refuses_other_sites(pid: int, ports: dict[str, int]) -> None:
    """Both servers listen on loopback alone, answer their own pages and no others, whatever these call themselves."""
    assert foreign.listening(pid) == {("127.0.0.1", port) for port in ports.values()}
    for name, path, body in (
        ("PREFECT_PORT", "/api/flows/", {"name": "planted"}),
        ("MLFLOW_PORT", "/api/2.0/mlflow/experiments/create", {"name": "planted"}),
        ("MLFLOW_PORT", "/ajax-api/2.0/mlflow/experiments/create", {"name": "planted"}),
    ):
        port = ports[name]
        neighbor = {"origin": f"http://127.0.0.1:{port + 1}"}  # to MLflow every page of this machine is its own
        for disguise in foreign.disguises(port):
            if name == "MLFLOW_PORT" and disguise == neighbor:
                continue
            status, headers = foreign.send(port, "POST", path, body, **disguise)
            assert status in (400, 403) and headers.get("access-control-allow-origin") is None, (path, disguise, status)
        own = f"http://localhost:{port}"
        assert foreign.send(port, "POST", path, {"name": f"own-{len(path)}"}, host=f"localhost:{port}", origin=own)[0] in (
            200,
            201,
        )


@pytest.mark.stress
@pytest.mark.fault("F78")
def test_both_pages_open_on_loopback_and_close_on_a_signal(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", git=True)
    ports = {"MLFLOW_PORT": free_port(), "PREFECT_PORT": free_port()}
    process = start(project, "tasks.ui", forked=False, PREFECT_HOME=str(tmp_path / "prefect"), **ports)
    assert process.stdout
    try:
        pages = []
        while (line := process.stdout.readline()) and "Ctrl-C" not in line:
            pages += re.findall(r"http://127.0.0.1:\d+\S*", line)
        titles = []
        for page in pages:
            with urllib.request.urlopen(page, timeout=120) as answer:
                titles += re.findall(r"<title>(\w+)", answer.read().decode())
        assert titles == ["MLflow", "Prefect"]
        assert pages[0].endswith(f"/runs?{view.QUERY}")
        refuses_other_sites(process.pid, {name: int(port) for name, port in ports.items()})
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.2)
        assert process.wait(30) == 0
    assert not any(map(left_on, ports.values()))
