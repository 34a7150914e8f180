"""``data.tile``: long and large images as square tiles, which share a label, a split and a group."""

import argparse
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_core.config import ConfigError
from tasks import embed
from tasks.prepare import auditing, decoding
from tasks.prepare.preparation import prepare
from tasks.prepare.tiling import squares
from tasks.register.registry import Loaded
from tasks.runtime import audit, dataset, params
from tests.support import corpus
from tests.tasks.prepare.test_bad_inputs import refused
from tests.tasks.prepare.test_bands import npy
from tests.tasks.prepare.test_prepare import Prepared, config, run, write
from tests.tasks.test_embed_checks import FACTS, flat

SIDE, LENGTH = 16, 400
COUNT = LENGTH // SIDE
SCANS = 6
"""Of each class."""


def scan(seed: int, length: int = LENGTH) -> np.ndarray[Any, Any]:
    """A line scan: noise, no part like another."""
    return np.random.default_rng(seed).integers(0, 256, (SIDE, length, 3), dtype=np.uint8)


def scans(length: int = LENGTH) -> dict[str, bytes]:
    return {
        f"{name}/{i}.png": corpus.encoded(Image.fromarray(scan(SCANS * number + i, length)))
        for number, name in enumerate(("good", "torn"))
        for i in range(SCANS)
    }


def image_of(name: str) -> str:
    return name.partition("#")[0]


@pytest.mark.parametrize("width, height, largest", [(200, 5000, 200), (5000, 210, 200), (100, 30, 64), (65, 64, 64), (9, 9, 8)])
def test_tiles_are_squares_that_cover_the_picture(width: int, height: int, largest: int) -> None:
    covered = np.zeros((height, width), int)
    boxes = squares(width, height, largest)
    for left, top, side in boxes:
        assert side == min(largest, width, height) and 0 <= left <= width - side and 0 <= top <= height - side
        covered[top : top + side, left : left + side] += 1
    assert covered.min() == 1 and len(set(boxes)) == len(boxes) == -(-width // side) * -(-height // side)


def test_tiles_of_an_image_are_one_group_for_whoever_judges(prepared: Prepared) -> None:
    data = dataset.load(prepared.path)
    for numbers, names in ((data.train_groups, prepared.train_files), (data.test_groups, prepared.test_files)):
        assert numbers is not None and len(numbers) == len(names)
        assert len({*zip(numbers.tolist(), map(image_of, names), strict=True)}) == len(set(numbers.tolist()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Twelve line scans of two classes, cut."""
    place = tmp_path_factory.mktemp("tiles")
    return run(place, config(write(place / "in", scans()), tile=SIDE, holdout_fraction=0.2))


def test_a_line_scan_becomes_tiles_with_its_label_and_its_pixels(prepared: Prepared) -> None:
    names = [*prepared.train_files, *prepared.test_files]
    labels = [*prepared.train_labels.tolist(), *prepared.test_labels.tolist()]
    images = np.concatenate([prepared.train_images, prepared.test_images])
    assert Counter(map(image_of, names)) == dict.fromkeys(scans(), COUNT) and len(set(names)) == len(names)
    for name, label, pixels in zip(names, labels, images, strict=True):
        folder, number = image_of(name).split("/")
        at = SIDE * int(name.partition("#")[2])
        whole = scan(SCANS * ("good", "torn").index(folder) + int(number.removesuffix(".png")))
        assert ("good", "torn")[label] == folder and (pixels.transpose(1, 2, 0) == whole[:, at : at + SIDE]).all()


def test_tiles_of_one_image_are_in_one_split_and_one_part_of_the_training_labels(prepared: Prepared) -> None:
    train, test = ({image_of(name) for name in names} for names in (prepared.train_files, prepared.test_files))
    held = {image_of(name) for name, out in zip(prepared.train_files, prepared.train_holdout, strict=True) if out}
    fitted = {image_of(name) for name, out in zip(prepared.train_files, prepared.train_holdout, strict=True) if not out}
    assert train and test and held and not train & test and not held & fitted


def test_the_terminal_and_the_audit_say_how_many_tiles_of_how_many_images(prepared: Prepared) -> None:
    _, split, found = auditing.in_three_lines(prepared.meta, audit.load(prepared.path))
    held, test = int(prepared.train_holdout.sum()), len(prepared.test_files)
    assert split == f"split: {2 * SCANS * COUNT - test} training tiles ({held} of them held out for choices), {test} test tiles"
    assert found.startswith(
        f"audit: {2 * SCANS * COUNT} tiles of {2 * SCANS} images: each is cut into squares of at most 16 pixels"
    )
    assert prepared.audit["sizes"]["common"] == {"16x16": 2 * SCANS * COUNT} and prepared.meta["tile"] == SIDE
    assert prepared.audit["notes"] == {} and len(prepared.audit["warnings"]) == 1
    assert prepared.audit["leaks"]["by_file"] == 0 == prepared.audit["duplicates"]["train"]["extra_files"]


def test_without_being_asked_for_a_long_image_is_unusable_and_the_line_says_what_would_help(tmp_path: Path) -> None:
    refused(tmp_path, config(write(tmp_path / "in", scans())), "12 of 12 files .* 20 times the other; data.tile cuts it")


def test_a_damaged_image_counts_once_and_hashes_are_of_whole_files(tmp_path: Path) -> None:
    files = scans(4 * SIDE)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    folder = write(tmp_path / "in", files | {"SHA256SUMS": sums.encode()})
    data = run(tmp_path, config(folder, tile=SIDE))
    assert len(data.train_files) + len(data.test_files) == 4 * 2 * SCANS
    (folder / "good/0.png").write_bytes(files["good/0.png"][:-60])
    (folder / "torn/1.png").write_bytes(files["torn/2.png"])  # an image, but not the one that is listed
    refused(
        tmp_path,
        config(folder, tile=SIDE, max_bad=1),
        r"^2 of 12 files cannot be used and data\.max_bad allows 1: .*damaged.*differs from its hash in SHA256SUMS",
    )


def test_copies_of_an_image_are_found_tile_by_tile(tmp_path: Path) -> None:
    pictures = {f"train/{name}": data for name, data in scans(4 * SIDE).items()}
    pictures |= {
        f"test/{name}/9.png": corpus.encoded(Image.fromarray(scan(90 + i, 64))) for i, name in enumerate(("good", "torn"))
    }
    pictures["test/good/8.png"] = pictures["train/good/0.png"]
    leaks = run(tmp_path, config(write(tmp_path / "in", pictures), tile=SIDE)).audit["leaks"]
    assert (leaks["count"], leaks["by_file"], leaks["dropped"]) == (4, 4, 4)


def test_a_turned_photograph_is_cut_as_it_is_seen_and_bands_keep_their_bits() -> None:
    turned = corpus.with_exif(6)  # stored: left black, right white; seen: black above white
    above, facts = decoding.decode(turned, "x.jpg", 12, 1, part=(12, 0))
    below, _ = decoding.decode(turned, "x.jpg", 12, 1, part=(12, 2))
    assert facts.tiles == 4 and (facts.width, facts.height) == (12, 12)
    assert max(above) < 40 and min(below) > 215
    values = np.random.default_rng(0).integers(0, 65536, (8, 24, 4), dtype=np.uint16)
    for number in range(3):
        pixels, _ = decoding.decode(npy(values), "x.npy", 8, 4, bits=16, part=(100, number))
        assert (np.frombuffer(pixels, np.uint16).reshape(8, 8, 4) == values[:, 8 * number : 8 * number + 8]).all()


def test_embedding_cuts_as_the_training_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(
        tmp_path / "in",
        {"a.png": corpus.encoded(Image.fromarray(np.repeat(np.arange(4, dtype=np.uint8), 8) * np.ones((8, 1), np.uint8)))},
    )
    names, features = embed.embed(folder, Loaded(flat, FACTS | {"tile": 8}, "models:/x/1"))
    assert names == [f"a.png#{i:03}" for i in range(4)] and features.mean(1).tolist() == [0, 1, 2, 3]
    assert embed.open_images(folder, "a.png#002").items and embed.open_images(folder, "a.png").items
    asked = argparse.Namespace(all=False, threshold=0.99, neighbors=1, query="a.png", path=folder)
    for query, number in (("a.png", 4), ("a.png#002", 1)):  # a whole image is all of its tiles
        asked.query = query
        embed.show(names, features, asked)
        assert capsys.readouterr().out.count(f"most like {query}") == number


def test_wrong_values_are_one_line(tmp_path: Path, shipped: dict[str, Any]) -> None:
    for value in (4, 0, -200, "short", 20000):
        with pytest.raises(ConfigError, match=r"data\.tile is"):
            params.data_config({"data": shipped["data"] | {"tile": value}})
    with pytest.raises(ConfigError, match=r"data\.tile is 14, but data\.source: sample has no image files to cut; set"):
        prepare(config("data/sample", "sample", tile=14), tmp_path / "out")
    one = {
        name: data for name, data in scans().items() if name != "torn/1.png" and (name[:4] == "good" or name == "torn/0.png")
    }
    said = "1 class has one image, which cannot be in both splits: 'torn'; add images"
    refused(tmp_path, config(write(tmp_path / "one", one), tile=SIDE), said)
