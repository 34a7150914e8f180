"""A folder of images becomes features and neighbors with one command."""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from tasks import embed
from tasks.register import registry
from tasks.runtime.errors import DataError, UsageError
from tests.conftest import textured_images
from tests.support import registered as made


@pytest.fixture
def encoder(monkeypatch):
    """The registered champion, fetched once."""
    root = made.registered()
    for name, value in made.environment(root).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(root)
    return _champion()


_loaded: list[registry.Loaded] = []


def _champion():
    if not _loaded:
        _loaded.append(registry.load())
    return _loaded[0]


@pytest.fixture
def folder(tmp_path):
    """Images in nested folders: a copy, a picture of another size, a broken file and a text file among them."""
    pictures = textured_images(6, 1, 28)[:, 0]
    place = tmp_path / "my pictures"
    (place / "deep" / "er").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(place / f"image {number}.png")
    Image.fromarray(pictures[2]).save(place / "deep" / "er" / "copy of 2 é.png")
    Image.fromarray(pictures[3]).resize((60, 80)).save(place / "deep" / "large.jpg")
    (place / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (place / "notes.txt").write_text("not an image")
    return place


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["embed", *map(str, arguments)])
    embed.main()


def test_every_readable_image_gets_the_features_the_evaluation_would_give_it(encoder, folder, capsys):
    names, features = embed.embed(folder, encoder)
    assert names == sorted(names) and len(names) == 8
    images = torch.from_numpy(textured_images(6, 1, 28))
    expected = made.expected(made.registered(), "simclr-0", "block3", images)
    assert torch.allclose(features[[names.index(f"image {i}.png") for i in range(6)]], expected, atol=1e-5)
    said = capsys.readouterr().err
    assert "skipped 'broken.png'" in said and "100 %" in said


def test_the_command_writes_parquet_and_prints_neighbors_and_near_duplicates(encoder, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "load", lambda uri: encoder)
    output = tmp_path / "out.parquet"
    command(monkeypatch, folder, "--output", output, "--neighbors", 3, "--query", "image 2.png")
    table = parquet.read_table(output)
    names, features = embed.embed(folder, encoder)
    assert table["id"].to_pylist() == names
    assert np.array_equal(np.stack(table["features"].to_numpy()), features.numpy())
    assert table.schema.metadata[b"model"].decode() == encoder.uri
    printed = capsys.readouterr().out.splitlines()
    start = printed.index("most like image 2.png:")
    assert "copy of 2 é.png" in printed[start + 1] and "1.000" in printed[start + 1]
    assert len(printed) == start + 4, "a search shows nothing else"
    command(monkeypatch, folder, "--output", output, "--neighbors", 3, "--query", "image 2.png", "--all")
    printed = capsys.readouterr().out.splitlines()
    pairs = printed[printed.index(next(line for line in printed if line.startswith("near-duplicates"))) :]
    assert any("copy of 2" in line and "image 2.png" in line for line in pairs)


def test_an_image_is_not_its_own_neighbor_even_among_many_copies():
    features = torch.cat([torch.ones(5, 4), torch.eye(4)])
    similarity, index = embed.likeness(features, 2)
    assert similarity.shape == index.shape == (9, 2)
    assert (index != torch.arange(9)[:, None]).all()
    assert embed.duplicates(features, 0.999).count == 10


def test_the_neighbors_of_some_are_those_that_all_have():
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    whole, some = embed.likeness(features, 3), embed.likeness(features, 3, 2)
    assert all(torch.equal(own, every[:2]) for own, every in zip(some, whole, strict=True))


def test_a_list_of_hashes_beside_the_images_does_no_harm(encoder, folder):
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  image 0.png\n")
    assert len(embed.embed(folder, encoder)[0])


@pytest.mark.parametrize(("count", "said"), [(1, "1 image ->"), (2, "2 images ->")])
def test_a_folder_of_one_or_two_images_works(encoder, folder, tmp_path, monkeypatch, capsys, count, said):
    monkeypatch.setattr(registry, "load", lambda uri: encoder)
    for path in sorted(p for p in folder.rglob("*") if p.is_file())[count:]:
        path.unlink()
    (folder / "broken.png").unlink(missing_ok=True)
    Image.fromarray(textured_images(1, 1, 28)[0, 0]).save(folder / "image 0.png")
    command(monkeypatch, folder, "--output", tmp_path / "out.parquet")
    shown = capsys.readouterr().out
    assert said in shown and "near-duplicates" not in shown


def test_what_cannot_be_embedded_is_said_in_one_line(encoder, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        embed.embed(tmp_path / "nothing", encoder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no readable images"):
        embed.embed(tmp_path / "empty", encoder)


def test_of_a_fault_that_many_files_have_a_few_are_named(encoder, tmp_path, capsys):
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(DataError, match=r"none of the 8 images in .* can be used, see above"):
        embed.embed(tmp_path, encoder)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: skipped")]
    assert len(said) == 6 and said[5].startswith("warning: skipped 3 more: ")


def test_a_query_that_is_not_there_is_a_usage_error(encoder, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "load", lambda uri: encoder)
    with pytest.raises(UsageError, match="--query"):
        command(monkeypatch, folder, "--output", tmp_path / "out.parquet", "--query", "no.png")
    known = next(path for path in sorted(folder.rglob("*.png")) if path.parent != folder)
    with pytest.raises(UsageError, match=f"below .*; is it {known.relative_to(folder)}"):
        embed.find(folder, embed.open_images(folder), known.name)
    with pytest.raises(UsageError, match="give its path there, or that of any other file"):
        embed.find(folder, embed.open_images(folder), "/elsewhere/new.png")


def test_a_query_that_is_damaged_is_refused_before_the_others_are_read(encoder, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "load", lambda uri: encoder)
    (folder / "image 0.png").rename(folder / "two\nlines.png")
    with pytest.raises(UsageError, match=r"--query broken\.png cannot be read"):
        command(monkeypatch, folder, "--output", tmp_path / "out.parquet", "--query", "broken.png")
    assert not (tmp_path / "out.parquet").exists()
    command(monkeypatch, folder, "--output", tmp_path / "out.parquet", "--query", "two\nlines.png")
    assert "most like two\\nlines.png:" in capsys.readouterr().out


def test_a_name_in_an_old_encoding_is_escaped_and_loses_nothing(encoder, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "load", lambda uri: encoder)
    odd = os.fsdecode(b"k\xe4fer.png")
    (folder / "image 0.png").rename(folder / odd)
    command(monkeypatch, folder, "--output", tmp_path / "out.parquet", "--query", odd)
    table = parquet.read_table(tmp_path / "out.parquet")
    assert "k\\xe4fer.png" in table["id"].to_pylist() and len(table) == 8
    assert "most like k\\xe4fer.png:" in capsys.readouterr().out


@pytest.mark.parametrize(("output", "reason"), [("", "is a folder"), ("no/such/out.parquet", "no such folder")])
def test_an_output_that_cannot_be_written_is_named_before_the_work(folder, tmp_path, monkeypatch, output, reason):
    monkeypatch.setattr(registry, "load", lambda uri: pytest.fail("the work began"))
    with pytest.raises(UsageError, match=reason):
        command(monkeypatch, folder, "--output", tmp_path / output)
    with pytest.raises(OSError):
        command(monkeypatch, folder, "--output", "/proc/out.parquet")


def test_a_failed_write_leaves_no_temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "write_table", lambda table, path: (path.write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        embed.write(tmp_path / "out.parquet", ["a"], torch.ones(1, 4), "models:/m/1")
    assert not list(tmp_path.iterdir())
