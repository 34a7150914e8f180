"""DICOM files by the extra pydicom: stored values as they are; without it, one line that says what to install."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.prepare import decoding, dicom
from tests.tasks.prepare.test_bad_inputs import refused
from tests.tasks.prepare.test_bands import SIDE, stored, values
from tests.tasks.prepare.test_prepare import config, run, write


def file(pixels: Any, bits: int, kind: str = "MONOCHROME2", signed: bool = False, frames: int = 1, **more: Any) -> bytes:
    """A DICOM file of these pixels, uncompressed."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.Rows, made.Columns, made.SamplesPerPixel = SIDE, SIDE, 3 if kind == "RGB" else 1
    made.BitsAllocated = pixels.dtype.itemsize * 8
    made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits - 1, int(signed)
    made.PhotometricInterpretation = kind
    if frames > 1:
        made.NumberOfFrames = frames
    if kind == "RGB":
        made.PlanarConfiguration = 0
    made.PixelData = pixels.tobytes()
    for name, value in more.items():
        setattr(made, name, value)
    out = BytesIO()
    made.save_as(out)
    return out.getvalue()


def test_without_pydicom_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = f"runpy.run_path({decoding.__file__!r}, run_name='__main__')"
    (tmp_path / "worker.py").write_text(f"import runpy, sys\nsys.modules['pydicom'] = None\n{real}\n")
    monkeypatch.setattr(decoding, "__file__", str(tmp_path / "worker.py"))
    pictures = {f"{i}.dcm": bytes(128) + decoding.DICOM + bytes(900) for i in range(3)}
    message = (
        r"3 of 3 files cannot be used .*'0\.dcm': DICOM needs pydicom, which is not installed: \.venv/bin/pip install pydicom"
    )
    refused(tmp_path, config(write(tmp_path / "in", pictures)), message)


def test_stored_values_are_kept_whatever_the_window() -> None:
    deep = values(1) >> 4  # 12 bits
    pixels, facts = stored(file(deep.squeeze(), 12, WindowCenter=10, WindowWidth=5), 1, bits=16, depth=12)
    assert (pixels == np.rint(deep.astype(float) * 65535 / 4095)).all()
    assert (facts.format, facts.mode, facts.peak) == ("DICOM", "MONOCHROME2", 4095)
    inverted, _ = stored(file(deep.squeeze(), 12, "MONOCHROME1"), 1, bits=16, depth=12)
    assert abs(inverted.astype(int) + pixels - 65535).max() <= 1


@pytest.mark.parametrize("bits", [1, 4, 6, 7])
def test_less_than_eight_bits_reach_white(bits: int) -> None:
    few = values(1).astype(np.uint8) >> (8 - bits)
    pixels, _ = stored(file(few.squeeze(), bits), 1, bits=8)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_signed_values_begin_at_zero_and_the_first_frame_counts() -> None:
    wide = values(1).squeeze().astype(np.int64) - 32768
    read, facts = dicom.read(file(np.stack([wide, wide[::-1]]).astype(np.int16), 16, signed=True, frames=2), 16)
    assert (read[..., 0] == wide + 32768).all() and facts.signed
    assert facts.notes == ["several frames or pages, the first is used"]


def test_signed_scans_keep_as_many_levels_as_unsigned_ones_but_for_one_bit(tmp_path: Path) -> None:
    """As of computed tomography: -1024 to 3071 in 16 bits."""
    scans = np.random.default_rng(0).integers(0, 4096, (4, SIDE, SIDE))
    levels = {}
    for name, shift in (("unsigned", 0), ("signed", 1024)):
        kind = np.int16 if shift else np.uint16
        pictures = {f"{i}.dcm": file((s - shift).astype(kind), 16, signed=bool(shift)) for i, s in enumerate(scans)}
        data = run(tmp_path, config(write(tmp_path / name, pictures), image_size=SIDE))
        levels[name] = len(np.unique(data.train_images))
        assert data.meta["bit_depth"] == (14 if shift else 12)  # -1024 to 3071 lie in -4096 to 4095, of 13 bits
    assert levels["unsigned"] > 200 and levels["signed"] > 50


def test_the_lowest_of_sixteen_bits_is_read_and_bits_are_counted_as_signed_ones_are_stored(tmp_path: Path) -> None:
    scan = np.full((SIDE, SIDE), -1024, np.int16)
    scan[0] = 1023
    _, facts = stored(file(scan, 16, signed=True), 1, bits=16)
    assert facts.peak == 2047  # of 11 bits, which -1024 to 1023 are
    scan[1] = -32768
    pixels, facts = stored(file(scan, 16, signed=True), 1, bits=16)
    assert facts.peak == 65535 and pixels[1].max() == 0
    data = run(
        tmp_path, config(write(tmp_path / "in", {f"{i}.dcm": file(scan, 16, signed=True, InstanceNumber=i) for i in range(3)}))
    )
    assert data.meta["bit_depth"] == 16


def test_padding_is_as_dark_as_the_darkest_pixel() -> None:
    deep = (values(1) >> 4).squeeze() + 7
    padded = deep.copy()
    padded[:2] = 65535
    read, _ = dicom.read(file(padded, 16, PixelPaddingValue=65535), 16)
    assert (read[2:, :, 0] == deep[2:]).all() and (read[:2] == deep[2:].min()).all()
    limits = {"PixelPaddingValue": 65000, "PixelPaddingRangeLimit": 65535}
    assert (dicom.read(file(padded, 16, **limits), 16)[0] == read).all()


@pytest.mark.parametrize("written", [-2000, 65536 - 2000])
def test_padding_of_signed_values_may_be_written_unsigned(written: int) -> None:
    import pydicom

    scan = ((values(1) >> 5).squeeze().astype(np.int16) - 1000).astype(np.int16)
    padded = scan.copy()
    padded[:2] = -2000
    about = pydicom.dcmread(BytesIO(file(padded, 16, signed=True)))
    about.add_new("PixelPaddingValue", "SS" if written < 0 else "US", written)
    out = BytesIO()
    about.save_as(out)
    read, _ = dicom.read(out.getvalue(), 13)
    assert (read[:2, :, 0] == int(scan[2:].min()) + 4096).all() and (read[2:, :, 0] == scan[2:] + 4096).all()


def test_color_and_what_cannot_be_read() -> None:
    color = values(3, bits=8)
    assert (stored(file(color, 8, "RGB"), 3, bits=8)[0] == color).all()
    for data, why in (
        (file(color[..., 0], 8, "PALETTE COLOR"), "PALETTE COLOR of 8 bits"),
        (file(values(1).squeeze(), 16, Columns=5), "a side is under 8 pixels"),
        (file(values(1).squeeze(), 16)[:-40], "damaged"),
    ):
        with pytest.raises(decoding.BadImage, match=why):
            decoding.decode(data, "a.dcm", SIDE, 1)
