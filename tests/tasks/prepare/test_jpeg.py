"""JPEG files without their second half that end properly are found, where that is sure; whole ones never are."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.prepare import decoding
from tests.support import corpus
from tests.tasks.prepare.test_color_space import notes

END = b"\xff\xd9"


def photo(seed: int = 0, side: int = 96, kind: str = "RGB", **options: Any) -> bytes:
    noise = np.random.default_rng(seed).normal(0, 12, (side, side, 3))
    values = (np.asarray(corpus.picture(seed, side)) + noise).clip(0, 255).astype(np.uint8)
    return corpus.encoded(Image.fromarray(values).convert(kind), "JPEG", **options)


@pytest.mark.parametrize("kind", ["RGB", "L"])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.7])
def test_a_jpeg_without_its_second_half_is_refused(kind: str, options: dict[str, Any], share: float) -> None:
    for seed in range(8):
        data = photo(seed, kind=kind, **options)
        start = data.index(b"\xff\xda") + 14
        with pytest.raises(decoding.BadImage, match=r"the JPEG ends early, and is grey below row \d+"):
            notes(data[: start + int((len(data) - start) * share)] + END)
        assert notes(data) == []


@pytest.mark.parametrize("below", [16, 32, 64])
@pytest.mark.parametrize("kind", ["RGB", "L"])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"optimize": True}, {"quality": 30}])
def test_a_grey_border_is_no_missing_half(below: int, kind: str, options: dict[str, Any]) -> None:
    """128, as some tools lay below a picture."""
    for seed in range(8):
        values = np.asarray(corpus.picture(seed, 96)).copy()
        values[-below:] = 128
        data = corpus.encoded(Image.fromarray(values).convert(kind), "JPEG", **options)
        assert notes(data, bits=16) == notes(data) == []
    assert notes(corpus.encoded(Image.new(kind, (64, 64), "grey"), "JPEG", **options)) == []


def test_a_progressive_jpeg_without_its_last_scans_is_told() -> None:
    data = photo(progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    less = ["a progressive JPEG without its last scans: less sharp than it was"]
    assert len(scans) > 6 and notes(data) == [] and notes(photo(kind="L", progressive=True)) == []
    for flat in ((0, 0, 0), (255, 255, 255), (128, 128, 128)):  # the last scans hold next to nothing
        assert notes(corpus.encoded(Image.new("RGB", (640, 480), flat), "JPEG", progressive=True)) == []
    for at in scans[1:]:
        assert notes(data[:at] + END) == less


@pytest.mark.parametrize("junk", [b"\xff\xda", b"\xff\xda\xff\xff", b"\xff\xda" + bytes([255] * 40)])
@pytest.mark.parametrize("ending", [b"", END])
def test_what_lies_behind_a_whole_jpeg_makes_it_no_damaged_one(junk: bytes, ending: bytes) -> None:
    said = [] if ending else ["bytes after the end of the JPEG"]
    grey = corpus.encoded(Image.new("RGB", (64, 64), "grey"), "JPEG")
    for data in (photo(progressive=True), photo(), grey):
        assert notes(data + junk + ending) == said
