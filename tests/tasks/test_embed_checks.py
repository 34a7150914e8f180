"""What can be known before the work is checked before it: the query, the space on the disk, and paths with a ~."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet

from tasks import embed
from tasks.register import registry
from tasks.register.registry import Loaded
from tasks.runtime.errors import EnvironmentFault, UsageError
from tests.support import corpus
from tests.tasks.prepare.test_bands import npy, values
from tests.tasks.prepare.test_prepare import write

FACTS: dict[str, Any] = {"encoder": {"image_size": 8, "channels": 3}, "dim": 192}


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1).to(torch.float32)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command on a folder of three images."""
    folder = write(tmp_path / "in", {f"{i}.png": corpus.encoded(corpus.picture(i)) for i in range(3)})

    def run(*more: str, path: str = str(folder)) -> None:
        monkeypatch.setattr(sys, "argv", ["embed", path, *more])
        embed.main()

    return run


def test_a_query_is_looked_for_before_an_encoder_is_loaded(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "load", lambda uri: pytest.fail("the work began"))
    with pytest.raises(UsageError, match=r"--query in/0\.png is not an image below"):
        start("--query", "in/0.png", "--output", str(tmp_path / "x.parquet"))


def test_a_query_may_be_given_by_its_path_from_here_or_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "in", {"cat/0.png": corpus.encoded(corpus.picture(0))})
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for place in (folder, tmp_path / "link", Path("in"), Path("../" + tmp_path.name) / "in"):
        for query in ("cat/0.png", "./cat/0.png", f"{place}/cat/0.png", str(folder / "cat/0.png"), "cat/0.png#001"):
            assert embed.below(place, query) == ("cat/0.png#001" if "#" in query else "cat/0.png"), (place, query)
    assert embed.below(folder, "cat/1.png") == "cat/1.png" and embed.below(folder, None) is None


def test_one_image_is_no_folder(start: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0\.png is one image; give its folder, and --query 0\.png"):
        start("--output", str(tmp_path / "x.parquet"), path=str(tmp_path / "in/0.png"))


@pytest.mark.parametrize(("name", "value"), [("--neighbors", "-1"), ("--threshold", "nan"), ("--threshold", "-1.5")])
def test_a_number_that_means_nothing_is_refused(start: Any, tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value}; "):
        start(f"{name}={value}", "--output", str(tmp_path / "x.parquet"))


def test_the_home_of_nobody_is_a_usage_error(start: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="~nobodyx/in: no such user is known here"):
        start("--output", str(tmp_path / "x"), path="~nobodyx/in")


def test_an_output_is_a_file_of_its_own(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "load", lambda uri: Loaded(flat, FACTS, "models:/x/1"))
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", str(tmp_path / "pipe")):
        with pytest.raises(UsageError, match="is no file but a device or a pipe"):
            start("--output", path)
    with pytest.raises(UsageError, match="--output and --sheet are both"):
        start("--output", str(tmp_path / "x"), "--sheet", str(tmp_path / "in" / ".." / "x"))
    (tmp_path / "real.parquet").touch()
    (tmp_path / "link.parquet").symlink_to("real.parquet")
    start("--output", str(tmp_path / "link.parquet"))
    assert (tmp_path / "link.parquet").is_symlink() and len(parquet.read_table(tmp_path / "real.parquet")) == 3


def test_no_other_file_is_written_over(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "load", lambda uri: pytest.fail("the work began"))
    (tmp_path / "params.yaml").write_text("data: mine")
    picture = tmp_path / "in" / "0.png"
    before = picture.read_bytes()
    for options in (["--output", picture], ["--output", tmp_path / "params.yaml"], ["--sheet", tmp_path / "params.yaml"]):
        with pytest.raises(UsageError, match=r"is there and no (parquet|PNG) file; name another one"):
            start(*map(str, options))
    with pytest.raises(UsageError, match=r"x\.csv: what is written is a parquet file; name it x\.parquet"):
        start("--output", str(tmp_path / "x.csv"))
    for output in (["--sheet", tmp_path / "in" / "sheet.png"], ["--output", tmp_path / "in" / "x.parquet"]):
        with pytest.raises(UsageError, match="would lie among the images in"):
            start(*map(str, output))
    assert picture.read_bytes() == before and (tmp_path / "params.yaml").read_text() == "data: mine"


def test_links_out_are_read_when_asked_for(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "load", lambda uri: Loaded(flat, FACTS, "models:/x/1"))
    outside = write(tmp_path / "out", {"far.png": corpus.encoded(corpus.picture(9))})
    (tmp_path / "in" / "near.png").symlink_to(outside / "far.png")
    monkeypatch.chdir(tmp_path)
    for more, count in (((), 3), (("--follow-links",), 4)):
        start("--output", str(tmp_path / "x.parquet"), *more)
        assert len(parquet.read_table(tmp_path / "x.parquet")) == count


@pytest.mark.fault("F21")
def test_a_disk_that_is_too_small_is_seen_before_the_work(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        registry, "load", lambda uri: Loaded(lambda images: pytest.fail("the work began"), FACTS, "models:/x/1")
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 4 * 192))
    with pytest.raises(
        EnvironmentFault, match=r"x\.parquet needs about 0 MB but 0 MB are free there; name a file on another disk"
    ):
        start("--output", str(tmp_path / "x.parquet"))


def test_a_tilde_is_the_home(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(registry, "load", lambda uri: Loaded(flat, FACTS, "models:/x/1"))
    start("--output", "~/x.parquet", path="~/in")
    assert parquet.read_table(tmp_path / "x.parquet")["id"].to_pylist() == ["0.png", "1.png", "2.png"]


def test_images_are_treated_as_those_of_the_training(tmp_path: Path) -> None:
    x = values(5)
    folder = write(tmp_path / "in", {"a.npy": npy(x)})
    facts = FACTS | {"encoder": {"image_size": len(x), "channels": 5}, "bits": 16, "bit_depth": 16}
    names, features = embed.embed(folder, Loaded(flat, facts, "models:/x/1"))
    seen = x.transpose(2, 0, 1).ravel().astype(np.float32) / 65535
    assert names == ["a.npy"] and features[0].tolist() == seen.tolist()
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, :8] = 255
    folder = write(tmp_path / "wide", {"a.npy": npy(wide)})
    for fit, mean in (("crop", 0), ("stretch", 85)):
        _, features = embed.embed(folder, Loaded(flat, FACTS | {"fit": fit}, "models:/x/1"))
        assert abs(float(features.mean()) - mean) < 12
