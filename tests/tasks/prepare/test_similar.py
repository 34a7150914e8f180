"""The search for similar images, against every correlation computed one by one; and it ends soon when it is asked to."""

import numpy as np
import pytest

from tasks.prepare import auditing
from tests.conftest import textured_images


@pytest.mark.parametrize("side", [11, 16, 32])
def test_the_search_finds_what_all_correlations_show(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when images and their mirrored and noisy copies lie in different blocks, and a thumbnail has a middle column."""
    monkeypatch.setattr(auditing, "COLUMNS", 7)
    train = textured_images(50, 3, side)
    test = train[::2].copy()
    test[::3] = test[::3, :, :, ::-1]
    test[1::4] = np.clip(test[1::4] + np.random.default_rng(0).normal(0, 9, test[1::4].shape), 0, 255).astype(np.uint8)
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
