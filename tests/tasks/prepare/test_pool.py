"""A task beside the pool: images that are in both are named, and what cannot be scored is refused."""

from pathlib import Path

import numpy as np
import pytest

from tasks.prepare import pool
from tasks.prepare.layout import one_per_line
from tasks.runtime import dataset, files
from tasks.runtime.errors import DataError
from tests.conftest import textured_images
from tests.support.project import write_prepared


def task_of(directory: Path, images: np.ndarray, classes: tuple[str, ...] = ("a", "b")) -> Path:
    """What ``prepare`` has written when the task is set beside the pool."""
    directory.mkdir()
    files.write_json(directory / "meta.json", {"classes": list(classes)})
    np.save(directory / "test_images.npy", images)
    files.write_text(directory / "test_files.txt", one_per_line([f"{row}.png" for row in range(len(images))]))
    return directory


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dataset.Dataset:
    write_prepared(tmp_path)
    monkeypatch.chdir(tmp_path)
    return dataset.load()


def test_images_that_encoders_are_trained_on_are_named(prepared: dataset.Dataset, tmp_path: Path) -> None:
    new = textured_images(6, 1, 16, 7)
    images = np.concatenate([new[:3], np.array(prepared.train_images[:2]), new[3:], np.array(prepared.test_images[:3])])
    directory = task_of(tmp_path / "task", images)
    pool.compare(directory, "tiles", lambda: None)
    found = files.read_json(directory / dataset.IN_POOL)
    assert (found["test_images"], found["equal"], found["tested"], found["examples"]) == (11, 2, 3, ["3.png", "4.png"])
    tested, trained = pool.in_words(directory, "tiles")
    assert "of 11 test images of task tiles, 3 are test images of data too" in tested and "2 are among" in trained


def test_other_squares_of_the_same_files_are_not_found_and_that_is_said(prepared: dataset.Dataset, tmp_path: Path) -> None:
    directory = task_of(tmp_path / "task", textured_images(6, 1, 16, 7))
    files.write_json(directory / "meta.json", {"classes": ["a", "b"], "fit": "stretch", "tile": 64})
    pool.compare(directory, "tiles", lambda: None)
    (said,) = pool.in_words(directory, "tiles")
    assert said.startswith("pool: tiles and data are made square by another fit and tile, so test images that encoders")


def test_nothing_is_said_where_nothing_is_in_both(prepared: dataset.Dataset, tmp_path: Path) -> None:
    directory = task_of(tmp_path / "task", textured_images(6, 1, 16, 7))
    pool.compare(directory, "tiles", lambda: None)
    assert files.read_json(directory / dataset.IN_POOL)["equal"] == 0


@pytest.mark.parametrize(
    ("classes", "images", "says"),
    [
        ((), "new", "have no classes"),
        (("cat",), "new", "have one class, 'cat'"),
        (("a", "b"), "none", "no test images"),
        (("a", "b"), "test", "is the pool's own test: it has 9 test images, all of them in that of data"),
        (("a", "b"), "more", "is the pool's own test: it has all the test images of data"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    prepared: dataset.Dataset, tmp_path: Path, classes: tuple[str, ...], images: str, says: str
) -> None:
    known = {"new": textured_images(6, 1, 16, 7), "none": np.zeros((0, 1, 16, 16), np.uint8), "test": prepared.test_images[:9]}
    known["more"] = np.concatenate([np.array(prepared.test_images), known["new"]])
    with pytest.raises(DataError, match=says) as error:
        pool.compare(task_of(tmp_path / "task", known[images], classes), "tiles", lambda: None)
    assert error.value.code == 3 and not (tmp_path / "task" / dataset.IN_POOL).exists()
