"""Prefect's server as ``make ui`` starts it: for this machine's own pages and programs.

A page of any site can make a browser send requests to an address of this machine, and Prefect has no password unless it is
given one: such a page could have a worker run what it likes. This server answers only requests that name it as the browser's
address bar does (no other ``Host``, against DNS rebinding) and that no other site sent (no other ``Origin``).

    uvicorn --factory flows.server:create_app --host 127.0.0.1 --port 4200
"""

from prefect.server.api.server import create_app as prefect_server
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost")


class OwnPagesOnly:
    """Passes on the requests and WebSockets of this server's own pages and of programs; 403 for the rest."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's interface."""
        if scope["type"] == "lifespan" or _is_own(scope):
            await self.app(scope, receive, send)
        else:
            address = f"http://{NAMES[0]}:{scope['server'][1]}"
            await PlainTextResponse(f"this server answers {address} and its own pages only\n", 403)(scope, receive, send)


def _is_own(scope: Scope) -> bool:
    hosts = [f"{name}:{scope['server'][1]}" for name in NAMES]
    headers = Headers(scope=scope)
    origins = [None, *(f"http://{host}" for host in hosts)]
    return headers.getlist("host") in [[host] for host in hosts] and headers.get("origin") in origins


def create_app() -> ASGIApp:
    """Prefect's server behind the check."""
    return OwnPagesOnly(prefect_server())
