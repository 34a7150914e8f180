"""Outliers, labels that look wrong, a sheet of pictures, other layers and whole maps."""

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from tasks import embed, picture_sheet
from tasks.alike import Duplicates, outliers, suspects
from tasks.register import registry
from tasks.register.modeling import ImageEncoder
from tasks.register.registry import Loaded
from tasks.runtime.errors import UsageError
from tests.support import corpus
from tests.support.configs import encoder_of
from tests.tasks.prepare.test_prepare import write


def test_outliers_are_least_like_their_neighbors() -> None:
    usual = 0.9 + 0.001 * torch.arange(20).repeat(2, 1).T
    usual[7], usual[13], usual[2] = 0.2, 0.1, 0.87
    assert outliers(usual) == [13, 7]
    assert outliers(torch.ones(20, 5)) == []


@pytest.mark.parametrize(("alike", "said"), [(30, True), (24, False)])
def test_an_encoder_to_which_many_images_are_one_is_told(alike: int, said: bool, capsys: pytest.CaptureFixture[str]) -> None:
    found = Duplicates(alike - 1, [(1.0, 0, row) for row in range(1, alike)], [list(range(alike))])
    embed.show_duplicates([str(row) for row in range(100)], found, argparse.Namespace(threshold=0.99, all=False))
    assert ("images are one group: copies, or an encoder that tells little apart" in capsys.readouterr().out) == said


def test_a_label_is_suspected_where_nearly_all_neighbors_have_one_other() -> None:
    index = torch.tensor(
        [[1, 2, 3, 4, 5], [0, 2, 3, 4, 5], [6, 6, 6, 6, 6], [0, 1, 2, 4, 5], [0, 1, 2, 3, 5], [0] * 5, [0] * 5]
    )
    found = suspects(["dog", "cat", "cat", "cat", "cat", "cat", ""], index)
    assert [(s.row, s.label, s.other, s.share) for s in found] == [(0, "dog", "cat", 1.0), (5, "cat", "dog", 1.0)]
    mixed = torch.tensor([[1, 2, 3, 4, 5]] * 6)
    assert not suspects(["dog", "cat", "cat", "cat", "dog", "dog"], mixed)  # 3 of 5 are not nearly all


@pytest.mark.parametrize(
    ("name", "label"), [("a.png", ""), ("cat/a.png", "cat"), ("train/cat/x/a.png", "cat"), ("test/a.png", "")]
)
def test_the_folder_says_the_class(name: str, label: str) -> None:
    assert embed.class_folder(name) == label


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """An untrained encoder of three channels, as from the registry."""
    made = {"channels": 3, "image_size": 16}
    config: dict[str, Any] = {"encoder": made, "layer": "block4", "dim": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    module = ImageEncoder(encoder_of(channels=3).eval(), config).eval()
    found = module.maps(torch.zeros(1, 3, 16, 16))
    config["layers"] = {name: maps.shape[1] for name, maps in found.items()}
    config["layer"] = module.layer = list(found)[-1]
    config["dim"] = config["layers"][module.layer]
    one = Loaded(module, config, "models:/x/1")
    monkeypatch.setattr(registry, "load", lambda uri: one)
    return one


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: object) -> None:
    monkeypatch.setattr(sys, "argv", ["embed", str(folder), *map(str, more)])
    embed.main()


def test_the_sheet_shows_what_is_printed(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = {f"{'cat' if i % 2 else 'dog'}/{i}.png": corpus.encoded(corpus.picture(i)) for i in range(14)}
    folder = write(tmp_path / "in", pictures | {"cat/copy.png": pictures["dog/0.png"], "cat/broken.png": b"no"})
    command(monkeypatch, folder, "--output", tmp_path / "x.parquet", "--sheet", tmp_path / "x.png", "--query", "dog/0.png")
    said = capsys.readouterr().out
    assert f"sheet of pictures -> {tmp_path / 'x.png'}" in said
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    side, gap, line = picture_sheet.SIDE, picture_sheet.GAP, picture_sheet.LINE
    query = sheet[gap + line : gap + line + side, gap : gap + side]
    assert (query == np.asarray(corpus.picture(0).resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0))).all()
    second = sheet[gap + line : gap + line + side, 2 * gap + side : 2 * (gap + side)]
    assert (second == query).all()  # the copy is the most alike
    named = sheet[gap + line + side : gap + line + side + picture_sheet.SMALL, gap : gap + side]
    assert named.min() < 150, "its name stands below it"


def test_of_a_long_name_its_end_stands_under_a_picture() -> None:
    font = picture_sheet._font(9)
    assert picture_sheet._end("cat/1.png", font) == "cat/1.png"
    long = picture_sheet._end("a folder/with a long name/that many share/0001.png", font)
    assert re.fullmatch(r"….*/0001\.png", long) and font.getlength(long) <= picture_sheet.SIDE


def test_a_query_may_come_from_anywhere(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = {f"a/{i}.png": corpus.encoded(corpus.picture(i)) for i in range(12)}
    folder = write(tmp_path / "in", pictures)
    new = write(tmp_path / "new", {"like 7.png": pictures["a/7.png"], "no.png": b"no", ".7.png": pictures["a/7.png"]})
    command(
        monkeypatch, folder, "--output", tmp_path / "x.parquet", "--sheet", tmp_path / "x.png", "--query", new / "like 7.png"
    )
    said = capsys.readouterr().out.splitlines()
    at = said.index(f"most like {new / 'like 7.png'}:")
    assert said[at + 1].split() == ["1.000", "a/7.png"] and sum(line.startswith("most like") for line in said) == 1
    assert parquet.read_table(tmp_path / "x.parquet")["id"].to_pylist() == sorted(pictures), "it is none of them"
    assert (tmp_path / "x.png").exists()
    with pytest.raises(UsageError, match=r"--query .*/new/no\.png cannot be read: it is damaged, or no image"):
        command(monkeypatch, folder, "--output", tmp_path / "y.parquet", "--query", new / "no.png")
    with pytest.raises(UsageError, match=r"--query a/7\.png#3: a/7\.png has no such tile"):
        command(monkeypatch, folder, "--output", tmp_path / "y.parquet", "--query", "a/7.png#3")
    with pytest.raises(UsageError, match="no such user is known here"):
        command(monkeypatch, folder, "--output", tmp_path / "y.parquet", "--query", "~nobody-here/7.png")
    shutil.make_archive(str(tmp_path / "in"), "zip", folder)
    command(monkeypatch, tmp_path / "in.zip", "--output", tmp_path / "z.parquet", "--query", new / "like 7.png")
    assert capsys.readouterr().out.splitlines()[2].split() == ["1.000", "7.png"]
    command(monkeypatch, folder, "--output", tmp_path / "h.parquet", "--query", new / ".7.png")
    assert " 1.000  a/7.png" in capsys.readouterr().out, "a hidden file"
    monkeypatch.chdir(new)
    command(monkeypatch, folder, "--output", tmp_path / "z.parquet", "--query", "like 7.png", "--dense")
    assert "most like like 7.png:" in capsys.readouterr().out
    single = write(tmp_path / "one", {"1.png": pictures["a/1.png"]})
    command(monkeypatch, single, "--output", tmp_path / "z.parquet", "--query", new / "like 7.png")
    assert capsys.readouterr().out.endswith("  1.png\n"), "one image is compared with too"
    command(
        monkeypatch,
        folder,
        "--output",
        tmp_path / "z.parquet",
        "--query",
        "a/7.png",
        "--neighbors",
        0,
        "--sheet",
        new / "x.png",
    )
    assert "no sheet of pictures: there is nothing to show" in capsys.readouterr().out and not (new / "x.png").exists()
    (folder / "a/link.png").symlink_to(new / "like 7.png")
    for place, query in ((tmp_path / "in.zip", "like 7.png"), (folder, "a/link.png")):  # by its path from here; not read
        command(monkeypatch, place, "--output", tmp_path / "z.parquet", "--query", query)
        assert f"most like {query}:\n     1.000" in capsys.readouterr().out


def test_another_layer_and_whole_maps_are_written(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "in", {f"{i}.png": corpus.encoded(corpus.picture(i)) for i in range(3)})
    command(monkeypatch, folder, "--output", tmp_path / "b.parquet", "--layer", "block1")
    command(monkeypatch, folder, "--output", tmp_path / "d.parquet", "--layer", "block1", "--dense")
    flat, dense = (parquet.read_table(tmp_path / name) for name in ("b.parquet", "d.parquet"))
    shape = tuple(map(int, dense.schema.metadata[b"shape"].split(b",")))
    assert shape[0] == loaded.config["layers"]["block1"] and len(shape) == 3
    maps = np.stack(dense["features"].to_numpy()).reshape(3, *shape)
    assert maps.mean((2, 3)) == pytest.approx(np.stack(flat["features"].to_numpy()), abs=1e-5)
    with pytest.raises(UsageError, match=r"--layer block9: models:/x/1 has block1"):
        command(monkeypatch, folder, "--output", tmp_path / "e.parquet", "--layer", "block9")


@pytest.mark.parametrize(("fit", "middle"), [("crop", 1.0), ("stretch", 2 / 3), ("pad", 2 / 3)])
def test_the_encoder_makes_squares_as_the_training_did(fit: str, middle: float) -> None:
    config: dict[str, Any] = {"encoder": {"channels": 1, "image_size": 12}, "layer": "block1", "mean": [0.0], "std": [1.0]}
    module = ImageEncoder(encoder_of(channels=1, size=12), config | {"fit": fit})
    wide = torch.zeros(1, 1, 24, 48)
    wide[..., 8:40] = 1.0  # two thirds of the width
    seen = module.prepare(wide)
    rows = seen[0, 0, 6] > 0.5
    assert seen.shape[-2:] == (12, 12) and float(rows.double().mean()) == pytest.approx(middle, abs=0.01)
    assert float((seen[0, 0, :, 6] > 0.5).double().mean()) == (0.5 if fit == "pad" else 1.0)


def test_an_encoder_of_sixteen_bits_takes_them() -> None:
    config: dict[str, Any] = {"encoder": {"channels": 1, "image_size": 8}, "layer": "block1", "mean": [0.0], "std": [1.0]}
    fine, plain = (ImageEncoder(encoder_of(channels=1, size=8), config | more) for more in ({"bits": 16}, {}))
    x = torch.full((1, 1, 8, 8), 65535).to(torch.uint16)
    assert float(fine.prepare(x).max()) == 1.0 and float(fine.prepare(x.new_full((1, 1, 8, 8), 257)).max()) == pytest.approx(
        1 / 255
    )
    with pytest.raises(ValueError, match=r"must be in 0\.\.255"):
        plain.prepare(x)
