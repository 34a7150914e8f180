"""``source: torchvision``: one of torchvision's data sets, a copy on this machine or its download."""

import gzip
import hashlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_core.config import ConfigError, unknown_name
from tasks.prepare import decoding
from tasks.prepare.source import ArraySource, Source
from tasks.runtime.dataset import Array
from tasks.runtime.errors import EnvironmentFault, IntegrityError
from tasks.runtime.params import DataConfig

LICENSES = {
    "FashionMNIST": "MIT, Copyright (c) 2017 Zalando SE",
    "CIFAR10": "none stated by its authors (Krizhevsky, 2009); check before you publish",
    "CIFAR100": "none stated by its authors (Krizhevsky, 2009); check before you publish",
    "STL10": "none stated by its authors (Coates, Ng and Lee, 2011; pictures from ImageNet); check before you publish",
}
SYSTEM = Path("/usr/share/datasets")
UNREADABLE = (RuntimeError, ValueError, EOFError, AssertionError)
"""What torchvision raises for a copy that is absent, incomplete or damaged."""
DOWNLOAD_SECONDS = 30.0
"""A download that stays silent for longer has failed."""
Splits = tuple[list[tuple[str, Array, Array]], list[str]]
"""[(split, images, labels)] and the class names."""


def open_source(config: DataConfig) -> Source:
    """The data set ``data.name``: a copy on this machine if there is one, else its download.

    Raises:
        ConfigError: a name that is not supported.
        EnvironmentFault: no copy, and the download fails.
    """
    name = config.name
    if name not in LICENSES:
        raise ConfigError(unknown_name(f"data.name: {name!r}", str(name), LICENSES))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssl-pipeline" / "torchvision"
    roots = [Path(config.path), cache, Path("data"), Path.home() / "data", Path.home() / "datasets", SYSTEM]
    splits, classes = _installed(name, roots) or _load(name, roots) or _download(name, cache)
    return ArraySource(name, f"torchvision.datasets.{name}", LICENSES[name], classes, splits)


def _load(name: str, roots: Sequence[Path]) -> Splits | None:
    """The first copy torchvision finds complete; it checks the hashes of CIFAR and STL before reading them."""
    for root in roots:
        if root.is_dir():
            try:
                return _splits(name, root)
            except UNREADABLE:
                continue
    return None


def _splits(name: str, root: Path, download: bool = False) -> Splits:
    from torchvision import datasets

    cls = getattr(datasets, name)
    if name == "STL10":
        parts = [(s.partition("+")[0], cls(str(root), split=s, download=download)) for s in ("train+unlabeled", "test")]
        return [(s, p.data.transpose(0, 2, 3, 1), p.labels) for s, p in parts], list(parts[0][1].classes)
    parts = [(s, cls(str(root), train=s == "train", download=download)) for s in ("train", "test")]
    return [(s, np.asarray(p.data), np.asarray(p.targets)) for s, p in parts], [str(c) for c in parts[0][1].classes]


def _download(name: str, cache: Path) -> Splits:
    cache.mkdir(parents=True, exist_ok=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_SECONDS)
    try:
        return _splits(name, cache, download=True)
    except (OSError, *UNREADABLE) as error:
        reason = decoding.one_line(error)
        raise EnvironmentFault(
            f"{name} is not on this machine and cannot be downloaded ({reason}); connect to the network, or set data.path"
            f" to a folder that holds torchvision's copy"
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def _installed(name: str, roots: Sequence[Path]) -> Splits | None:
    """Fashion-MNIST's original .gz files, as Debian's package dataset-fashion-mnist installs them."""
    if name != "FashionMNIST":
        return None
    from torchvision.datasets import FashionMNIST

    for root in (r / sub for r in roots for sub in (".", "fashion-mnist")):
        paths = [root / file for file, _ in FashionMNIST.resources]
        if not all(p.is_file() for p in paths):
            continue
        for file, (_, digest) in zip(paths, FashionMNIST.resources, strict=True):
            if hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() != digest:
                raise IntegrityError(f"{file} is damaged (its hash is not the published one); install it again or remove it")
        arrays = [read_idx(p) for p in paths]
        return [("train", arrays[0], arrays[1]), ("test", arrays[2], arrays[3])], list(FashionMNIST.classes)
    return None


def read_idx(path: Path) -> Array:
    """A gzip-compressed IDX file of bytes as an array."""
    data = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
