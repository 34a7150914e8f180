"""Settings of the tools the pipeline drives, in one place: no telemetry, no pickle, the tracking store under the project."""

import os
import re
from pathlib import Path

DEFAULTS = {
    "DO_NOT_TRACK": "true",  # MLflow wants the word; Prefect takes it too
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # Starting Prefect's own server on a new database takes longer than its default of 20 seconds on two cores.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
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


def project_root() -> Path:
    """Where ``params.yaml`` is; inside a DVC experiment's temporary copy, the workspace it was started from."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def store_uri(root: Path) -> str:
    """The default tracking store of a project."""
    return f"sqlite:///{root / 'mlruns' / 'mlflow.db'}"


def system_metrics() -> bool:
    """Whether the user asked for the machine's CPU, memory, disk and GPU use in MLflow."""
    return os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("true", "1")


def apply() -> None:
    """Put the settings into the environment of this process and its children; what the user has set stays."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_TRACKING_URI", store_uri(project_root()))


def redact(message: str) -> str:
    """``message`` without the user and password of any address in it."""
    return re.sub(r"//[^/@\s]*@", "//***@", message)
