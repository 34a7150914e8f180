"""An encoder trained on 12-bit images sees the images it embeds scaled from 12 bits, whatever their own largest value."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.embed import embed
from tasks.register.registry import Loaded
from tasks.runtime import files
from tests.support import corpus, project
from tests.tasks.prepare.test_prepare import write


def test_images_are_scaled_as_those_of_the_training(tmp_path: Path) -> None:
    values = np.full((16, 16), 500, np.uint16)
    folder = write(tmp_path / "in", {"dark.png": corpus.encoded(Image.fromarray(values))})

    def program(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float()

    facts = {"encoder": {"image_size": 16, "channels": 1}}
    for more, expected in (({"bit_depth": 12}, (500 * 255 + 2047) // 4095), ({}, (500 * 255 + 511) // 1023)):
        names, features = embed(folder, Loaded(program, facts | more, "models:/x/1"))
        assert names == ["dark.png"] and (features == expected).all()


def test_an_encoder_of_8_bits_takes_deep_images_by_their_own_depth_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ramp = (np.arange(256).reshape(16, 16) * 16).astype(np.uint16)  # to 4080, as a camera of 12 bits gives it
    clear = np.dstack([np.full((16, 16, 3), 9, np.uint8), np.zeros((16, 16), np.uint8)])
    pictures = {"deep.png": ramp, "plain.png": (ramp // 16).astype(np.uint8), "clear.png": clear}
    folder = write(tmp_path / "in", {name: corpus.encoded(Image.fromarray(x)) for name, x in pictures.items()})
    flat = Loaded(lambda images: images.flatten(1).float(), {"encoder": {"image_size": 16, "channels": 1}}, "models:/x/1")
    names, features = embed(folder, flat)
    of = dict(zip(names, features, strict=True))
    assert (of["deep.png"] - of["plain.png"]).abs().max() <= 1
    said = capsys.readouterr().err
    assert "note: 1 image: more than 8 bits a pixel, scaled from 12 bits (the largest value is 4080)" in said
    assert "note: 1 image: transparent all over, which leaves nothing but white" in said


def test_few_levels_of_grey_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a thermal camera: 7000 to 7510 of 14 bits."""
    thermal = (7000 + 2 * np.arange(256).reshape(16, 16)).astype(np.uint16)
    folder = write(
        tmp_path / "in", {"a.png": corpus.encoded(Image.fromarray(thermal)), "b.png": corpus.encoded(corpus.picture(1))}
    )
    flat = Loaded(lambda images: images.flatten(1).float(), {"encoder": {"image_size": 16, "channels": 1}}, "models:/x/1")
    embed(folder, flat)
    assert "note: 1 image: few levels of grey are left of what the file has" in capsys.readouterr().err


def test_an_encoder_remembers_the_depth_of_its_images(tmp_path: Path) -> None:
    home = project.training_project(tmp_path / "p")
    prepared = home / "data/prepared"
    files.write_json(prepared / "meta.json", files.read_json(prepared / "meta.json") | {"bit_depth": 12})
    files.seal(prepared)
    done = project.command(home, "tasks.pretrain", "random_init", "0")
    assert done.returncode == 0, done.stderr
    assert files.read_json(home / "out/encoders/random_init-0/encoder.json")["bit_depth"] == 12
