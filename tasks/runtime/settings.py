"""Settings of the tools the pipeline drives, in one place: no telemetry, no pickle, the tracking store under the project."""

import getpass
import logging
import math
import os
import sys
import urllib.parse
from pathlib import Path

from tasks.runtime.errors import EnvironmentFault, UsageError

DEFAULTS = {
    "DO_NOT_TRACK": "true",  # MLflow wants the word; Prefect takes it too
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # A tracker that does not answer is given up on quickly: the journal holds everything, a later sync sends it.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run that a server takes
    "GIT_PYTHON_REFRESH": "quiet",  # MLflow without a git executable
}

EXPERIMENT = "ssl-pipeline"
"""Where runs go in MLflow, unless ``MLFLOW_EXPERIMENT_NAME`` says another."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def seconds(name: str, otherwise: float) -> float:
    """The variable of the environment, a number of seconds.

    Raises:
        UsageError: it is none.
    """
    given = os.environ.get(name)
    try:
        found = otherwise if given is None else float(given)
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise UsageError(f"{name} is {given!r}; it must be a number of seconds")
    return found


def project_root(here: Path | None = None) -> Path:
    """Where ``params.yaml`` is, by default of the current directory; inside a DVC experiment's temporary copy, the workspace it
    was started from.

    DVC names its project to whatever a stage of it runs, and that may be a project of its own: this one.
    """
    here, outer = (here or Path()).resolve(), Path(os.environ.get("DVC_ROOT") or ".").resolve()
    return outer if (outer / ".dvc" / "tmp") in here.parents else here


def need_project() -> None:
    """Refuse to work where no project is, before a store or a folder of DVC is made there.

    Raises:
        UsageError: there is no params.yaml.
    """
    if not (project_root() / "params.yaml").exists():
        raise UsageError("params.yaml is missing; run from the project's root (git checkout params.yaml restores it)")


def check_certificates() -> None:
    """Refuse a variable that names certificates which are not there: every client of HTTP would end at its start.

    Raises:
        EnvironmentFault: the file or folder does not exist.
    """
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        place = os.environ.get(name)
        if place and not any(Path(part).exists() for part in place.split(os.pathsep)):
            raise EnvironmentFault(f"{name} names {place}, which does not exist; unset it, or name certificates that are there")


def store_uri(root: Path) -> str:
    """The default tracking store of a project."""
    return f"sqlite:///{root / 'mlruns' / 'mlflow.db'}"


def system_metrics() -> bool:
    """Whether the user asked for the machine's CPU, memory, disk and GPU use in MLflow."""
    return os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("true", "1")


EMPTY_IS_UNSET = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME")
"""MLflow takes an empty one of these for a place of its own."""


SHELL = "/bin/sh"
"""DVC runs the commands of dvc.yaml in the shell of the user, which a service's account has none of (``nologin``), or one that
reads them in another way."""


def apply() -> None:
    """Put the settings into the environment of this process and its children; what the user has set stays.

    Raises:
        EnvironmentFault: the project lies where its tools cannot work, or this user has no place to write.
    """
    _check_place()
    _bypass_proxy()
    _fill_in_user()
    for name in EMPTY_IS_UNSET:
        if not os.environ.get(name, "").strip():
            os.environ.pop(name, None)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ["SHELL"] = SHELL
    _check_addresses()
    os.environ.setdefault("MLFLOW_TRACKING_URI", store_uri(project_root()))


def _check_addresses() -> None:
    """Refuse what MLflow, or the client of Hugging Face's hub, would end at with a traceback."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "HF_ENDPOINT"):
        try:
            address = urllib.parse.urlsplit(os.environ.get(name, ""))
            _ = address.port if name.startswith("HF") else None  # a store may be called databricks://PROFILE:PREFIX
        except ValueError as error:
            raise EnvironmentFault(f"{name} is no address: {error}") from None
    level = os.environ.get("MLFLOW_LOGGING_LEVEL", "")
    if level and level.upper() not in logging.getLevelNamesMapping():
        raise EnvironmentFault(f"MLFLOW_LOGGING_LEVEL is {level!r}; it must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL")


def _check_place() -> None:
    """Refuse a path that one of the tools would read as something else: better now than in the middle of a run."""
    place = str(project_root())
    faults = {
        "holds a '?': the rest would be read as options of MLflow's database": "?" in place,
        "holds a ':': the shell would read it as two folders": ":" in place,
        "holds braces, which DVC would fill in": "{" in place or "}" in place,
        "holds both kinds of quotation marks, which MLflow's database does not take": "'" in place and '"' in place,
        "holds a line break or another control character": not place.isprintable(),
    }
    for fault, found in faults.items():
        if found:
            raise EnvironmentFault(f"the project's path {place!r} {fault}; rename the folder")
    if "%" in sys.prefix:
        raise EnvironmentFault(f"MLflow cannot work when it is installed below a folder with '%': {sys.prefix}; rename it")


def _bypass_proxy() -> None:
    """A proxy is another machine: it cannot reach the servers that listen on this one alone."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip().strip("[]") for host in given.split(",") if host.strip()]  # httpx fails at brackets
    proxies = (f"{kind}_proxy" for kind in ("http", "https", "all"))
    if "*" in hosts or not any(os.environ.get(name) or os.environ.get(name.upper()) for name in proxies):
        return
    value = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    os.environ.update(no_proxy=value, NO_PROXY=value)


def _fill_in_user() -> None:
    """A name and a home for a user that the machine does not know, as in containers; Prefect and DVC end without them.

    A home that can only be read stays, for what is in it; the caches go elsewhere.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid-{os.getuid()}"
    try:
        home = Path.home()
    except RuntimeError:  # nobody knows
        home = Path()
    if home.is_absolute() and home.is_dir() and os.access(home, os.W_OK | os.X_OK):
        return
    own = project_root() / ".ssl" / "home"
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        user, root = getpass.getuser(), project_root()
        raise EnvironmentFault(
            f"neither the home of {user} nor {root} can be written ({error.strerror}); set HOME to a folder of yours"
        ) from None
    if home in (Path(), Path("/")) or not home.is_dir():
        os.environ["HOME"] = str(own)
    else:
        os.environ.setdefault("PREFECT_HOME", str(own / ".prefect"))
        os.environ.setdefault("XDG_CACHE_HOME", str(own / ".cache"))
