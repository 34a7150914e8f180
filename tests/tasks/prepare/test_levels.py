"""What 8 bits leave of deep images is measured and told: narrow bands of values, mixed depths, pixels that mean nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.prepare import levels
from tests.support import corpus
from tests.tasks.prepare import test_dicom
from tests.tasks.prepare.test_bad_inputs import refused
from tests.tasks.prepare.test_bands import SIDE, npy, png16
from tests.tasks.prepare.test_prepare import config, run, write

WIDE = 64
Array = np.ndarray[Any, Any]


def scene(seed: int, top: int) -> Array:
    """(WIDE, WIDE) int64, smooth, from 0 to ``top``."""
    coarse = np.random.default_rng(seed).random((6, 6)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((WIDE, WIDE), Image.Resampling.BICUBIC)).astype(float)
    return np.rint((smooth - smooth.min()) / np.ptp(smooth) * top).astype(np.int64)


def png(values: Array) -> bytes:
    return corpus.encoded(Image.fromarray(values.astype(np.uint16)))


def said(tmp_path: Path, pictures: dict[str, bytes], **changes: Any) -> list[str]:
    """What is told of few levels."""
    chosen = config(write(tmp_path / "in", pictures), **{"image_size": WIDE, "channels": 1, **changes})
    return [text for text in run(tmp_path, chosen).audit["warnings"] if levels.BEGINNING in text]


def spread(values: Array) -> int:
    """The fewest levels that hold 9 of 10 values, counted one by one."""
    counts, total = sorted(np.unique(values, return_counts=True)[1].tolist(), reverse=True), 0
    for number, count in enumerate(counts, 1):
        total += count
        if total >= 0.9 * values.size:
            return number
    raise AssertionError


def test_a_narrow_band_of_sixteen_bits_is_told_with_what_is_left_of_it(tmp_path: Path) -> None:
    """A thermal camera: 7000 + 2 * grey, of 14 bits."""
    scenes = [7000 + 2 * scene(i, 255) for i in range(6)]
    left = [spread((s * 255 + 8191) // 16383) for s in scenes]
    had = [spread(s) for s in scenes]
    pictures = {f"{i}.png": png(s) for i, s in enumerate(scenes)}
    counts = f"{min(left)} to {max(left)}" if min(left) < max(left) else str(left[0])
    assert max(left) <= 9 and min(had) > 150
    assert said(tmp_path, pictures) == [
        f"6 images: few levels of grey are left, {counts} for most of an image where its file has {min(had)} to {max(had)}"
        " ('0.png' first); set data.bits: 16 to keep all"
    ]


@pytest.mark.parametrize("kind", ["offset.dcm", "floats.npy", "color.png", "one-band.npy", "declared.png"])
def test_a_narrow_band_is_told_in_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    scenes = [scene(i, 510) for i in range(3)]
    small = [s[:SIDE, :SIDE] - s[:SIDE, :SIDE].min() for s in scenes]
    make = {
        "offset.dcm": lambda i: test_dicom.file((small[i] + 32568).astype(np.uint16), 16),
        "floats.npy": lambda i: npy((0.5 + scenes[i] / 51000).astype(np.float32)),
        "color.png": lambda i: png16(np.stack([7000 + scenes[i]] * 3, 2).astype(np.uint16)),
        "one-band.npy": lambda i: npy(np.stack([scenes[i] * 100, 7000 + scenes[i]], 2).astype(np.uint16)),
        "declared.png": lambda i: png(scenes[i]),
    }[kind]
    more: dict[str, Any] = {
        "color.png": {"channels": 3},
        "one-band.npy": {"channels": 2},
        "declared.png": {"bit_depth": 16},
    }.get(kind, {})
    (text,) = said(tmp_path, {f"{i}-{kind}": make(i) for i in range(3)}, **more)
    assert text.startswith("3 images: ")
    assert ("or data.bit_depth: 10 if what lies above 1023" in text) == (kind == "declared.png")


@pytest.mark.parametrize("shallow", [2, 8, 12])
def test_shallow_images_among_deep_ones_are_told_whatever_their_share(tmp_path: Path, shallow: int) -> None:
    """8 bits in 16-bit files, beside 12 bits."""
    pictures = {f"{i:02}.png": png(scene(i, 255 if i < shallow else 4095)) for i in range(24)}
    (text,) = said(tmp_path, pictures)
    assert text.startswith(f"{shallow} images: ") and "('00.png' first)" in text
    assert text.endswith("set data.bits: 16 to keep all, or data.bit_depth: 8 if what lies above 255 may be cut")


def test_pixels_that_mean_nothing_may_be_more_than_a_few(tmp_path: Path) -> None:
    """A depth map of 12 bits whose pixels without an echo are 65535: 1 in 25."""
    maps = [scene(i, 4095) for i in range(4)]
    for number, values in enumerate(maps):
        values.ravel()[np.random.default_rng(number).permutation(values.size)[: values.size // 25]] = 65535
    (text,) = said(tmp_path, {f"{i}.png": png(values) for i, values in enumerate(maps)})
    assert text.startswith("4 images: ") and "or data.bit_depth: 12 if what lies above 4095 may be cut" in text


@pytest.mark.parametrize("top", [4095, 16383, 65535])
def test_what_8_bits_show_well_and_what_was_flat_before_is_not_told(tmp_path: Path, top: int) -> None:
    flat = [np.where(scene(i, 10) > 5, 3 * top // 4, 100) + scene(i, 3) for i in range(2)]
    constant = np.full((WIDE, WIDE), 77)
    scenes = [scene(i, top) for i in range(6)]
    assert said(tmp_path, {f"{i}.png": png(s) for i, s in enumerate([*scenes, *flat, constant])}) == []


def test_sixteen_bits_lose_nothing_and_say_nothing(tmp_path: Path) -> None:
    assert said(tmp_path, {f"{i}.png": png(7000 + 2 * scene(i, 255)) for i in range(3)}, bits=16) == []


def test_an_error_of_images_that_are_cut_to_white_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = {f"{i}.png": corpus.encoded(Image.fromarray(np.full((9, 9), 7000 + i, np.uint16))) for i in range(4)}
    message = refused(tmp_path, config(write(tmp_path / "in", pictures), bit_depth=12), "single color")
    assert message.endswith("; 4 images: values above 4095 are cut; data.bit_depth is 12")


def test_an_error_of_images_without_levels_says_why_they_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scenes = [(32800 + np.arange(corpus.SIDE**2).reshape(corpus.SIDE, -1) % (50 + i)).astype(np.uint16) for i in range(4)]
    folder = write(tmp_path / "in", {f"{i}.png": corpus.encoded(Image.fromarray(s)) for i, s in enumerate(scenes)})
    assert "; 4 images: few levels of grey are left, 1 for most" in refused(tmp_path, config(folder), "single color")
