"""A training starts from an encoder of the registry; what it started from stands in the next version's tags and card."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssl_core.engine.encoders import build
from ssl_core.engine.weights import put
from tasks.pretrain import weights
from tasks.register.card import _start
from tasks.runtime import saved_encoder
from tasks.runtime.errors import IntegrityError, UsageError
from tests.support import registered as made
from tests.support.configs import ENCODER


def test_the_champion_is_a_start(original: Path) -> None:
    start = weights.find(replace(ENCODER, weights="models:/ssl-example@champion"))
    assert start is not None and start.source.startswith("models:/ssl-example/") and len(start.sha256) == 64
    assert (start.mean, start.std) == ((0.4,), (0.3,))  # those of its training, not of the data at hand
    encoder, theirs = build(ENCODER, 1, 28, seed=9), saved_encoder.load(original / "out/encoders/simclr-0")[0]
    assert put(encoder, start.tensors, start.source).share == 1.0
    assert all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert start.source in _start(start.facts())[0] and start.sha256 in _start(start.facts())[0]


def test_no_such_encoder_and_a_changed_one_are_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="there is no models:/ssl-example@best"):
        weights.find(replace(ENCODER, weights="models:/ssl-example@best"))
    with (made.stored() / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(IntegrityError):
        weights.find(replace(ENCODER, weights="models:/ssl-example@champion"))
