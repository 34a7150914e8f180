"""What an encoder's probes say of the images that decide whether it is worth its training.

``evaluate`` stores it as ``out/predictions/METHOD-SEED.safetensors``, beside the predictions for the test images by all labels
(``.csv``); the verdict compares encoders by it, image by image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from tasks.runtime.errors import IntegrityError
from tasks.runtime.files import MEND, load_tensors

ACTUAL, GROUP = "actual", "group"
"""The classes that the images have, and which of them belong together; every other array holds predicted classes, negative
where the probe saw the label."""


@dataclass(frozen=True)
class Judged:
    """Which images are predicted right: 1, wrong: 0, and NaN where the probe has seen the label."""

    held_out: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(H,) float by ``linear`` and ``knn``, and (S, H) by each share of the labels (``0.01``), for S choices of them."""
    few: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(S, M) of the labelled test images, by each share of the labels."""
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    """``held_out`` (H,) and ``test`` (M,), equal for images that belong together; empty where none do."""

    @classmethod
    def read(cls, path: Path, seed: int | None = None) -> Self:
        """The content of a file, empty if there is none; with a seed, of one of ``tasks.metrics.OTHERS``.

        Raises:
            IntegrityError: it is damaged.
        """
        arrays = load_tensors(path) if path.exists() else {}
        own = _of(arrays, "" if seed is None else f"{seed}/")
        found: dict[str, dict[str, np.ndarray]] = {"held_out": {}, "test": {}}
        for name, guess in own.items():
            split, _, probe = name.partition("/")
            truth = arrays.get(f"{split}/{ACTUAL}")
            if split not in found or truth is None or truth.ndim != 1 or guess.shape[-1:] != truth.shape:
                raise IntegrityError(f"{path}: {name} is of other images than {split}/{ACTUAL}; {MEND}")
            if probe not in (ACTUAL, GROUP):
                found[split][probe] = np.where(guess < 0, np.nan, guess == truth)
        return cls(found["held_out"], found["test"], {s: arrays[f"{s}/{GROUP}"] for s in found if f"{s}/{GROUP}" in arrays})


def by_encoder(found: Sequence[np.ndarray]) -> np.ndarray:
    """(S, n) of the choices of labels (C, n) of each of S encoders: the choices of the only one, else what each is right in on
    average. The choices share their encoder, and would count as more than there are; NaN where no choice is asked."""
    if len(found) == 1:
        return found[0]
    asked = np.stack([(~np.isnan(choices)).sum(0) for choices in found])
    right = np.stack([np.nansum(choices, axis=0) for choices in found])
    return np.where(asked > 0, right / np.maximum(asked, 1), np.nan)


def _of(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Those of one seed: names of others begin with theirs."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix) and (prefix or not name.split("/")[0].isdigit())
    }
