"""The search for similar images, against every correlation computed one by one; and it ends soon when it is asked to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.prepare import auditing
from tasks.prepare.intake import Split, create
from tasks.runtime.dataset import hashes
from tests.conftest import textured_images

Array = np.ndarray[Any, Any]


def noisy(images: Array, spread: float) -> Array:
    """The same pictures, a little different."""
    noise = np.random.default_rng(0).normal(0, spread, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [11, 16, 32])
def test_the_search_finds_what_all_correlations_show(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when images and their mirrored and noisy copies lie in different blocks, and a thumbnail has a middle column."""
    monkeypatch.setattr(auditing, "COLUMNS", 7)
    train = textured_images(50, 3, side)
    test = train[::2].copy()
    test[::3] = test[::3, :, :, ::-1]
    test[1::4] = noisy(test[1::4], 9)
    found = auditing.near_duplicates(train, test, np.arange(25) == 24)
    assert found.checked == 24 and found.count == len(found.pairs) > 15 and 0 < found.mirrored < found.count
    mirrored = auditing.outlines(train[:, :, :, ::-1])
    straight, turned = (auditing.outlines(test) @ lines.T for lines in (auditing.outlines(train), mirrored))
    for pair in found.pairs:
        row = (turned if pair.mirrored else straight)[pair.test]
        assert row.argmax() == pair.train and abs(row.max() - pair.correlation) < 0.006
        assert row.max() >= max(straight[pair.test].max(), turned[pair.test].max()) - 1e-6


def test_a_search_that_is_stopped_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.runtime.dataset.BLOCK", 4)
    train, done, halves = textured_images(400, 1, 16), [], auditing.halves
    monkeypatch.setattr(auditing, "halves", lambda images: (done.append(len(images)), halves(images))[1])

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        auditing.near_duplicates(train, train[:40], np.zeros(40, bool), stop)
    assert len(done) < 90


def test_of_too_many_pairs_test_images_from_first_to_last_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = textured_images(50, 1, 32), textured_images(40, 1, 32, seed=1)
    test[-1] = noisy(train[3], 4)
    monkeypatch.setattr(auditing, "MAX_PAIRS", 20 * len(train))
    found = auditing.near_duplicates(train, test, np.zeros(40, bool))
    assert found.checked == 20 and [(pair.test, pair.train) for pair in found.pairs] == [(39, 3)]


def test_the_most_similar_image_is_found_before_a_later_block_of_less_similar_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.runtime.dataset.BLOCK", 8)
    train = textured_images(40, 3, 32)
    test = np.concatenate([train[:8], textured_images(20, 3, 32, seed=1)])
    train[32:] = noisy(train[:8], 9)
    found = auditing.near_duplicates(train, test, np.zeros(28, bool))
    assert [(pair.test, pair.train) for pair in found.pairs] == [(row, row) for row in range(8)]


def test_once_leaks_are_dropped_pictures_are_told_apart_among_those_that_are_left(tmp_path: Path) -> None:
    def split(name: str, images: Array) -> Split:
        made, count = create(tmp_path / f"{name}.npy", images.shape, images.dtype), len(images)
        made[:] = images
        rows, names = np.arange(count), [f"{name} {row}" for row in range(count)]
        return Split(tmp_path / f"{name}.npy", rows, np.zeros(count, np.int64), names, made, np.ones((count, 2)), rows + 1)

    train, test = textured_images(6, 1, 32), textured_images(4, 1, 32, seed=1)
    train[0] = test[0]
    left = split("train", train)
    found, pixels = auditing.compare(left, split("test", test), ["a"], True, lambda: None)
    assert found.leaks.dropped == 1 and len(left.images) == 5 and (pixels == hashes(left.images)).all()
