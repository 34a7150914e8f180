"""``data.name`` is what a folder or an archive is called: two folders may have the same name of their own."""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tasks.prepare.source import open_source
from tasks.runtime import params
from tests.conftest import ROOT


@pytest.mark.parametrize("given", [None, "hand signs"])
def test_a_given_name_goes_before_the_folders_own(tmp_path: Path, given: str | None) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("L", (16, 16), 80 * number).save(tmp_path / f"images/{number}.png")
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(tmp_path / "images", "images")
    shipped = params.data_config(params.load(ROOT / "params.yaml"))
    for kind, path in (("folder", "images"), ("archive", "images.tar")):
        config = replace(shipped, source=kind, path=str(tmp_path / path), name=given)
        assert open_source(config).name == (given or "images")
