"""The prepared data set, opened for reading."""

import hashlib
import mmap
import tokenize
import zipfile
from collections.abc import Callable, Iterator
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
TASKS = Path("data/tasks")
IN_POOL = "in_pool.json"
"""In the directory of a task: which of its test images are among those that encoders are trained on."""
Array = np.ndarray[Any, Any]
META = {"name": str, "classes": list, "image_size": int, "channels": int, "mean": list, "std": list}
"""What ``meta.json`` must hold, among other facts."""
NO_HEADER = (EOFError, ValueError, SyntaxError, TypeError, OverflowError, RecursionError, tokenize.TokenError)
"""What numpy raises of a file that is no array: it reads the header as Python."""
BLOCK = 2048
"""Images that are looked at together."""


GROUPS = ("train_groups", "test_groups")
"""Files that are there where images belong together."""


@dataclass(frozen=True)
class Dataset:
    """Memory-mapped images (N, C, S, S), uint8 or uint16, and what goes with them; label -1 means unlabelled.

    S is ``data.store_size``, or ``data.image_size`` without one.
    """

    train_images: Array
    train_labels: Array
    train_holdout: Array
    """(N,) bool: training labels kept for choices."""
    test_images: Array
    test_labels: Array
    meta: dict[str, Any]
    sha256: str
    """Hash of the manifest: names the whole data set."""
    train_groups: Array | None = None
    """(N,) int64, equal for images that belong together: tiles of one picture, one patient's. None: none do."""
    test_groups: Array | None = None

    @property
    def has_labels(self) -> bool:
        """Whether any training image is labelled."""
        return bool((self.train_labels >= 0).any())

    def learned_from(self, from_labels: bool) -> Array | None:
        """(M,) positions of the training images that a method learns from, which may need their labels; None: all."""
        known = self.train_labels >= 0
        return np.flatnonzero(known) if from_labels and known.any() and not known.all() else None

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


def can_tune(train: Any, holdout: Any, test: Any) -> bool:
    """Whether these labels, arrays or tensors, are enough to fine-tune with: of training images, some of them held out, and of
    test images."""
    known = train >= 0
    return bool((test >= 0).any() and (known & holdout).any() and (known & ~holdout).any())


def prepared(task: str | None = None) -> Path:
    """Where ``prepare`` puts the pool or a task."""
    return TASKS / task if task else PREPARED


def load(path: Path = PREPARED) -> Dataset:
    """Open what ``prepare`` wrote; the stage runtime has verified it against its manifest.

    Raises:
        IntegrityError: a file is missing, not an array, of the wrong type or size, or a label is no class.
    """
    arrays: dict[str, Array] = {}
    groups = [name for name in GROUPS if (path / f"{name}.npy").exists()]
    for name in ("train_images", "train_labels", "train_holdout", "test_images", "test_labels", *groups):
        try:
            arrays[name] = np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, *NO_HEADER, zipfile.BadZipFile) as error:  # any other OSError is no damage
            raise IntegrityError(f"{path / name}.npy: {error}; run dvc repro -f prepare") from None
        if not isinstance(arrays[name], np.ndarray):  # numpy opens a zip of arrays whatever it is called
            raise IntegrityError(f"{path / name}.npy is an archive, not an array; run dvc repro -f prepare")
    meta = files.read_json(path / "meta.json")
    fault = _fault(arrays, meta)
    if fault:
        raise IntegrityError(f"{path}: {fault}; run dvc repro -f prepare")
    return Dataset(**arrays, meta=meta, sha256=files.sha256(path / files.MANIFEST))


def _fault(arrays: dict[str, Array], meta: Any) -> str | None:
    """What is wrong with the types, shapes and values of a prepared data set; pixels may have any value."""
    if not isinstance(meta, dict) or not all(isinstance(meta.get(key), kind) for key, kind in META.items()):
        return f"meta.json does not hold {', '.join(META)}"
    side = meta.get("store_size", meta["image_size"])
    shape, kind = (meta["channels"], side, side), f"uint{meta.get('bits', 8)}"
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != kind or images.shape[1:] != shape:
            return (
                f"{split}_images.npy holds {images.dtype} {images.shape}; it must hold {kind} (N, {', '.join(map(str, shape))})"
            )
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            return f"{split}_labels.npy holds {labels.dtype} {labels.shape}; it must hold int64 ({len(images)},)"
        if len(labels) and not -1 <= labels.min() <= labels.max() < len(meta["classes"]):
            return f"{split}_labels.npy holds labels that are no class"
        numbers = arrays.get(f"{split}_groups")
        if numbers is not None and (numbers.dtype != np.int64 or numbers.shape != labels.shape):
            return f"{split}_groups.npy holds {numbers.dtype} {numbers.shape}; it must hold int64 {labels.shape}"
    holdout = arrays["train_holdout"]
    if holdout.dtype != bool or holdout.shape != arrays["train_labels"].shape:
        return f"train_holdout.npy holds {holdout.dtype} {holdout.shape}; it must hold a bool for each training image"
    return None


def at_random(images: Array) -> Callable[[Array], None]:
    """Read a memory map (N, ...) from now on row by row, not what lies around a row, and begin before a row is used.

    A map larger than the memory comes from the disk at every step: the system reads far ahead of each row, for nothing.

    Returns:
        Begins to read the rows of the given positions (B,) and does not wait for them; nothing for an array in memory.
    """
    memory = images.base
    if not isinstance(memory, mmap.mmap):
        return lambda rows: None
    memory.madvise(mmap.MADV_RANDOM)
    first = images.ctypes.data - np.frombuffer(memory, np.uint8, 1).ctypes.data
    size = images[0].nbytes

    def announce(rows: Array) -> None:
        for row in rows.tolist():
            start = first + row * size
            page = start - start % mmap.PAGESIZE
            memory.madvise(mmap.MADV_WILLNEED, page, start + size - page)

    return announce


def blocks(images: Array) -> Iterator[tuple[int, Array]]:
    """(start, images) pieces of a long array."""
    for start in range(0, len(images), BLOCK):
        yield start, images[start : start + BLOCK]


def hashes(images: Array) -> Array:
    """(N,) uint64: equal for equal pixels."""
    found = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for _, block in blocks(images) for image in block]
    return np.frombuffer(b"".join(found), np.uint64)
