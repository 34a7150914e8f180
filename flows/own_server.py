"""The server that Prefect starts where no other is prepared, closed to everybody but the process that started it."""

import os
import secrets

from prefect.context import refresh_global_settings_context
from prefect.settings import get_current_settings


def close() -> None:
    """Set a password that nobody else has; without effect where a server or a password is set. To be called before a flow.

    Any web page can make a browser send requests to an address of this machine. The password stays in Prefect's settings, of
    this process and the server it starts; the environment, which other programs inherit, does not keep it.
    """
    found = get_current_settings()
    if found.api.url is not None or found.server.api.auth_string is not None:
        return
    password = f"flow:{secrets.token_urlsafe(32)}"
    own = {"PREFECT_API_AUTH_STRING": password, "PREFECT_SERVER_API_AUTH_STRING": password}
    os.environ.update(own)
    refresh_global_settings_context()
    for name in own:
        del os.environ[name]
