"""The server that Prefect needs where no other is prepared: of one command, and closed to everybody else."""

import atexit
import importlib.util
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prefect.context import refresh_global_settings_context
from prefect.settings import get_current_settings

from tasks.runtime import settings
from tasks.runtime.errors import EnvironmentFault, UsageError

LOG = Path(".ssl") / "logs" / "prefect-server.log"
SLOW_SECONDS, END_SECONDS = 60.0, 10.0


def prepare() -> None:
    """Before a flow: start a server with a password that nobody else has, or the user's; nothing where a server is set.

    Any web page can make a browser send requests to an address of this machine. The password stays in Prefect's settings, of
    this process and the server it starts; the environment, which other programs inherit, does not keep it.

    Raises:
        UsageError: no project is here, or Prefect's settings forbid such a server.
        EnvironmentFault: the server ended at its start.
    """
    settings.need_project()
    found = get_current_settings()
    if found.api.url is None or urlsplit(found.api.url).hostname in settings.LOOPBACK:
        _drop_socks()
    if found.api.url is not None:
        return
    if not found.server.ephemeral.enabled:
        raise UsageError("PREFECT_SERVER_EPHEMERAL_ENABLED forbids a server for this run; set PREFECT_API_URL to one that runs")
    own = {}
    if found.server.api.auth_string is None:
        own = dict.fromkeys(("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"), f"flow:{secrets.token_urlsafe(32)}")
    os.environ.update(own)
    refresh_global_settings_context()
    for name in own:
        del os.environ[name]
    _start(own)


def _drop_socks() -> None:
    """Forget a SOCKS proxy that httpx, which Prefect asks with, cannot use: it would refuse this machine's addresses too."""
    if importlib.util.find_spec("socksio") is None:
        for name, value in list(os.environ.items()):
            if name.lower().endswith("_proxy") and value.lower().startswith("socks"):
                del os.environ[name]


def _start(password: dict[str, str]) -> None:
    """Start the server that Prefect's clients will look for, and wait for as long as its process lives.

    Prefect's own start gives up on a server that is slow, as on a busy machine, and tries one that ends at once for minutes.
    """
    from prefect.server.api.server import SubprocessASGIServer  # seconds, which a prepared server spares

    server = SubprocessASGIServer()
    port = server.port = server.find_available_port()
    command = [sys.executable, "-m", "flows.own_server", str(port)]
    environment = os.environ | password | {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        process = server.server_process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    atexit.register(server.stop)
    print(f"Starting Prefect's server for this run on {server.address} ...", flush=True)
    explain_at = time.monotonic() + SLOW_SECONDS
    with httpx.Client(trust_env=False) as client:
        while not _answers(client, f"{server.api_url}/health"):
            if process.poll() is not None:
                raise EnvironmentFault(f"Prefect's server ended at its start: {_reason()} ({LOG})")
            if time.monotonic() > explain_at:
                print("The server is still starting; the machine may be busy.", flush=True)
                explain_at = float("inf")
            time.sleep(0.1)
    server.running = True


def serve(port: int) -> None:
    """The server itself. It ends with the flow, also one that is killed: its standard input closes then."""
    import uvicorn

    def end_with_the_flow() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_SECONDS)
        os._exit(0)

    threading.Thread(target=end_with_the_flow, daemon=True).start()
    application = "prefect.server.api.server:create_app"
    uvicorn.run(application, factory=True, lifespan="on", log_level="error", host="127.0.0.1", port=port)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _reason() -> str:
    """What its log ends with: an exception, or else the last line."""
    text = LOG.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()] or ["it left no word"]
    return next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception): ", line)), lines[-1])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
