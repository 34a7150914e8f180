"""Any number of channels and 8 or 16 bits: what a file holds is what is stored, band by band."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.prepare import decoding
from tasks.prepare import tiff as tiff_reader
from tasks.prepare.workers import Job, decode_all
from tests.support import corpus
from tests.tasks.prepare.test_bad_inputs import refused
from tests.tasks.prepare.test_prepare import config, run, write

SIDE = 12
Array = np.ndarray[Any, Any]


def values(count: int, bits: int = 16) -> Array:
    """(SIDE, SIDE, count) that differ everywhere, up to the largest value of ``bits``."""
    x = np.arange(SIDE * SIDE * count, dtype=np.int64).reshape(SIDE, SIDE, count) * 977 % 2**bits
    x[-1, -1] = 2**bits - 1
    return x.astype(np.uint8 if bits == 8 else np.uint16)


def npy(array: Array) -> bytes:
    out = BytesIO()
    np.save(out, array)
    return out.getvalue()


def png16(array: Array) -> bytes:
    """(H, W, 3 or 4) uint16 as PNG; Pillow cannot write it."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return corpus.png(array.shape[1], array.shape[0], rows, depth=16, color=2 if array.shape[2] == 3 else 6)


def tiff(
    array: Array,
    order: str = "<",
    planar: bool = False,
    predictor: bool = False,
    deflate: bool = False,
    tile: int = 0,
    photometric: int = 1,
) -> bytes:
    """(H, W, B) as a TIFF with any number of bands, written by the letter of TIFF 6.0."""
    height, width, count = array.shape
    blocks = []
    for plane in np.moveaxis(array, 2, 0)[..., None] if planar else [array]:
        step = tile or 5  # rows of a strip
        for top in range(0, height, step):
            for left in range(0, width, tile or width):
                part = plane[top : top + step, left : left + (tile or width)]
                if tile:
                    part = np.pad(part, ((0, tile - len(part)), (0, tile - part.shape[1]), (0, 0)))
                if predictor:
                    part = np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], 1)
                raw = part.astype(array.dtype.newbyteorder(order)).tobytes()
                blocks.append(zlib.compress(raw) if deflate else raw)
    offsets = [8 + sum(map(len, blocks[:i])) for i in range(len(blocks))]
    sizes = [*map(len, blocks)]
    own = {322: [tile], 323: [tile], 324: offsets, 325: sizes} if tile else {278: [5], 273: offsets, 279: sizes}
    colors = 3 if photometric == 2 else 1
    tags: dict[int, list[int]] = {
        256: [width], 257: [height], 258: [array.itemsize * 8] * count, 259: [8 if deflate else 1], 262: [photometric],
        277: [count], 284: [2 if planar else 1], 317: [2 if predictor else 1], 338: [0] * (count - colors), 339: [1] * count,
        **own,
    }  # fmt: skip
    body, extra, entries = b"".join(blocks), b"", b""
    at = 8 + len(body)
    beyond = at + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        where = packed if len(numbers) == 1 else struct.pack(f"{order}I", beyond + len(extra))
        extra += b"" if len(numbers) == 1 else packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + where
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + extra


def stored(data: bytes, channels: int, bits: int = 16, size: int = SIDE, **options: Any) -> tuple[Array, decoding.Facts]:
    pixels, facts = decoding.decode(data, "x", size, channels, bits=bits, **options)
    return np.frombuffer(pixels, f"uint{bits}").reshape(size, size, channels), facts


@pytest.mark.parametrize("count", [1, 2, 3, 4, 13, 16])
@pytest.mark.parametrize("bits", [8, 16])
def test_arrays_of_any_number_of_bands_are_kept(count: int, bits: int) -> None:
    x = values(count, bits)
    found, facts = stored(npy(x), count, bits)
    assert (found == x).all() and facts.peak == (0 if bits == 8 else 65535)
    if count > 1:
        assert (stored(npy(x.transpose(2, 0, 1)), count, bits)[0] == x).all()  # the bands first


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", [False, True])
def test_a_tiff_of_three_bands_that_are_not_called_red_green_and_blue_is_read(bits: int, planar: bool) -> None:
    """As programs for satellite images write it: the first band is black to white, the others are extra."""
    x = values(3, bits)
    found, _ = stored(tiff(x, planar=planar), 3, 8)
    assert np.abs(found.astype(float) - x / (2**bits - 1) * 255).max() <= 1
    assert (stored(tiff(x, planar=planar), 3, bits)[0] == x).all()
    assert stored(tiff(x, planar=planar), 1, 8)[0].shape == (SIDE, SIDE, 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_colors_that_are_stored_one_after_the_other_are_read(bits: int) -> None:
    x = values(3, bits)
    assert (stored(tiff(x, planar=True, photometric=2), 3, bits)[0] == x).all()
    assert stored(tiff(x, planar=True, photometric=2), 3, 8)[0].shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(("count", "channels", "bits"), [(13, 3, 16), (2, 1, 16), (2, 3, 16), (4, 3, 8), (5, 1, 8)])
def test_another_number_of_bands_is_named_with_the_setting(count: int, channels: int, bits: int) -> None:
    with pytest.raises(decoding.BadImage, match=f"{count} bands, but data.channels is {channels}"):
        stored(tiff(values(count, bits)), channels, 8)


def test_narrow_floats_are_read_without_a_word_and_a_range_is_said_exactly() -> None:
    x = np.linspace(0, 1, SIDE * SIDE, dtype=np.float16).reshape(SIDE, SIDE, 1)
    found, facts = stored(npy(x), 1)
    assert np.abs(found / 65535 - x).max() < 1e-3 and not facts.notes
    with pytest.raises(decoding.BadImage, match=r"floats from 1\.00000012 to 1\.00000012; they must be in 0\.\.1"):
        stored(npy(np.full((SIDE, SIDE), np.nextafter(np.float32(1), np.float32(2)))), 1)


def test_a_transparent_color_of_16_bits_is_told() -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values(3))
    picture = corpus.png(SIDE, SIDE, rows, depth=16, color=2, extra=corpus.chunk(b"tRNS", b"\0\1" * 3))
    assert "transparent pixels of one color are read as they are" in stored(picture, 3)[1].notes


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_sixteen_bits_of_grey_with_transparency_are_refused_by_name(channels: int) -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values(2))
    with pytest.raises(decoding.BadImage, match="16 bits of grey with transparency; store it without"):
        stored(corpus.png(SIDE, SIDE, rows, depth=16, color=4), channels)


def test_floats_and_wider_integers_have_a_stated_range() -> None:
    x = values(2)
    assert (stored(npy(x.astype(np.int64)), 2)[0] == x).all()
    assert np.abs(stored(npy(x / 65535), 2)[0].astype(int) - x).max() == 0
    for wrong in (x / 65534, x.astype(np.int64) - 1, x.astype(np.int64) + 1, np.full((9, 9, 2), np.nan), x > 5):
        with pytest.raises(decoding.BadImage, match="must be"):
            stored(npy(wrong), 2)


@pytest.mark.parametrize("array", [np.zeros((9, 9, 9, 9)), np.zeros(9), np.zeros((0, 9)), np.array([{}], object)])
def test_other_arrays_are_no_images(array: Array) -> None:
    with pytest.raises(decoding.BadImage, match="array"):
        stored(npy(array), 2)


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.fault("I22")
def test_sixteen_bits_a_color_are_kept_with_all_their_bits(count: int) -> None:
    x = values(count)
    assert (stored(png16(x), count)[0] == x).all()
    assert (stored(tiff(x), count)[0] == x).all() and (stored(tiff(x, ">"), count)[0] == x).all()


def test_a_fourth_band_is_kept_where_there_are_four_channels() -> None:
    x = values(4, 8)
    found, facts = stored(corpus.encoded(Image.fromarray(x)), 4, 8)
    assert (found == x).all() and facts.notes == []


def test_eight_bits_fill_sixteen_and_camera_values_fill_them_too() -> None:
    grey = np.asarray(corpus.picture().convert("L"))
    assert (
        stored(corpus.encoded(corpus.picture().convert("L")), 1, size=corpus.SIDE)[0][..., 0] == grey.astype(int) * 257
    ).all()
    x = values(1, 12)
    found, facts = stored(corpus.encoded(Image.fromarray(x[..., 0])), 1, depth=12)
    assert len(np.unique(found)) == len(np.unique(x)) and facts.peak == found.max() // 16 == 4095


LAYOUTS: list[dict[str, Any]] = [
    {"order": o, "planar": p, **more}
    for o in "<>"
    for p in (False, True)
    for more in ({}, {"deflate": True}, {"deflate": True, "predictor": True}, {"tile": 16, "deflate": True, "predictor": True})
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("bits", [8, 16])
def test_every_layout_of_a_multi_band_tiff_gives_the_same_bands(layout: dict[str, Any], bits: int) -> None:
    x = np.tile(values(13, bits), (2, 2, 1))
    assert (tiff_reader.read(tiff(x, **layout))[0] == x).all()
    assert (stored(tiff(x, **layout), 13, bits, size=2 * SIDE)[0] == x).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_turns_many_bands_as_it_turns_three(orientation: int) -> None:
    wide = values(4, 8)[: SIDE - 2]
    turned = tiff_reader.UPRIGHT.get(orientation, lambda x: x)(wide)
    picture = Image.fromarray(wide[..., :3])
    exif = picture.getexif()
    exif[0x0112] = orientation
    with Image.open(BytesIO(corpus.encoded(picture, "PNG", exif=exif))) as read:
        assert (np.asarray(decoding.upright(read, decoding.Facts(1, 1, "", "", ""))) == turned[..., :3]).all()
    found, is_turned = tiff_reader.read(corpus.encoded(Image.fromarray(wide), "TIFF", tiffinfo={274: orientation}))
    assert (found == turned).all() and is_turned == (orientation > 1)


def test_what_a_picture_would_show_as_something_else_is_refused_or_told() -> None:
    grey = Image.fromarray(values(1, 8)[..., 0])
    deep = Image.fromarray(values(1)[..., 0])
    for picture, tags, said in (
        (grey, {339: 2}, "signed values"),
        (deep, {262: 0}, "of which 0 is white"),
        (Image.fromarray(np.zeros((SIDE, SIDE), np.float32)), {}, "have no stated range"),
    ):
        with pytest.raises(decoding.BadImage, match=said):
            decoding.decode(corpus.encoded(picture, "TIFF", tiffinfo=tags), "x.tif", SIDE, 1)
    with pytest.raises(decoding.BadImage, match="int8 values"):
        stored(npy(values(2, 8).astype(np.int8).clip(0)), 2)
    for count in (4, 5):
        _, facts = decoding.decode(tiff(values(count, 8), photometric=2), "x.tif", SIDE, 3)
        assert facts.notes == [f"{count} bands, of which 3 are read; data.channels: {count} keeps all"]
    assert (stored(npy(values(3).transpose(2, 0, 1).repeat(2, 2).repeat(2, 1)), 1, size=2 * SIDE)[0].shape) == (24, 24, 1)


def test_another_number_of_bands_is_named() -> None:
    for data in (npy(values(5)), tiff(values(5)), corpus.encoded(corpus.picture())):
        with pytest.raises(decoding.BadImage, match=r"(3|5) bands, but data\.channels is 4"):
            stored(data, 4)
    with pytest.raises(decoding.BadImage, match=r"4 bands, but data\.channels is 3"):
        stored(npy(values(4)), 3)  # a fourth band of an array is no transparency
    with pytest.raises(decoding.BadImage, match="17 bands of"):
        tiff_reader.read(tiff(values(17)))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_how_a_picture_becomes_a_square(channels: int, bits: int) -> None:
    wide = np.zeros((16, 32, channels), np.uint8)
    wide[:, 8:24] = 255  # a white square in the middle, black on both sides
    data = npy(wide) if channels == 4 else corpus.encoded(Image.fromarray(wide.squeeze()))
    white = 2**bits - 1
    crop, stretch, pad = (stored(data, channels, bits, 16, fit=fit)[0] for fit in ("crop", "stretch", "pad"))
    assert (crop == white).all()
    assert (stretch[:, 5:11] == white).all() and (stretch[:, :3] == 0).all()
    assert (pad[5:11, 5:11] == white).all() and (pad[:3] == 0).all() and (pad[:, :3] == 0).all()


def test_the_worker_reads_what_the_function_reads() -> None:
    x = values(5)
    jobs = iter([Job(0, "a.npy", npy(x)), Job(1, "b.tif", tiff(x)), Job(2, "c.npy", npy(values(4)))])
    done = {d.row: d for d in decode_all(jobs, SIDE, 5, workers=1, bits=16)}
    assert done[0].pixels == done[1].pixels == x.tobytes() and "4 bands" in done[2].bad


def test_a_folder_of_arrays_becomes_a_data_set_of_sixteen_bits(tmp_path: Path) -> None:
    pictures = {f"{name}/{i}.npy": npy(values(13) // (i + 2)) for name in ("corn", "wood") for i in range(4)}
    folder = write(tmp_path / "in", pictures)
    data = run(tmp_path, config(folder, image_size=SIDE, channels=13, bits=16))
    assert data.train_images.dtype == np.uint16 and data.train_images.shape[1:] == (13, SIDE, SIDE)
    assert data.meta["bits"] == 16 and data.meta["bit_depth"] == 16 and len(data.meta["mean"]) == 13
    flat = data.train_images.transpose(1, 0, 2, 3).reshape(13, -1) / 65535
    assert data.meta["mean"] == pytest.approx(flat.mean(1)) and data.meta["std"] == pytest.approx(flat.std(1))
    said = refused(tmp_path, config(folder, image_size=SIDE, channels=4), "13 bands, but data.channels is 4")
    assert "Set data.channels to 13 (" in said and "Repair" not in said


def test_arrays_beside_pictures_are_no_images(tmp_path: Path) -> None:
    pictures = {f"{i}.png": corpus.encoded(corpus.picture(i)) for i in range(3)} | {"features.npy": npy(np.zeros((3, 9)))}
    assert run(tmp_path, config(write(tmp_path / "in", pictures))).audit["ignored"]["files"] == ["features.npy"]
