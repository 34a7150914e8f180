"""Archives that are damaged, cut off or could do harm are rejected before anything is written."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.support import corpus
from tests.tasks.prepare.test_bad_inputs import refused
from tests.tasks.prepare.test_prepare import class_folders, config


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a rejection lists the files in .ssl of the current project


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo | str, bytes]], mode: str = "w:gz") -> Path:
    """A tar of three classes and then ``members``."""
    with tarfile.open(path, mode) as tar:
        for entry, data in [*class_folders(3).items(), *members]:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def special(kind: bytes, name: str = "cat/x.png", target: str = "/etc/passwd") -> tuple[tarfile.TarInfo, bytes]:
    """A member that is not a regular file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


TARS: dict[str, tuple[list[tuple[tarfile.TarInfo | str, bytes]], str]] = {
    "parent": ([("../escape.png", b"x")], "leads outside"),
    "parent inside": ([("cat/../../escape.png", b"x")], "leads outside"),
    "absolute": ([("/escape.png", b"x")], "absolute"),
    "symbolic link": ([special(tarfile.SYMTYPE)], "link"),
    "hard link": ([special(tarfile.LNKTYPE)], "link"),
    "device": ([special(tarfile.CHRTYPE)], "link, a device"),
    "pipe": ([special(tarfile.FIFOTYPE)], "link, a device"),
    "twice": ([("cat/0.png", b"x")], "there twice"),
    "twice, spelled otherwise": ([("./cat//0.png", b"x")], "there twice"),
    "nested": ([("cat/more.tar.gz", b"x")], "archive inside"),
    "bomb": ([("cat/bomb.bmp", bytes(40 << 20))], "expands to more than"),
}


@pytest.mark.parametrize("case", TARS)
@pytest.mark.fault("F73", "F79", "I63")
def test_a_tar_that_could_do_harm_is_rejected(tmp_path: Path, case: str) -> None:
    members, match = TARS[case]
    refused(tmp_path, config(make_tar(tmp_path / "in.tar.gz", members), "archive"), match)
    assert [p.name for p in tmp_path.iterdir()] == ["in.tar.gz"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.fault("I63")
def test_a_tar_cut_anywhere_is_rejected(tmp_path: Path, mode: str) -> None:
    whole = make_tar(tmp_path / "in.tar", [], mode).read_bytes()
    end = len(whole.rstrip(b"\0")) if mode == "w" else len(whole)  # a plain tar is padded with zeros
    for length in (*np.linspace(300, end - 1, 9).astype(int), end // 512 * 512):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        if length < len(whole):
            refused(tmp_path, config(tmp_path / "cut.tar", "archive"), "damaged or cut off")


def test_damage_inside_a_tar_is_found(tmp_path: Path) -> None:
    plain = make_tar(tmp_path / "in.tar", [], "w").read_bytes()
    header = plain.index(b"cat/1.png")
    (tmp_path / "in.tar").write_bytes(corpus.flipped(plain, header + 130))
    refused(tmp_path, config(tmp_path / "in.tar", "archive"), "damaged or cut off")
    packed = make_tar(tmp_path / "in.tar.gz", []).read_bytes()
    (tmp_path / "in.tar.gz").write_bytes(corpus.flipped(packed, len(packed) // 2))
    refused(tmp_path, config(tmp_path / "in.tar.gz", "archive"), "damaged|rejected|link")


def test_a_header_that_claims_too_much_is_rejected(tmp_path: Path) -> None:
    info = tarfile.TarInfo("cat/huge.png")
    info.size = 1 << 40
    with (tmp_path / "in.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(tmp_path, config(tmp_path / "in.tar", "archive"), "claims 1,099,511,627,776 bytes")


def make_zip(path: Path, extra: dict[str, bytes], attributes: int = 0) -> Path:
    """A zip of three classes and then ``extra``."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in class_folders(3).items():
            out.writestr(name, data)
        for name, data in extra.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = attributes << 16, zipfile.ZIP_DEFLATED
            out.writestr(info, data)
    return path


@pytest.mark.parametrize(
    ("extra", "attributes", "match"),
    [
        ({"../escape.png": b"x"}, 0, "leads outside"),
        ({"..\\escape.png": b"x"}, 0, "leads outside"),
        ({"C:\\escape.png": b"x"}, 0, "absolute"),
        ({"cat/link.png": b"/etc/passwd"}, 0o120777, "link"),
        ({"cat/bomb.bmp": bytes(40 << 20)}, 0, "times its size"),
        ({"cat/more.zip": b"x"}, 0, "archive inside"),
    ],
)
@pytest.mark.fault("F73", "I63")
def test_a_zip_that_could_do_harm_is_rejected(tmp_path: Path, extra: dict[str, bytes], attributes: int, match: str) -> None:
    refused(tmp_path, config(make_zip(tmp_path / "in.zip", extra, attributes), "archive"), match)


@pytest.mark.fault("I63")
def test_an_encrypted_damaged_or_cut_zip_is_rejected(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "in.zip", {})
    whole = path.read_bytes()
    central = whole.index(b"PK\x01\x02")
    path.write_bytes(corpus.flipped(whole, central + 8))  # bit 0 of the flags: encrypted
    refused(tmp_path, config(path, "archive"), "encrypted")
    path.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, config(path, "archive"), "damaged or cut off")
    (name_length,) = struct.unpack("<H", whole[26:28])
    path.write_bytes(corpus.flipped(whole, 30 + name_length + 40))  # inside the first member
    message = refused(tmp_path, config(path, "archive"), "1 of 9 files cannot be used")
    assert "bird/0.png" in message


def test_what_is_no_archive_is_rejected(tmp_path: Path) -> None:
    for data in (b"", b"Rar!\x1a\x07\x01\0", b"<html>404</html>"):
        (tmp_path / "in.tar").write_bytes(data)
        refused(tmp_path, config(tmp_path / "in.tar", "archive"), "not a tar")
