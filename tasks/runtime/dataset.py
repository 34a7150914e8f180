"""The prepared data set, opened for reading."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.runtime import files
from tasks.runtime.errors import IntegrityError

if TYPE_CHECKING:  # these import torch, which not every stage needs
    from torch import Tensor

    from ssl_core.engine.method import DataInfo

PREPARED = Path("data/prepared")
Array = np.ndarray[Any, Any]
BLOCK = 2048
"""Images that are looked at together."""


@dataclass(frozen=True)
class Dataset:
    """Memory-mapped images (N, C, S, S) uint8 and what goes with them; label -1 means unlabelled."""

    train_images: Array
    train_labels: Array
    train_holdout: Array
    """(N,) bool: training labels kept for choices."""
    test_images: Array
    test_labels: Array
    meta: dict[str, Any]
    sha256: str
    """Hash of the manifest: names the whole data set."""

    @property
    def has_labels(self) -> bool:
        """Whether any training image is labelled."""
        return bool((self.train_labels >= 0).any())

    def info(self, labels: "Tensor | None" = None) -> "DataInfo":
        """What a method is told of the training images; only a supervised one gets ``labels``, of the images it trains on."""
        from ssl_core.engine.method import DataInfo

        return DataInfo(
            num_images=len(self.train_images) if labels is None else len(labels),
            image_size=self.meta["image_size"],
            channels=self.meta["channels"],
            mean=tuple(self.meta["mean"]),
            std=tuple(self.meta["std"]),
            labels=labels,
            num_classes=len(self.meta["classes"]),
        )


def load(path: Path = PREPARED) -> Dataset:
    """Open what ``prepare`` wrote; the stage runtime has verified it against its manifest.

    Raises:
        IntegrityError: a file is missing, not an array, or of the wrong size.
    """
    arrays = {}
    for name in ("train_images", "train_labels", "train_holdout", "test_images", "test_labels"):
        try:
            arrays[name] = np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{path / name}.npy: {error}; run dvc repro -f prepare") from None
    return Dataset(**arrays, meta=files.read_json(path / "meta.json"), sha256=files.sha256(path / files.MANIFEST))


def blocks(images: Array) -> Iterator[tuple[int, Array]]:
    """(start, images) pieces of a long array."""
    for start in range(0, len(images), BLOCK):
        yield start, images[start : start + BLOCK]


def hashes(images: Array) -> Array:
    """(N,) uint64: equal for equal pixels."""
    found = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for _, block in blocks(images) for image in block]
    return np.frombuffer(b"".join(found), np.uint64)
