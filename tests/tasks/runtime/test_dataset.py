"""Reading rows of a memory map at random."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_core.engine.data import Images
from tasks.runtime.dataset import at_random

BATCHES = torch.arange(40).flip(0).split(16)


def test_the_rows_announced_are_those_of_the_batch_after(tmp_path: Path) -> None:
    """Through a real map whose rows start and end inside a page."""
    written = np.random.default_rng(0).integers(0, 256, (40, 3, 41, 41), np.uint8)
    np.save(tmp_path / "images.npy", written)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    begin, told = at_random(mapped), []

    def announce(rows: np.ndarray) -> None:
        begin(rows)
        told.append(rows.tolist())

    seen = []
    for ids, images in Images(mapped, torch.device("cpu"), announce).batches(BATCHES):
        assert len(told) == min(len(seen) + 1, len(BATCHES) - 1)
        assert np.array_equal(images.numpy(), written[ids.numpy()])
        seen.append(ids.tolist())
    assert told == seen[1:] and [i for ids in seen for i in ids] == list(range(39, -1, -1))


def test_an_array_in_memory_needs_nothing() -> None:
    at_random(np.zeros((4, 1, 8, 8), np.uint8))(np.arange(4))


def test_a_row_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 1, 64, 64), np.uint8))
    with pytest.raises(ValueError):
        at_random(np.load(tmp_path / "images.npy", mmap_mode="r"))(np.array([1000]))
