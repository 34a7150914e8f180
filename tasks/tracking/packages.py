"""Packages of encoders, fetched from MLflow's registry and verified. What is in one: ``tasks/register/export.py``."""

import os
import re
from pathlib import Path
from typing import Any

from tasks.runtime import files, params, settings
from tasks.runtime.errors import IntegrityError, UsageError
from tasks.tracking import patience, registered
from tasks.tracking.registered import CHAMPION, SEAL
from tasks.tracking.tracker import Tracker

LARGEST = 1 << 30
"""Bytes of a package; its size is not known before it is here."""


def fetch(uri: str | None, place: Path, store: str | None = None) -> tuple[Path, Any]:
    """Download ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` into ``place``; None: the champion of this project.

    Returns:
        The folder of the package, as it was registered, and MLflow's model version: its name, number and tags.

    Another ``store`` than ``MLFLOW_TRACKING_URI`` stays this process's one; without either it is that of the project here,
    else of the project whose code this is.

    Raises:
        UsageError: there is no such model.
        IntegrityError: the stored files are not those that were registered.
        TrackerDown: the store cannot be used now.
    """
    root = settings.project_root()
    if not (root / params.PARAMS).exists():
        root = Path(__file__).parents[2]
    if store is not None:
        os.environ["MLFLOW_TRACKING_URI"] = store
    os.environ.setdefault("MLFLOW_TRACKING_URI", settings.store_uri(root))
    tracker = Tracker(root, reading=True)
    with tracker.errors():
        version = _resolve(tracker.client, uri, root)
        from mlflow.artifacts import download_artifacts

        try:
            with patience.call(LARGEST):
                package = Path(download_artifacts(artifact_uri=version.source, dst_path=str(place)))
        except OSError as error:
            raise IntegrityError(f"{version.name} version {version.version}: {error}; make run puts it back") from None
        files.verify(package)
        if files.sha256(package / files.MANIFEST) != version.tags.get(SEAL):
            raise IntegrityError(f"{version.name} version {version.version} does not hold what was registered; not loaded")
    return package, version


def current(uri: str) -> str:
    """What ``models:/NAME@ALIAS`` names now: ``models:/NAME/VERSION``.

    Raises:
        UsageError: there is no such model.
        TrackerDown: the store cannot be used now.
    """
    root = settings.project_root()
    tracker = Tracker(root, reading=True)
    with tracker.errors():
        version = _resolve(tracker.client, uri, root)
    return f"models:/{version.name}/{version.version}"


def _resolve(client: Any, uri: str | None, root: Path) -> Any:
    from mlflow.exceptions import MlflowException

    if uri is None:
        wanted = registered.load(root)
        if wanted is not None and wanted.aliases and CHAMPION not in wanted.aliases:
            raise UsageError(
                "without labels no encoder is named champion: python -m tasks.label picks images whose labels choose, or name"
                f" one with --model models:/{wanted.model}@{min(wanted.aliases)}"
            )
        if wanted is None or CHAMPION not in wanted.aliases:
            raise UsageError("no encoder is registered yet; run make run, or name one with --model models:/NAME@ALIAS")
        uri = f"models:/{wanted.model}@{CHAMPION}"
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if match is None:
        raise UsageError(f"{uri!r} is not a model; write models:/NAME@ALIAS, models:/NAME/VERSION or an encoder's folder")
    name, alias, number = match.groups()
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        if error.get_http_status_code() >= 500:
            raise
        known = ", ".join(f"models:/{m.name}@{a}" for m in client.search_registered_models() for a in sorted(m.aliases))
        raise UsageError(
            f"there is no {uri}; registered: {known or 'nothing yet'}; make run registers what is missing"
        ) from None
