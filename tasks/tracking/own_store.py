"""A project's own store, ``mlruns``: a SQLite file, and beside it the artifacts, whose places MLflow writes down as absolute.

A project that was moved or copied would look for them where it was. ``follow`` points them at where they are now.
"""

import contextlib
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.runtime import settings
from tasks.runtime.errors import KEPT, TrackerDown
from tasks.runtime.locks import try_lock

PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}
"""Where MLflow's tables name a place: table to columns."""
SQLITE, ARTIFACTS = "sqlite:///", "artifacts"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Of database servers, where the address says none."""
ANSWER_SECONDS = 5.0
BUSY_SECONDS = 30.0
LOCK_WAIT_SECONDS = 60.0


def file_of(uri: str) -> Path | None:
    """The file of a SQLite store; None for a store of another kind."""
    return Path(uri.removeprefix(SQLITE)).absolute() if uri.startswith(SQLITE) else None


def reach(uri: str) -> None:
    """Ask once whether a database server is there: MLflow tries for two minutes without a word.

    Raises:
        TrackerDown: nobody answers.
    """
    address = urlsplit(uri)
    port = PORTS.get(address.scheme.partition("+")[0])
    if port is None or not address.hostname:
        return
    try:
        socket.create_connection((address.hostname, address.port or port), ANSWER_SECONDS).close()
    except OSError as error:
        where = f"{address.hostname}:{address.port or port}"
        raise TrackerDown(f"MLflow's database at {where} does not answer{KEPT}: {error}") from error


@dataclass(frozen=True)
class Work:
    """What one process at a time does to a store."""

    lock: str
    """End of the name of its lock."""
    doing: str
    again: str
    """The command for later."""


SENDING = Work("tracking.lock", "sending to MLflow", "python -m tasks.sync")
REGISTERING = Work("register.lock", "registering encoders", "the same command")


@contextlib.contextmanager
def alone(uri: str, work: Work = SENDING) -> Iterator[None]:
    """One process at a time, of whatever project that shares a SQLite store, and of this project where it is a server.

    Several that initialize a new SQLite file together damage it, and two that register the same encoder do its work twice.

    Raises:
        TrackerDown: another process holds the lock for too long, or the folder of the store cannot be written.
    """
    file = file_of(uri)
    path = file.with_name(f".{file.name}.{work.lock}") if file else settings.project_root() / ".ssl" / work.lock
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise TrackerDown(f"MLflow's store cannot be locked ({path}): {error.strerror}") from error
    with lock:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while not try_lock(lock):
            if time.monotonic() > deadline:
                raise TrackerDown(f"another process has been {work.doing} for too long; run {work.again} later")
            time.sleep(0.1)
        yield


def is_moved(store: Path) -> bool:
    """Whether this is a project's own store and looks for artifacts in a folder that it was in before.

    Raises:
        TrackerDown: it cannot be read.
    """
    if store.parent.name != "mlruns" or not store.exists() or not (store.parent / ARTIFACTS).is_dir():
        return False
    try:
        with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as connection:
            return bool(_left(connection, store.parent))
    except sqlite3.Error as error:
        raise TrackerDown(f"MLflow's store {store} cannot be read: {error}") from error


def follow(store: Path) -> None:
    """Point every place in a folder that this store was in before at the one where it is: all of them or, killed, none.

    Raises:
        TrackerDown: it cannot be read or written.
    """
    if not is_moved(store):
        return
    folder = store.parent
    try:
        with closing(sqlite3.connect(store, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for old in _left(connection, folder):
                _replace(connection, old, folder.as_uri())
                _replace(connection, unquote(urlsplit(old).path), str(folder))  # MLflow's experiment 0 has no scheme
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise TrackerDown(f"MLflow's store {store} was moved and cannot be told so: {error}") from error


def _left(connection: sqlite3.Connection, folder: Path) -> set[str]:
    """Addresses of the folders that this store was in before."""
    if "experiments" not in _tables(connection):
        return set()
    places = {place for (place,) in connection.execute("SELECT artifact_location FROM experiments")}
    ends = f"/{folder.name}/{ARTIFACTS}"
    roots = {p.removesuffix(f"/{ARTIFACTS}") for p in places if p and p.startswith("file://") and p.endswith(ends)}
    return roots - {folder.as_uri()}


def _replace(connection: sqlite3.Connection, old: str, new: str) -> None:
    for table in PLACES.keys() & _tables(connection):
        for column in PLACES[table]:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                [new, len(old) + 1, len(old) + 1, f"{old}/"],
            )


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
