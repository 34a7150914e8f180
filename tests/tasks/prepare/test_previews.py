"""A TIFF that begins with a preview is read at full size where that can be, and refused where it cannot."""

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.prepare import decoding
from tests.support import corpus
from tests.tasks.prepare import test_bands
from tests.tasks.prepare.test_bad_inputs import refused
from tests.tasks.prepare.test_prepare import config, run, write

FULL, SMALL = 64, 16
READ = "the first picture in it is a preview, the full one is read"
Array = np.ndarray[Any, Any]


def scene(side: int, seed: int = 0) -> Array:
    """(side, side, 3) uint8."""
    return np.asarray(corpus.picture(seed, side))


def page(values: Array, at: int, order: str, big: bool, tags: dict[int, int], after: int = 0) -> bytes:
    """A directory at ``at`` and its pixels behind it, uncompressed.

    Args:
        after: where the next directory lies.
    """
    height, width, bands = values.shape
    count, entry, size = ("Q", "HHQQ", 20) if big else ("H", "HHII", 12)
    own = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: 2 if bands == 3 else 1, 277: bands, 278: height}
    own |= {279: values.nbytes} | tags
    start = at + struct.calcsize(f"={count}") + size * (len(own) + 1) + (8 if big else 4)
    entries = b"".join(
        struct.pack(order + entry, tag, 16 if big else 4, 1, number) for tag, number in sorted((own | {273: start}).items())
    )
    link = struct.pack(order + ("Q" if big else "I"), after)
    return struct.pack(order + count, len(own) + 1) + entries + link + values.astype(values.dtype.newbyteorder(order)).tobytes()


def tiff(pages: list[tuple[Array, dict[int, int]]], order: str = "<", big: bool = False, below: bool = False) -> bytes:
    """Pages one after the other; ``below``: the second one lies below the first instead (tag 330)."""
    mark = {"<": b"II", ">": b"MM"}[order]
    head = mark + (struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8))
    places = [len(head)]
    for values, tags in pages:
        extra = {330: 0} if below and len(places) == 1 else {}
        places.append(places[-1] + len(page(values, 0, order, big, tags | extra)) + values.nbytes % 2)
    body = b""
    for number, (values, tags) in enumerate(pages):
        is_last = number == len(pages) - 1
        extra = {330: places[1]} if below and not number else {}
        after = 0 if is_last or (below and not number) else places[number + 1]
        body += page(values, places[number], order, big, tags | extra, after)
        body += b"\0" * (places[number + 1] - len(head) - len(body))
    return head + body


def read(data: bytes, channels: int = 3, **more: Any) -> tuple[Array, list[str]]:
    """At full size."""
    pixels, facts = decoding.decode(data, "x.tif", FULL, channels, **more)
    assert facts.sha256 == hashlib.sha256(data).hexdigest()
    return np.frombuffer(pixels, f"uint{more.get('bits', 8)}").reshape(FULL, FULL, channels), facts.notes


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("mark", [{254: 1}, {255: 2}])
def test_the_full_picture_is_read_wherever_it_lies(order: str, big: bool, below: bool, mark: dict[int, int]) -> None:
    found, notes = read(tiff([(scene(SMALL), mark), (scene(FULL), {254: 0})], order, big, below))
    assert (found == scene(FULL)).all() and notes == [READ]


def test_of_a_pyramid_from_small_to_large_the_last_page_is_read() -> None:
    pages: list[tuple[Array, dict[int, int]]] = [(scene(side), {254: 1}) for side in (8, 16, 32)]
    found, notes = read(tiff([*pages, (scene(FULL), {})]))
    assert (found == scene(FULL)).all() and notes == [READ]


def test_a_pyramid_from_large_to_small_and_pages_are_read_as_ever() -> None:
    for below in (False, True):
        found, notes = read(tiff([(scene(FULL), {}), (scene(SMALL), {254: 1})], below=below))
        assert (found == scene(FULL)).all() and notes == ([] if below else ["several frames or pages, the first is used"])
    found, notes = read(tiff([(scene(FULL), {254: 2}), (scene(FULL, 1), {254: 2})]))
    assert (found == scene(FULL)).all() and notes == ["several frames or pages, the first is used"]


@pytest.mark.parametrize(("channels", "bits"), [(5, 16), (3, 16)])
def test_all_bands_and_bits_of_the_full_picture_are_read(channels: int, bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (FULL, FULL, channels)).astype(np.uint16)
    data = test_bands.tiff(values, photometric=2 if channels == 3 else 1)
    (first,) = struct.unpack_from("<I", data, 4)
    preview = page(scene(SMALL), len(data), "<", False, {254: 1}, after=first)
    found, notes = read(data[:4] + struct.pack("<I", len(data)) + data[8:] + preview, channels, bits=bits)
    assert (found == values).all() and notes == [READ]


def test_a_mask_of_transparency_is_no_picture() -> None:
    mask = np.zeros((2 * FULL, 2 * FULL, 1), np.uint8)
    found, notes = read(tiff([(scene(SMALL), {254: 1}), (mask, {254: 4}), (scene(FULL), {})]))
    assert (found == scene(FULL)).all() and notes == [READ]


def test_raw_data_of_a_camera_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = np.zeros((FULL, FULL, 1), np.uint16)
    file = tiff([(scene(SMALL), {254: 1}), (raw, {254: 0, 262: 32803})], below=True)
    pictures = {f"{i}.tif": tiff([(scene(FULL, i), {})]) for i in range(3)} | {"raw.tif": file}
    why = "the first picture in it is a preview of 16 x 16 pixels; the full one of 64 x 64 is raw data of a camera"
    refused(tmp_path, config(write(tmp_path / "in", pictures)), f"1 of 4 files cannot be used .*'raw.tif': {why}")


def test_a_preview_without_its_picture_is_told_and_pages_in_a_circle_end() -> None:
    found, notes = read(tiff([(scene(FULL), {254: 1})]))
    assert (found == scene(FULL)).all() and notes == ["calls itself a preview, but holds no larger picture"]
    data = bytearray(tiff([(scene(FULL), {254: 1})]))
    count = struct.unpack_from("<H", data, 8)[0]
    struct.pack_into("<I", data, 10 + 12 * count, 8)  # the next page is the first one
    assert "calls itself a preview, but holds no larger picture" in read(bytes(data))[1]


def test_tiles_are_cut_from_the_full_picture(tmp_path: Path) -> None:
    pictures = {f"{i}.tif": tiff([(scene(SMALL), {254: 1}), (scene(FULL, i), {})]) for i in range(2)}
    data = run(tmp_path, config(write(tmp_path / "in", pictures), tile=32, image_size=32))
    assert len(data.train_images) == 8 and f"8 images: {READ}" in data.audit["warnings"]
    assert (data.train_images[0].transpose(1, 2, 0) == scene(FULL)[:32, :32]).all()


def test_damaged_files_are_refused_as_before() -> None:
    whole = tiff([(scene(SMALL), {254: 1}), (scene(FULL), {})])
    for length in (3, 7, 9, 20, 100, 200):
        with pytest.raises(decoding.BadImage):
            read(whole[:length])
