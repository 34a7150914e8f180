"""What is transparent all over leaves nothing: it is told with what keeps it, and in the error that it causes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import corpus
from tests.tasks.prepare.test_bad_inputs import refused
from tests.tasks.prepare.test_bands import png16, stored
from tests.tasks.prepare.test_color_space import notes
from tests.tasks.prepare.test_prepare import config, run, tree, write

CLEAR = "transparent all over, which leaves nothing but white; "


def with_alpha(alpha: int, kind: str = "RGBA", seed: int = 0) -> bytes:
    image = corpus.picture(seed)
    image.putalpha(alpha)
    return corpus.encoded(image.convert(kind), "PNG")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_that_is_transparent_all_over_is_told_with_what_keeps_it(channels: int) -> None:
    keep = CLEAR + "set data.channels: {} to keep what is under it, or remove the transparency"
    for alpha in (0, 1, 5):
        assert notes(with_alpha(alpha), channels) == [keep.format(4)]
    assert notes(with_alpha(0, "LA"), channels) == [keep.format(2)]
    deep = np.random.default_rng(0).integers(0, 65536, (corpus.SIDE, corpus.SIDE, 4)).astype(np.uint16)
    deep[..., 3] = 0
    assert notes(png16(deep), channels) == [keep.format(4)]
    flat = corpus.encoded(Image.new("RGB", (corpus.SIDE, corpus.SIDE), "red"), transparency=(255, 0, 0))
    assert notes(flat, channels) == [CLEAR + "remove the transparency"]
    assert notes(with_alpha(6), channels) == ["partly transparent, laid on white"] and notes(with_alpha(255), channels) == []
    assert notes(with_alpha(0), 4) == []


@pytest.mark.parametrize("bits", [8, 16])
def test_one_transparent_color_is_laid_on_white_whatever_is_kept(bits: int) -> None:
    left = Image.new("RGB", (8, 8), "red")
    left.paste((0, 0, 255), (4, 0, 8, 8))
    pixels, facts = stored(corpus.encoded(left, "PNG", transparency=(255, 0, 0)), 3, bits=bits, size=8)
    white = 2**bits - 1
    assert pixels[4, 1].tolist() == [white] * 3 and pixels[4, 6].tolist() == [0, 0, white]
    assert facts.notes == ["partly transparent, laid on white"]


def test_an_error_of_images_that_are_all_white_says_why_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = {name: with_alpha(0, seed=i) for i, name in enumerate(tree())}
    why = f"; {len(pictures)} images: {CLEAR}set data.channels: 4 to keep what is under it"
    assert why in refused(tmp_path, config(write(tmp_path / "classes", pictures)), "training image.s. are left after")
    loose = {f"{i}.png": with_alpha(0, seed=i) for i in range(4)}
    assert f"; 4 images: {CLEAR}" in refused(tmp_path, config(write(tmp_path / "loose", loose)), "single color")
    some = {**tree(), "train/cat/clear.png": with_alpha(0)}
    warnings = run(tmp_path, config(write(tmp_path / "some", some))).audit["warnings"]
    assert any(text.startswith(f"1 image: {CLEAR}") for text in warnings)
