"""The MLflow model registry: one registered model per data set, a version per encoder, aliases for people to load by.

A registration is a transaction: pack, upload, download and compare hashes, create the version with all its tags, and move
aliases last. Killed anywhere, every alias still names a complete version, and the same command goes on. Registering the
same encoder again changes nothing, unless its files in the store are gone or changed: then they are put back.
"""

import contextlib
import hashlib
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks import transfer
from tasks.cautions import CAUTION
from tasks.register import modeling
from tasks.register.export import ONNX, VERSION, Exporter, Unfaithful
from tasks.register.modeling import ImageEncoder
from tasks.results import model_name
from tasks.runtime import files
from tasks.runtime.errors import EnvironmentFault, IntegrityError
from tasks.runtime.locks import try_lock
from tasks.runtime.words import ranges
from tasks.tracking import copies, logged_models, own_store, packages, patience, registered
from tasks.tracking.records import clean, text
from tasks.tracking.registered import CHAMPION, PACKAGE, SEAL
from tasks.tracking.tracker import Tracker

CARD = "ssl.card"
"""Tag of a version: the hash of its description."""
PASSING, OF_A_TASK = (transfer.RANK, "standing", "over_start"), ".linear_top1"
"""Tags of a version, by name or ending, that may be gone the next time."""


@dataclass(frozen=True)
class Entry:
    """One encoder to register."""

    name: str
    """``METHOD-SEED``."""
    source: Path
    """Its sealed directory."""
    layer: str
    """The evaluated block."""
    fingerprint: str
    """Of the training: whose run the version belongs to."""
    card: str
    tags: Mapping[str, Any]
    """Scores, protocol, hashes, license; they follow the evaluation."""


class Registry:
    """The registry behind a ``Tracker``."""

    def __init__(self, tracker: Tracker, model: str, exporter: Exporter | None = None):
        self.tracker, self.client, self.model = tracker, tracker.client, model
        self._exporter = exporter or Exporter()
        self.left_out: dict[str, str] = {}
        """Entries that cannot be exported, with the reason; the others are registered all the same."""
        self.left: dict[str, str] = {}
        """Aliases that were not moved, and what they name."""

    def named(self) -> dict[str, str]:
        """The encoder, as ``METHOD-SEED``, that each alias names now."""
        with self.tracker.errors():
            self._make_model()
            current = self.client.get_registered_model(self.model).aliases
            known = {v.number: v.tags for v in registered.versions(self.client, self.model).values()}
        tags = {alias: known.get(int(number), {}) for alias, number in current.items()}
        return {alias: f"{found.get('method')}-{found.get('seed')}" for alias, found in tags.items()}

    def register(
        self, entries: list[Entry], aliases: Mapping[str, str], kept: Collection[str] = (), take: bool = False
    ) -> dict[str, int]:
        """Register ``entries``, then point each alias at the entry it names; returns the version of each that can be exported.

        Args:
            kept: aliases that stay as they are.
            take: move an alias that names newer results of another copy of the project, too; else ``left`` has it then.

        Raises:
            IntegrityError: an encoder is damaged, or what was stored is not what was sent.
            TrackerDown: the store cannot be used now.
            EnvironmentFault: another process is registering.
        """
        with _alone(self.tracker.root), own_store.alone(self.tracker.uri, own_store.REGISTERING), self.tracker.errors():
            self._make_model()
            known = registered.versions(self.client, self.model)
            numbers: dict[str, int] = {}
            for entry in entries:
                try:
                    numbers[entry.name] = self._version(entry, known)
                except Unfaithful as reason:
                    self.left_out[entry.name] = str(reason)
                    continue
                version = {"name": self.model, "version": str(numbers[entry.name])}
                logged_models.link(self.client, self.tracker.experiment, entry.fingerprint, version)
            current = dict(self.client.get_registered_model(self.model).aliases)
            tags = {str(v.number): v.tags for v in known.values()}
            new = {entry.name: entry.tags for entry in entries}
            for alias, name in aliases.items():
                named = tags.get(str(current.get(alias)), {})
                if name not in numbers or registered.is_same(named, new[name]):
                    continue
                if not take and (newer := copies.newer(current.get(alias, ""), named, self.tracker.root, new)):
                    self.left[alias] = newer
                else:
                    self.client.set_registered_model_alias(self.model, alias, str(numbers[name]))
            for alias in current:
                if alias.startswith(f"{CHAMPION}-") and alias not in {*aliases, *kept}:  # of a task that is none any more
                    self.client.delete_registered_model_alias(self.model, alias)
        return numbers

    def other_data(self, data_sha256: str, data: str) -> list[str]:
        """What to say of encoders in the registry that were trained on other images than these, a sentence each.

        Args:
            data: the name of these images, given or that of their folder.
        """
        begins = model_name(data, "-").rstrip("-")  # without any hash
        with self.tracker.errors():
            versions = registered.versions(self.client, self.model).values()
            models = [m.name for m in self.client.search_registered_models(f"name LIKE '{begins}-%'")]
        others = [v.number for v in versions if v.tags.get("data_sha256") != data_sha256]
        notes = []
        if others:
            notes.append(
                f"versions of {self.model} that are of other images, so that their scores do not compare with these (data"
                f" {data_sha256[:8]}): {ranges(others)}"
            )
        same = [m for m in models if m != self.model and re.fullmatch(rf"{re.escape(begins)}-[0-9a-f]{{8}}", m)]
        if same and self.model == model_name(data, data_sha256):
            notes.append(
                f"{self.model} is named by its prepared images, and {', '.join(sorted(same)[:3])} by those of other files or"
                " settings of data: give them one data.name in params.yaml to have one model; it keeps that name"
            )
        if not versions and not same and self.model == model_name(data, data_sha256):
            notes.append(
                f"{self.model} is named after these very images and settings; data.name in params.yaml gives it a name that"
                " stays"
            )
        return notes

    def _make_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            about = "Encoders trained without labels. Aliases: champion, and one per method. The page of each says why."
            with contextlib.suppress(MlflowException):  # somebody else was faster
                self.client.create_registered_model(self.model, description=about)

    def _version(self, entry: Entry, known: Mapping[str, registered.Version]) -> int:
        key = package_key(entry)
        tags = {clean(k): text(v, 4900) for k, v in entry.tags.items() if v is not None}
        tags |= {PACKAGE: key, CARD: hashlib.sha256(entry.card.encode()).hexdigest()}
        old = known.get(key)
        tags[copies.COPIES] = copies.with_own(self.tracker.root, old.tags.get(copies.COPIES, "") if old else "")
        if old is not None and not registered.unreadable(old.source, old.seal, whole=True):
            self._describe(old, tags, entry.card)
            return old.number
        if self.tracker.restore(entry.fingerprint):
            print(f"{entry.name}: its run in MLflow had been deleted, and is restored: its encoder is registered there")
        run_id = self.tracker.run_id(entry.fingerprint)
        if run_id is None:
            raise IntegrityError(f"{entry.name} has no run in MLflow; run python -m tasks.sync first")
        place = self.client.get_run(run_id).info.artifact_uri
        again = old is not None and old.source.startswith(f"{place}/")  # its files are put back where they were
        folder = old.source.removeprefix(f"{place}/") if again else self._folder(key)
        tags[SEAL] = self._upload(entry, key, run_id, folder)
        if again:
            self._describe(old, tags, entry.card)
            return old.number
        source = f"{place}/{folder}"
        made = self.client.create_model_version(self.model, source, run_id, tags=tags, description=entry.card)
        first = registered.versions(self.client, self.model)[key]
        if old is None and first.number != int(made.version):  # another process, of another checkout, was faster
            self.client.delete_model_version(self.model, made.version)
            return first.number
        return int(made.version)

    def _describe(self, version: registered.Version, tags: Mapping[str, str], card: str) -> None:
        """What is known of a version by now: a task that was added gives it scores."""
        if version.tags.get(CARD) != tags[CARD]:
            self.client.update_model_version(self.model, str(version.number), card)
        for name, value in tags.items():
            if version.tags.get(name) != value:
                self.client.set_model_version_tag(self.model, str(version.number), name, value)
        for name in version.tags.keys() - tags.keys():
            if name in PASSING or name.endswith(OF_A_TASK):  # of a task that was taken out; others' tags stay
                self.client.delete_model_version_tag(self.model, str(version.number), name)

    def _folder(self, key: str) -> str:
        """Where a new package lies among its run's artifacts: where no other checkout and none for another registry, writes."""
        writer = f"{platform.node()} {self.tracker.root.resolve()} {registered.address()}"
        return f"encoder-{key[:12]}-{hashlib.sha256(writer.encode()).hexdigest()[:6]}"

    def _upload(self, entry: Entry, key: str, run_id: str, folder: str) -> str:
        """Pack an encoder, send it, and fetch it again to compare; returns the hash of its manifest."""
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory(prefix=".package-", dir=_state(self.tracker.root)) as place:
            package, copy = Path(place) / "package", Path(place) / "copy"
            package.mkdir()
            config = self._exporter.write(entry.source, entry.layer, entry.card, package)
            _write_mlmodel(package, config, run_id)
            files.seal(package, package=key)
            self.client.log_artifacts(run_id, str(package), folder)
            copy.mkdir()
            source = f"{self.client.get_run(run_id).info.artifact_uri}/{folder}"
            with patience.call(sum(part.stat().st_size for part in package.iterdir())):
                files.verify(Path(download_artifacts(artifact_uri=source, dst_path=str(copy))))
            return files.sha256(package / files.MANIFEST)


def package_key(entry: Entry) -> str:
    """Digest of what a package holds: two entries with the same key are the same version."""
    weights = files.verify(entry.source)["files"]
    parts = [VERSION, entry.name, entry.layer, sorted((k, v["sha256"]) for k, v in weights.items())]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Loaded:
    """A registered encoder, ready to use."""

    module: ImageEncoder
    """Images (B, C, H, W) to features (B, D)."""
    config: dict[str, Any]
    """``config.json``."""
    uri: str
    """With the version number, so that results can name what made them."""
    caution: str = ""
    """What its card in the registry says against using it."""


def load(uri: str | None = None, store: str | None = None) -> Loaded:
    """Fetch and verify ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``; None: the champion of this project.

    Numbers and text alone are read: nothing that lies in the store is unpickled, imported or executed, and nothing is written
    where this is called. ``store``: see ``tasks.tracking.packages.fetch``.

    Raises:
        UsageError: there is no such model.
        IntegrityError: the stored files are not those that were registered, or were registered in an older layout.
        TrackerDown: the store cannot be used now.
    """
    with tempfile.TemporaryDirectory(prefix="ssl-model-") as place:
        package, version = packages.fetch(uri, Path(place), store)
        if not (package / modeling.CONFIG).exists():
            raise IntegrityError(
                f"{version.name} version {version.version} has the layout of an older release; make run registers it again"
            )
        module, config = modeling.load(package)
    card = (version.description or "").splitlines()
    caution = next((line for line in card if line.startswith(CAUTION)), "")
    return Loaded(module, config, f"models:/{version.name}/{version.version}", caution)


def _write_mlmodel(package: Path, config: Mapping[str, Any], run_id: str) -> None:
    """MLflow's description of the package, for ``mlflow.onnx``, ``mlflow.pyfunc`` and serving.

    MLflow imports the modules that the ``MLmodel`` of a store names: fit for a store whose writers one trusts. What reads
    less is ``load``, or ``download_artifacts`` and onnxruntime.
    """
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.models.utils import _save_example
    from mlflow.types import Schema, TensorSpec

    made = config["encoder"]
    kind, white = modeling.integers(config)
    images = TensorSpec(np.dtype(kind), (-1, made["channels"], -1, -1), "images")
    features = TensorSpec(np.dtype("float32"), (-1, config["dim"]), "features")
    model = Model(run_id=run_id, signature=ModelSignature(inputs=Schema([images]), outputs=Schema([features])))
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    model.add_flavor("onnx", onnx_version=metadata.version("onnx"), data=ONNX, providers=providers, code=None)
    pyfunc.add_to_model(model, loader_module="mlflow.onnx", data=ONNX, python_env="python_env.yaml")
    shape = (1, made["channels"], made["image_size"], made["image_size"])
    ramp = np.linspace(0, white, made["image_size"], dtype=kind)
    _save_example(model, {"images": np.broadcast_to(ramp, shape).copy()}, str(package))
    model.save(str(package / "MLmodel"))
    needs = [f"{name}=={metadata.version(name)}" for name in ("mlflow", "numpy", "onnx", "onnxruntime")]
    files.write_text(package / "requirements.txt", "\n".join(needs) + "\n")
    python = ".".join(map(str, sys.version_info[:3]))
    files.write_text(package / "python_env.yaml", f"python: {python}\ndependencies:\n- -r requirements.txt\n")


def _state(root: Path) -> Path:
    directory = root / ".ssl"
    directory.mkdir(exist_ok=True)
    return directory


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    with (_state(root) / "registry.lock").open("a+") as lock:
        if not try_lock(lock):
            raise EnvironmentFault("another process is registering encoders; wait for it and run the same command again")
        for left in _state(root).glob(".package-*"):  # of a killed registration
            shutil.rmtree(left, ignore_errors=True)
        yield
