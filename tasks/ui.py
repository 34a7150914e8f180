"""``make ui``: MLflow's and Prefect's servers on loopback until Ctrl-C, for their own pages and this machine's programs."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from tasks.runtime import settings
from tasks.runtime.errors import EnvironmentFault, UsageError, run
from tasks.runtime.redaction import redact
from tasks.tracking import view

HOST = "127.0.0.1"
MLFLOW_PORT, PREFECT_PORT = 5000, 4200
STOPS = (signal.SIGINT, signal.SIGTERM)


def _free(port: int, variable: str) -> int:
    given = os.environ.get(variable, str(port))
    if not given.isdecimal() or not 0 < int(given) < 65536:
        raise UsageError(f"{variable} is {given!r}; it must be a port from 1 to 65535")
    port = int(given)
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise EnvironmentFault(f"port {port} is taken; stop what uses it, or set {variable} to another port")
    return port


def _hosts(port: int) -> list[str]:
    """What a server is called by whom it answers: a page of another site, or with another name for this address, is refused."""
    return [f"{HOST}:{port}", f"localhost:{port}"]


def _origins(port: int) -> list[str]:
    return [f"http://{host}" for host in _hosts(port)]


def main() -> None:
    """Start both, wait until they answer, print their addresses."""
    settings.apply()
    store = os.environ["MLFLOW_TRACKING_URI"]
    is_served = store.startswith(("http://", "https://"))
    prefect = _free(PREFECT_PORT, "PREFECT_PORT")
    mlflow = 0 if is_served else _free(MLFLOW_PORT, "MLFLOW_PORT")
    if mlflow == prefect:
        raise UsageError(f"MLFLOW_PORT and PREFECT_PORT are both {mlflow}; give each its own")
    settings.need_project()
    settings.check_certificates()
    if store.startswith("sqlite"):  # make it here, once: two processes opening a new file at the same time damage it
        synced = subprocess.run([sys.executable, "-m", "tasks.sync"])
        if synced.returncode:  # it has said why
            sys.exit(synced.returncode)
    here, python = ["--host", HOST, "--port"], [sys.executable, "-m"]
    own = ["--allowed-hosts", ",".join(_hosts(mlflow)), "--cors-allowed-origins", ",".join(_origins(mlflow))]
    commands = {prefect: [*python, "uvicorn", "--factory", "flows.server:create_app", *here, str(prefect)]}
    if is_served:
        print(f"MLflow   {redact(store)}, by MLFLOW_TRACKING_URI{_silence(store)}", flush=True)
    else:
        serve = ["mlflow", "server", *here, str(mlflow), "--workers", "1", "--backend-store-uri", store, *own]
        commands = {mlflow: [*python, *serve], **commands}
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{prefect}/api",  # else the page asks port 4200, or PREFECT_API_URL
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(_origins(prefect)),
    }
    quiet = subprocess.DEVNULL
    servers = [
        subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
        for command in commands.values()
    ]
    for number in STOPS:
        signal.signal(number, _stop)
    try:
        for port in commands:
            _wait(port, servers)
            name, page = ("MLflow ", _runs(port)) if port == mlflow else ("Prefect", "")
            print(f"{name}  http://{HOST}:{port}{page}", flush=True)
        print("Ctrl-C stops both." if len(commands) > 1 else "Ctrl-C stops it.", flush=True)
        while all(s.poll() is None for s in servers):
            time.sleep(0.5)
        raise EnvironmentFault("a server has stopped; run its command by hand to see why")
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(server.pid, signal.SIGTERM)
        for server in servers:
            end(server)


def end(server: "subprocess.Popen[bytes]", seconds: float = 20.0) -> None:
    """Wait for a server that was asked to stop, ``seconds`` at most: on a busy machine it may not come to it."""
    try:
        server.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _stop(number: int, frame: Any) -> None:
    """Leave at the first signal; those that follow (make passes its own on) must not interrupt the stopping."""
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)
    raise KeyboardInterrupt


def _runs(port: int) -> str:
    """The page of the trainings, best first, on MLflow's server: its own start page is for language models."""
    name = urllib.parse.quote(os.environ.get("MLFLOW_EXPERIMENT_NAME", settings.EXPERIMENT))
    address = f"http://{HOST}:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}"
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            number = json.load(answer)["experiment"]["experiment_id"]
    except OSError:  # nothing was ever sent to this store
        return ""
    return f"/#/experiments/{number}/runs?{view.QUERY}"


def _silence(store: str) -> str:
    """What to add where a server of one's own does not answer now."""
    try:
        urllib.request.urlopen(f"{store.rstrip('/')}/version", timeout=5).close()  # noqa: S310  it begins with http
    except urllib.error.HTTPError:  # it is there: behind a password, or another one
        return ""
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f": it does not answer now ({redact(str(getattr(error, 'reason', error)))})"
    return ""


def _wait(port: int, servers: list[subprocess.Popen[bytes]]) -> None:
    """Until it answers, however long it takes on a busy machine, or a server has ended."""
    while all(s.poll() is None for s in servers):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)
    raise EnvironmentFault(f"nothing answers on port {port}, for a server has ended; run its command by hand to see why")


if __name__ == "__main__":
    run(main)
