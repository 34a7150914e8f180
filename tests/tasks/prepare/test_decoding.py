"""Decoding: every usable kind of image file becomes the same pixels, by stated rules."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.prepare import decoding
from tests.support import corpus


def pixels_of(data: bytes, name: str = "x", size: int = corpus.SIDE, channels: int = 3) -> np.ndarray[Any, Any]:
    """(H, W, C) decoded."""
    return np.frombuffer(decoding.decode(data, name, size, channels)[0], np.uint8).reshape(size, size, channels)


@pytest.mark.parametrize("name", sorted(corpus.usable()))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.fault(
    "I6",
    "I14",
    "I15",
    "I16",
    "I17",
    "I18",
    "I19",
    "I20",
    "I21",
    "I22",
    "I23",
    "I24",
    "I25",
    "I28",
    "I29",
    "I30",
    "I31",
    "I32",
    "I33",
    "I34",
    "I35",
    "I38",
)
def test_unusual_files_are_decoded_and_noted(name: str, channels: int) -> None:
    data, note = corpus.usable()[name]
    pixels, facts = decoding.decode(data, name, 16, channels)
    assert len(pixels) == 16 * 16 * channels
    assert any(note in n for n in facts.notes) if note else not [n for n in facts.notes if "decoder warning" not in n]


def test_colors_survive_every_way_of_storing_them() -> None:
    reference = np.asarray(corpus.picture()).astype(int)
    for name in ("really-png.jpg", "plain.bmp", "cmyk.jpg", "progressive.jpg", "plain.webp", "pages.tif", "polyglot.jpg"):
        assert np.abs(pixels_of(corpus.usable()[name][0]) - reference).mean() < 15, (
            name
        )  # JPEG and WebP halve the color resolution
    for name in ("grey.png", "grey.jpg", "grey-alpha.png"):
        grey = np.asarray(corpus.picture().convert("L")).astype(int)
        assert np.abs(pixels_of(corpus.usable()[name][0])[..., 0] - grey).mean() < 3, name


@pytest.mark.fault("I18", "I19", "I20")
def test_transparent_pixels_are_laid_on_white() -> None:
    assert (pixels_of(corpus.transparent(0)) == 255).all()  # the hidden color does not show
    assert np.abs(pixels_of(corpus.transparent(128, (0, 0, 0))).astype(int) - 127).max() <= 1
    half = pixels_of(corpus.palette(True))
    assert (half[:, : corpus.SIDE // 2] == 255).all() and (half[:, corpus.SIDE // 2 :] == 0).all()


@pytest.mark.fault("I21")
def test_sixteen_bits_are_scaled_not_clipped() -> None:
    for name in ("sixteen.png", "sixteen.tif"):
        grey = pixels_of(corpus.usable()[name][0], channels=1)
        assert abs(grey.mean() - 127.5) < 1 and grey.min() == 0 and grey.max() == 255
    assert (pixels_of(corpus.sixteen_bit_rgb(0x8000)) == 128).all()


@pytest.mark.fault("I32")
def test_exif_orientation_is_applied() -> None:
    stored, turned = (pixels_of(corpus.with_exif(o)) for o in (1, 6))
    assert stored[:, :8].mean() < 20 and stored[:, -8:].mean() > 235  # dark left, bright right
    assert turned[:8].mean() < 20 and turned[-8:].mean() > 235  # turned clockwise: dark top, bright bottom
    assert (pixels_of(corpus.with_exif(99)) == stored).all()


@pytest.mark.fault("I28", "I29", "I30")
def test_the_first_frame_counts() -> None:
    for kind in ("GIF", "WEBP"):
        red = pixels_of(corpus.animated(kind)).reshape(-1, 3).mean(axis=0)
        assert red[0] > 230 and red[1:].max() < 30


def test_resizing_takes_the_middle_square_and_averages() -> None:
    wide = np.zeros((40, 120), np.uint8)
    wide[:, 40:80] = np.indices((40, 40)).sum(axis=0) % 2 * 255  # the middle third: a fine checkerboard
    found = pixels_of(corpus.encoded(Image.fromarray(wide)), size=10, channels=1)
    inner = found[:, 1:-1].astype(int)  # the outermost columns average over the border
    assert np.abs(inner - 127).max() <= 2  # neither the black sides nor aliasing


def test_large_jpegs_are_reduced_like_any_other_image() -> None:
    large = corpus.picture(3, 800)
    fast, slow = (
        pixels_of(corpus.encoded(large, kind, **options), size=32) for kind, options in (("JPEG", {"quality": 95}), ("PNG", {}))
    )
    assert np.abs(fast.astype(int) - slow).mean() < 2


def test_the_decoding_worker_needs_nothing_but_pillow() -> None:
    code = "import sys, runpy; runpy.run_path(sys.argv[1], run_name='worker'); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, decoding.__file__], capture_output=True, text=True, check=True, timeout=120
    )
    assert not {"torch", "numpy", "tasks"} & set(done.stdout.split())


def sixteen_bits(values: np.ndarray[Any, Any]) -> bytes:
    """Values as a 16-bit PNG."""
    return corpus.encoded(Image.fromarray(values.astype(np.uint16)))


def test_a_depth_that_is_given_scales_and_what_lies_above_is_told() -> None:
    ramp = np.linspace(0, 4095, corpus.SIDE**2).reshape(corpus.SIDE, -1)
    pixels, facts = decoding.decode(sixteen_bits(ramp), "x.png", corpus.SIDE, 1, depth=12)
    expected = (ramp.astype(np.int64) * 255 + 2047) // 4095
    assert pixels == expected.astype(np.uint8).tobytes() and facts.peak == 4095 and not facts.notes
    pixels, facts = decoding.decode(sixteen_bits(ramp), "x.png", corpus.SIDE, 1, depth=10)
    assert pixels[-1] == 255 and facts.notes == ["values above 1023 are cut; data.bit_depth is 10"]


def test_twelve_bits_a_color_are_scaled_as_those_of_grey_are() -> None:
    pixels, facts = decoding.decode(corpus.sixteen_bit_rgb(0x0FFF), "x.png", corpus.SIDE, 3, depth=12)
    assert set(pixels) == {255} and facts.peak == 4095 and not facts.notes
    _, facts = decoding.decode(corpus.encoded(corpus.picture()), "x.png", corpus.SIDE, 3)
    assert not facts.notes
