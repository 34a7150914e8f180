"""The prepared images: rows of a memory map at random, and those with a label."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_core.engine.data import Images
from tasks.pretrain import training
from tasks.runtime import dataset
from tasks.runtime.dataset import at_random
from tasks.runtime.stage import Stage
from tasks.runtime.stage_name import StageName
from tests.support.encoders import project_with_encoder
from tests.support.project import rewrite

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


def test_a_baseline_of_labels_trains_on_labelled_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = project_with_encoder(tmp_path, monkeypatch, {})
    (project / "weights").mkdir()
    labels = np.where(np.arange(96) % 3 == 0, np.arange(96) % 4, -1)
    rewrite(project, train_labels=labels, train_groups=np.arange(96) // 2)
    data = dataset.load()
    own = data.labelled()
    np.testing.assert_array_equal(own.train_images, data.train_images[::3])
    assert own.train_labels.tolist() == labels[::3].tolist() and own.train_groups is not None and len(own.train_groups) == 32
    assert own.sha256 == data.sha256 and own.test_images is data.test_images and own.labelled() is own
    trainings = {
        name: training.Training(Stage(StageName("pretrain", name, 0)), name, 0, torch.device("cpu"))
        for name in ("supervised", "simclr")
    }
    assert {name: len(made.trainer.images) for name, made in trainings.items()} == {"supervised": 32, "simclr": 96}
