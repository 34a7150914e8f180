"""Whether MLflow's registry holds what ``out/registry.json`` says, and can be loaded from: asked, never assumed.

The registry lies outside the project: a clone, a moved folder or another ``MLFLOW_TRACKING_URI`` has another one, or none.
A SQLite store is read here, which takes milliseconds; any other one answers MLflow's client, which takes seconds to import.
"""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.runtime import files, settings
from tasks.runtime.errors import EnvironmentFault, IntegrityError, StageFailed, Stop, TrackerDown
from tasks.runtime.redaction import redact
from tasks.tracking import copies, own_store, patience

REGISTRATION = Path("out/registry.json")
CHAMPION = "champion"
PACKAGE, SEAL = "ssl.package", "ssl.manifest"
"""Tags of a version: the key of what it holds, and the hash of its manifest."""
SAME = ("method", "seed", "layer", "encoder_sha256", "data_sha256")
"""Tags that two versions of one encoder share, if they name another start of equal weights."""


@dataclass(frozen=True)
class Registration:
    """What a registry must hold: by the results alone, the same in every clone and for every store.

    A champion that stays because its training failed is not named here.
    """

    model: str
    packages: Mapping[str, str]
    """The key of each encoder's package, by ``METHOD-SEED``."""
    aliases: Mapping[str, str]
    """The encoder that each alias names."""
    left_out: Sequence[str] = ()
    """Encoders that cannot be exported."""

    def write(self, path: Path) -> None:
        """As ``out/registry.json``."""
        files.write_json(path, {key: dict(v) if isinstance(v, Mapping) else v for key, v in vars(self).items()})


@dataclass(frozen=True)
class Version:
    """A complete version in a registry."""

    number: int
    package: str
    seal: str
    source: str
    """Address of its artifacts."""
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Stored:
    """What a registry holds of one model."""

    versions: Mapping[str, Version]
    """By the key of the package; the first of each."""
    aliases: Mapping[str, int]

    def named(self, alias: str) -> Version | None:
        """The version that an alias names."""
        return next((version for version in self.versions.values() if version.number == self.aliases.get(alias)), None)


def address() -> str:
    """Of the registry in use: beside the runs, unless ``MLFLOW_REGISTRY_URI`` says another."""
    return os.environ.get("MLFLOW_REGISTRY_URI", os.environ["MLFLOW_TRACKING_URI"])


def load(root: Path) -> Registration | None:
    """What the stage ``register`` wrote down; None if it has not run.

    Raises:
        IntegrityError: it is damaged, or of an older release.
    """
    path = root / REGISTRATION
    if not path.exists():
        return None
    try:
        return Registration(**files.read_json(path))
    except TypeError:
        raise IntegrityError(f"{path} is of another release; run python -m tasks.register") from None


def fault(root: Path, whole: bool = False) -> str | None:
    """What is wrong with the registry in use, in words; None if nothing is, or nothing was registered yet. An alias that names
    newer results of another copy of the project is in order.

    Args:
        whole: read every byte of the artifacts, where they are files of this machine.

    Raises:
        TrackerDown: it cannot be asked now.
    """
    return look(root, whole)[0]


def look(root: Path, whole: bool = False) -> tuple[str | None, dict[str, str]]:
    """What ``fault`` says, and the aliases that name newer results of another copy of the project: of each, what it names.

    Raises:
        TrackerDown: the registry cannot be asked now.
    """
    try:
        wanted = load(root)
    except IntegrityError as error:
        return str(error), {}
    if wanted is None:
        return None, {}
    settings.apply()
    uri = os.environ["MLFLOW_TRACKING_URI"]
    file = own_store.file_of(uri)
    if file and own_store.is_moved(file):
        return f"the project was moved or copied, and {file} looks for artifacts where it was before", {}
    where, stored = redact(address()), ask(wanted.model)
    for name, key in wanted.packages.items():
        version = stored.versions.get(key)
        if version is None:
            return f"{wanted.model} at {where} lacks {name}", {}
        reason = unreadable(version.source, version.seal, whole)
        if reason:
            return f"{wanted.model} version {version.number} ({name}) at {where} cannot be loaded: {reason}", {}
    left = {}
    for alias, name in wanted.aliases.items():
        named = stored.named(alias)
        if named and is_same(named.tags, stored.versions[wanted.packages[name]].tags):
            continue
        newer = copies.newer(named.number, named.tags, root, wanted.packages) if named else ""
        if not newer:
            return f"the alias {alias} of {wanted.model} at {where} does not name {name}", {}
        left[alias] = newer
    return None, left


def left_alone(left: Mapping[str, str]) -> str:
    """A line on aliases that name newer results of another copy of the project, the champion's if it is among them."""
    alias = CHAMPION if CHAMPION in left else min(left)
    more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
    return f"the alias {alias} names {left[alias]}, after all that is here{more}: python -m tasks.register --take moves it"


def is_same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether the tags of two versions are of the same encoder, trained on the same images."""
    return all(str(first.get(tag)) == str(second.get(tag)) for tag in SAME)


def ensure(root: Path, tell: Callable[[str], None], whole: bool = False) -> Stop | None:
    """Register again, from ``out/encoders`` and without training, if the registry lacks anything; why that failed or None."""
    settings.apply()
    try:
        file = own_store.file_of(os.environ["MLFLOW_TRACKING_URI"])
        if file and own_store.is_moved(file):
            own_store.follow(file)
            tell(f"the project was moved or copied; {file} names the artifacts where they are now")
        reason, left = look(root, whole)
        if left:
            tell(left_alone(left))
        if reason is None:
            return None
        tell(f"{reason}; registering again, without training")
        done = subprocess.run([sys.executable, "-m", "tasks.register"], cwd=root, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            tell(line)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
            return StageFailed(done.returncode, f"register failed: {why}")
        reason = fault(root, whole)
        return StageFailed(EnvironmentFault.code, f"{reason}, though register went well") if reason else None
    except Stop as failure:
        return failure


def ask(model: str) -> Stored:
    """What the registry in use holds of ``model``.

    Raises:
        TrackerDown: it cannot be asked now.
    """
    file = own_store.file_of(os.environ["MLFLOW_TRACKING_URI"])
    if file is not None and not os.environ.get("MLFLOW_REGISTRY_URI"):
        return ask_file(file, model) if file.exists() else Stored({}, {})
    from tasks.tracking.tracker import Tracker

    tracker = Tracker(settings.project_root(), reading=True)
    with tracker.errors():
        found = versions(tracker.client, model)
        aliases = tracker.client.get_registered_model(model).aliases if found else {}
    return Stored(found, {alias: int(number) for alias, number in aliases.items()})


def versions(client: Any, model: str) -> dict[str, Version]:
    """The complete versions that MLflow's ``client`` finds, by the key of their package; the first of each."""
    found: list[Version | None] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{model}'", page_token=token)  # unordered: not every registry can order
        found += [_version(v.version, v.tags, v.source) for v in page if v.status == "READY"]
        token = page.token
        if not token:
            return _first(found)


def ask_file(file: Path, model: str) -> Stored:
    """What the SQLite store in ``file`` holds of ``model``, read without MLflow."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=own_store.BUSY_SECONDS)) as connection:
            tags: dict[int, dict[str, str]] = {}
            for number, key, value in connection.execute(
                "SELECT version, key, value FROM model_version_tags WHERE name = ?", [model]
            ):
                tags.setdefault(number, {})[key] = value
            rows = connection.execute(
                "SELECT version, source FROM model_versions WHERE name = ? AND status = 'READY' AND"
                " coalesce(current_stage, '') != 'Deleted_Internal'",
                [model],
            )
            found = _first(_version(number, tags.get(number, {}), source) for number, source in rows)
            named = connection.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", [model])
            return Stored(found, dict(named))
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # nothing was ever sent there
            return Stored({}, {})
        raise TrackerDown(f"MLflow's store {file} cannot be read: {error}") from error
    except sqlite3.Error as error:
        raise TrackerDown(f"MLflow's store {file} cannot be read: {error}") from error


def _version(number: int | str, tags: Mapping[str, str], source: str) -> Version | None:
    return Version(int(number), tags[PACKAGE], tags.get(SEAL, ""), source, tags) if PACKAGE in tags else None


def _first(listed: Iterable[Version | None]) -> dict[str, Version]:
    found: dict[str, Version] = {}
    for version in sorted(filter(None, listed), key=lambda version: version.number):
        found.setdefault(version.package, version)
    return found


def unreadable(source: str, seal: str, whole: bool = False) -> str | None:
    """Why the artifacts of a version cannot be loaded, in words; None if they can.

    Args:
        source: their address.
        seal: hash of the manifest that they were registered with.
        whole: compare every byte and not only names and sizes, where they are files of this machine.
    """
    folder = _folder(source)
    try:
        if folder is None:
            return _unreadable_there(source, seal)
        if files.sha256(folder / files.MANIFEST) != seal:
            return f"{folder} does not hold what was registered"
        if whole:
            files.verify(folder)
        sizes = {name: (folder / name).stat().st_size for name in files.read_json(folder / files.MANIFEST)["files"]}
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, Stop) as error:
        return str(error)
    return _compare(folder / files.MANIFEST, sizes)


def _unreadable_there(source: str, seal: str) -> str | None:
    """The same behind a server: the manifest is fetched, the rest is listed."""
    import tempfile

    from mlflow.artifacts import download_artifacts, list_artifacts
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory(prefix="ssl-manifest-") as place, patience.call():
            manifest = Path(download_artifacts(artifact_uri=f"{source}/{files.MANIFEST}", dst_path=place))
            if files.sha256(manifest) != seal:
                return f"{source} does not hold what was registered"
            sizes = {Path(item.path).name: int(item.file_size or 0) for item in list_artifacts(artifact_uri=source)}
            return _compare(manifest, sizes)
    except (MlflowException, OSError) as error:
        return redact(f"{source}: {str(error).splitlines()[0][:200]}")


def _compare(manifest: Path, sizes: Mapping[str, int]) -> str | None:
    wrong = [name for name, facts in files.read_json(manifest)["files"].items() if sizes.get(name) != facts["bytes"]]
    return f"{wrong[0]} is missing or not whole" if wrong else None


def _folder(source: str) -> Path | None:
    """The folder of an address on this machine; None for another one's."""
    parts = urlsplit(source)
    return Path(unquote(parts.path) if parts.scheme else source) if parts.scheme in ("", "file") else None
