"""What may be shown and stored of an address or a message: nothing that lets its reader in."""

import base64
import os
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus

URL = re.compile(r"([A-Za-z][\w+.-]*://)([^\s'\"<>`]+)")
WORDS = r"password|passwd|pwd|token|secret|api[_-]?key|access[_-]?key|signature"
SAID = re.compile(rf"\b([\w-]*(?:{WORDS}))(\s*[=:]\s*)[^\s&;,'\")]+", re.IGNORECASE)
"""``password=...`` outside an address."""
NAMED = re.compile(r"(PASSWORD|TOKEN|SECRET|AUTH_STRING|_KEY)$")
"""Environment variables whose values are secrets."""
SHORTEST = 6
"""A shorter value may be part of any word; an address that holds it is still cut."""
HIDDEN = "***"


def redact(text: str) -> str:
    """``text`` without the user, password, query and fragment of any address in it, and without what the environment hides.

    A password may hold ``@`` and ``/``: whatever stands before the last ``@`` of an address goes.
    """
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return SAID.sub(rf"\1\2{HIDDEN}", URL.sub(lambda found: found[1] + _shown(found[2]), text))


def _shown(rest: str) -> str:
    """What follows ``scheme://`` of an address, as far as anybody may see it."""
    user, at, place = rest.rpartition("@") if not rest.startswith("/") else ("", "", rest)
    path, mark, _ = re.match(r"([^?#]*)([?#]?)(.*)", place, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{HIDDEN if user else ''}{at}{path}{f'{mark}{HIDDEN}' if mark else ''}"


def _secrets() -> list[str]:
    """Secrets in the environment in every spelling, the longest first."""
    found = {spelled for name, value in os.environ.items() for part in _parts(name, value) for spelled in _spellings(part)}
    return sorted((secret for secret in found if len(secret) >= SHORTEST), key=len, reverse=True)


def _parts(name: str, value: str) -> Iterator[str]:
    """What is secret in a variable: all of it, or the password and the query of an address."""
    if NAMED.search(name):
        yield value
    for _, rest in URL.findall(value):
        user, at, place = rest.rpartition("@")
        if at and not rest.startswith("/"):
            yield user.partition(":")[2] or user
            yield base64.b64encode(unquote(user).encode()).decode()  # as a header sends it
        yield from (secret for _, secret in parse_qsl(place.partition("?")[2]))


def _spellings(secret: str) -> set[str]:
    plain = {secret, unquote(secret), unquote_plus(secret)}
    return plain | {spell(text) for text in plain for spell in (quote, quote_plus, lambda t: quote(t, safe=""))}
