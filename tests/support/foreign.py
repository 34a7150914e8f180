"""What a web page of another site can do to a server on this machine, over real sockets."""

import http.client
import json
from typing import Any

import psutil

EVIL = "evil.example"


def listening(pid: int) -> set[tuple[str, int]]:
    """The (address, port) of every socket that a process and its descendants listen on, as the kernel says."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    sockets = [s for p in family for s in p.net_connections("all") if s.status == psutil.CONN_LISTEN and s.laddr]
    return {(s.laddr.ip, s.laddr.port) for s in sockets}


def send(port: int, verb: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str]]:
    """Send a request as a browser would, with its own ``host`` and ``origin``; the status and the headers of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest(verb, path, skip_host=True)
    data = json.dumps(body).encode() if body is not None else b""
    given = {"host": f"127.0.0.1:{port}"} | ({"content-type": "application/json"} if data else {}) | headers
    for name, value in (given | {"content-length": str(len(data))}).items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(data)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}


def disguises(port: int) -> list[dict[str, str]]:
    """Headers by which a request from another site is known: its origin, or its name for this address (DNS rebinding)."""
    return [
        {"host": EVIL, "origin": f"http://{EVIL}"},
        {"host": f"{EVIL}:{port}"},
        {"origin": f"http://{EVIL}"},
        {"origin": "null"},
        {"origin": f"http://127.0.0.1:{port + 1}"},
        {"origin": f"http://127.0.0.1.{EVIL}:{port}"},
        {"host": f"127.0.0.1.{EVIL}:{port}", "origin": f"http://127.0.0.1.{EVIL}:{port}"},
    ]


def websocket(port: int, path: str, **headers: str) -> int:
    """The status of a WebSocket's opening: 101 is let in."""
    handshake = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec_websocket_version": "13",
        "sec_websocket_key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    return send(port, "GET", path, **(handshake | headers))[0]
