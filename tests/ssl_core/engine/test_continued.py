"""Trainings that go on from weights: what is frozen stays, what is averaged is exported."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ssl_core.config import ConfigError
from ssl_core.engine.continued import ContinueConfig, first_blocks, freeze, slowed
from ssl_core.engine.encoders import num_parameters
from ssl_core.methods.random_init import RandomInit
from ssl_core.parts.normalization import split_batch_norm
from tasks.runtime import params
from tests.conftest import ROOT
from tests.support.configs import AUGMENT, encoder_of

PLAIN = ContinueConfig(lr=0.1, warmup=0.2, frozen_blocks=0, frozen_norm=False, average=0.0)
X = torch.sin(torch.arange(4 * 1 * 32 * 32) * 0.37).reshape(4, 1, 32, 32)


def step(encoder: torch.nn.Module) -> None:
    """One of a gradient descent, in training mode."""
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], 0.1)
    encoder.train()(X).square().sum().backward()
    optimizer.step()


def test_a_training_from_weights_is_slower_and_warms_up_longer() -> None:
    values = params.load(ROOT / "params.yaml")
    anew = params.method_params(values, "simclr").train
    values["encoder"]["weights"] = "weights/mine.pth"
    chosen = params.method_params(values, "simclr")
    assert chosen.train == slowed(anew, chosen.continued) == replace(anew, lr=anew.lr * 0.1, warmup=0.2)
    assert params.method_params(values, "random_init").encoder.weights is None
    values["method"]["simclr"]["encoder"] = {"continued": {"frozen_blocks": 2}}
    assert params.method_params(values, "simclr").continued == replace(chosen.continued, frozen_blocks=2)


def test_the_first_blocks_are_frozen_whatever_they_are_called() -> None:
    for changes in ({}, {"name": "vit", "width": 32, "depth": 4}, {"name": "timm/resnet10t", "input_size": 32}):
        encoder = encoder_of(1, 32, **changes)
        before, maps = {k: v.clone() for k, v in encoder.named_parameters()}, encoder.eval().blocks(X)
        numbers, _ = first_blocks(encoder, 1, 32)
        freeze(encoder, replace(PLAIN, frozen_blocks=2, frozen_norm=True), 1, 32)
        assert 2 in numbers and [p.requires_grad for p in encoder.parameters()] == [number >= 2 for number in numbers]
        step(encoder)
        frozen = [name for name, p in encoder.named_parameters() if not p.requires_grad]
        assert 0 < len(frozen) < len(before)
        changed = {name for name, p in encoder.named_parameters() if not torch.equal(before[name], p)}
        assert changed and not changed & set(frozen)
        for old, new in zip(maps[:2], encoder.eval().blocks(X)[:2], strict=True):
            assert torch.equal(old, new)


def test_one_block_must_be_left() -> None:
    with pytest.raises(ConfigError, match=r"frozen_blocks is 4; of 4 blocks one must train"):
        freeze(encoder_of(), replace(PLAIN, frozen_blocks=4), 1, 16)


def test_frozen_norms_keep_their_statistics() -> None:
    still, moving = encoder_of(1, 32), encoder_of(1, 32)
    freeze(still, replace(PLAIN, frozen_norm=True), 1, 32)
    freeze(moving, PLAIN, 1, 32)
    for encoder, kept in ((still, True), (moving, False)):
        before = encoder.state_dict()["stem.1.running_mean"].clone()
        features = encoder.train()(X)
        assert torch.equal(encoder.state_dict()["stem.1.running_mean"], before) == kept
        assert torch.equal(features, encoder.eval()(X)) == kept


def test_frozen_norms_keep_their_statistics_where_a_method_splits_them() -> None:
    encoder = encoder_of(1, 32)
    freeze(encoder, replace(PLAIN, frozen_norm=True), 1, 32)
    split_batch_norm(encoder, 2)
    before = encoder.state_dict()["stem.1.running_mean"].clone()
    assert torch.equal(encoder.train()(X), encoder.eval()(X))
    assert torch.equal(encoder.state_dict()["stem.1.running_mean"], before)


@pytest.mark.fault("R6")
def test_the_average_is_exported_and_is_in_the_checkpoint() -> None:
    info = SimpleNamespace(mean=(0.5,), std=(0.2,))
    method = RandomInit(encoder_of(1, 32), RandomInit.Config(), AUGMENT, info)  # type: ignore[arg-type]
    assert method.exported is method.encoder
    method.keep_average(0.75)
    first = {k: v.clone() for k, v in method.encoder.state_dict().items()}
    step(method.encoder)
    method.follow()
    assert method.exported is method.average and method.param_groups()[0]["params"] == list(method.encoder.parameters())
    for name, value in method.exported.state_dict().items():
        other = method.encoder.state_dict()[name]
        wanted = torch.lerp(first[name], other, 0.25) if value.is_floating_point() else other
        torch.testing.assert_close(value, wanted)
    assert {f"average.{name}" for name in first} <= method.state_dict().keys()
    assert num_parameters(method.exported) == num_parameters(method.encoder)
