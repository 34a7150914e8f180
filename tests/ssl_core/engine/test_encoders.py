"""Encoders: shapes, stems by image size, seeds, names that other libraries know."""

import dataclasses

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from ssl_core.config import ConfigError, typed
from ssl_core.engine import distributed
from ssl_core.engine.encoders import Conv3x3, EncoderConfig, GroupNorm, build, open_residuals, pool
from ssl_core.engine.transformer import DropPath, TransformerLayer, sincos_positions
from ssl_core.methods.mae import MAEConfig
from ssl_core.parts.memory import momentum_copy
from tasks.runtime import params
from tests.conftest import ROOT

SMALL = EncoderConfig(name="small", width=8, depth=1, patch_size=4, norm="batch")
NAMES = ["small", "resnet18", "vit", "timm/mobilenetv3_small_100", "timm/efficientnet_b0"]


def named(name: str, **kwargs: object) -> EncoderConfig:
    return dataclasses.replace(SMALL, name=name, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 64)])
def test_features_are_the_pooled_last_block(name: str, channels: int, size: int) -> None:
    larger = {"input_size": 64} if name.startswith("timm/") else {}
    encoder = build(named(name, width=32, depth=2, **larger), channels, size, seed=0).eval()
    x = torch.randn(2, channels, size, size)
    with torch.no_grad():
        maps, features = encoder.blocks(x), encoder(x)
    assert features.shape == (2, encoder.dim)
    assert maps[-1].shape[:2] == (2, encoder.dim) and len(maps) >= 2
    torch.testing.assert_close(features, pool(maps[-1]))


@pytest.mark.parametrize(("size", "expected"), [(32, 4), (64, 4), (224, 7)])
def test_the_stem_follows_the_image_size(size: int, expected: int) -> None:
    encoder = build(named("resnet18"), 3, size, seed=0)
    with torch.no_grad():
        assert encoder.blocks(torch.zeros(2, 3, size, size))[-1].shape[-1] == expected


def test_the_shipped_encoder_is_cheap_enough_for_a_cpu() -> None:
    shipped = params.method_params(params.load(ROOT / "params.yaml"), "simclr").encoder
    encoder = build(shipped, 3, 32, 0)
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, 32, 32))
    assert 10e6 < counter.get_total_flops() <= 20e6  # two a multiplication with its addition


def test_resnet_weights_load_into_torchvisions_own() -> None:
    ours = build(named("resnet18"), 3, 224, seed=0).eval()
    theirs = torchvision.models.resnet18().eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    a = build(SMALL, 1, 28, seed=5).state_dict()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    b, c = build(SMALL, 1, 28, seed=5).state_dict(), build(SMALL, 1, 28, seed=6).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state), "building drew from the global generator"
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_group_norm_leaves_no_batch_statistics() -> None:
    encoder = build(named("small", norm="group"), 1, 28, seed=0).train()
    x = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]), rtol=1e-4, atol=1e-5)
    assert not [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_vit_encodes_any_subset_of_its_patches() -> None:
    encoder = build(named("vit", width=32, depth=2), 1, 28, seed=0).eval()
    x = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        every = torch.arange(49).expand(3, 49)
        torch.testing.assert_close(encoder.tokens(x, every)[-1], encoder.tokens(x)[-1])
        assert encoder.tokens(x, every[:, :12])[-1].shape == (3, 13, 32)


def test_positions_of_a_smaller_image_are_spread_over_the_same_grid() -> None:
    """What a network trained on 6 x 6 patches has seen covers the 8 x 8 it is used on: no position lies outside."""
    assert torch.equal(sincos_positions(8, 16, 8), sincos_positions(8, 16))
    slowest = 10000.0 ** (-3 / 4)  # the code grows with the place: sin of a small angle
    at = {side: (sincos_positions(side, 16, 8)[:side, 3] / slowest).round(decimals=3) for side in (4, 6, 16)}
    torch.testing.assert_close(at[4], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    torch.testing.assert_close(at[6], (torch.arange(6) + 0.5) * 8 / 6 - 0.5, rtol=0, atol=1e-3)
    torch.testing.assert_close(at[16], (torch.arange(16) + 0.5) / 2 - 0.5, rtol=0, atol=1e-3)


def test_the_class_token_can_be_the_feature() -> None:
    encoder = build(named("vit", width=32, depth=2, feature="class"), 1, 28, seed=0).eval()
    x = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), encoder.tokens(x)[-1][:, 0])
        assert [m.shape for m in encoder.blocks(x)] == [(3, 32, 1, 1)] * 2


def test_a_layer_with_nothing_dropped_is_pytorchs_own() -> None:
    torch.manual_seed(0)
    layer, x = TransformerLayer(64), torch.randn(2, 5, 64)
    torch.testing.assert_close(layer(x, torch.ones(2, 2, 1, 1)), layer(x))
    assert torch.equal(layer(x, torch.zeros(2, 2, 1, 1)), x)


def test_paths_are_dropped_at_a_rate_that_grows_and_the_draws_go_on_after_a_resume() -> None:
    drop = DropPath(0.4, 3)
    kept = torch.stack([drop(500) for _ in range(4)])
    shares = (kept > 0).float().mean((0, 2, 3, 4, 5))
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.8, 0.6]), rtol=0, atol=0.03)
    torch.testing.assert_close(kept.mean((0, 2, 3, 4, 5)), torch.ones(3), rtol=0, atol=0.05)
    assert not torch.equal(kept[0], kept[1])
    resumed = DropPath(0.4, 3)
    resumed.load_state_dict(drop.state_dict())
    assert torch.equal(resumed(500), drop(500))


def test_the_same_paths_are_dropped_by_one_process_and_by_two(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = DropPath(0.5, 4)(8)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        assert torch.equal(DropPath(0.5, 4)(4), whole[:, rank::2])  # row n of a batch is of process n mod 2


def test_only_a_training_network_drops_and_no_momentum_copy() -> None:
    encoder = build(named("vit", width=32, depth=3, drop_path=0.9), 1, 28, seed=0)
    x = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        plain = encoder.eval()(x)
        assert not torch.allclose(encoder.train()(x), plain)
        torch.testing.assert_close(momentum_copy(encoder)(x), plain)


def test_an_encoder_saved_before_the_newer_fields_is_still_described() -> None:
    old = {"name": "vit", "width": 8, "depth": 1, "patch_size": 4, "norm": "batch"}
    assert typed(EncoderConfig, old, "encoder") == EncoderConfig(**old, drop_path=0.0, feature="mean")  # type: ignore[arg-type]


def test_pixels_are_the_pixels() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(build(named("pixels"), 3, 8, 0)(x), x.flatten(1))


@pytest.mark.parametrize("config", [named("timm/resnet19"), named("timm/efficientnet_b0"), named("vit", patch_size=5)])
def test_an_impossible_encoder_is_refused(config: EncoderConfig) -> None:
    with pytest.raises(ConfigError):
        build(config, 3, 28, 0)


@pytest.mark.parametrize("width", [1, 3, 5, 6, 12, 20, 100])
def test_every_width_of_the_small_encoder_has_groups_to_normalize(width: int) -> None:
    """CPC asks for groups, whatever the width that the other methods share with it."""
    encoder = build(named("small", norm="group", width=width), 3, 32, 0)
    assert encoder(torch.randn(2, 3, 32, 32)).shape == (2, 8 * width)


@pytest.mark.parametrize("width", [2, 30, 100, 196])
def test_a_width_that_tokens_cannot_have_is_refused_by_what_is_right(width: int) -> None:
    rule = rf"width is {width}; .*must be a multiple of 4 and of the number of heads"
    with pytest.raises(ConfigError, match=f"encoder.{rule}"):
        named("vit", width=width)
    with pytest.raises(ConfigError, match=f"method.mae.{rule}"):
        typed(MAEConfig, {"mask": 0.75, "width": width, "depth": 1, "normalize": True}, "method.mae")


def test_backward_survives_the_shapes_that_crashed() -> None:
    """8 to 16 channels at 96 px in channels_last: a strided 1x1 convolution corrupted memory here."""
    encoder = build(SMALL, 3, 96, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for _ in range(3):
        encoder(torch.randn(8, 3, 96, 96)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_a_convolution_on_one_pixel_is_its_centre_tap_and_repeats_exactly() -> None:
    """oneDNN's own bfloat16 backward pass gave other gradients at every call here."""
    torch.manual_seed(0)
    ours, plain = Conv3x3(96, 192, 3, 2, 1, bias=False), torch.nn.Conv2d(96, 192, 3, 2, 1, bias=False)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(64, 96, 1, 1)
    torch.testing.assert_close(ours(x), plain(x))
    found = set()
    for _ in range(10):
        scribble = [torch.full((50_000 + i,), float("nan")) for i in range(6)]
        del scribble
        ours.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = ours(x)
        out.float().square().mean().backward()
        found.add(ours.weight.grad.numpy().tobytes())  # type: ignore[union-attr]
    assert len(found) == 1 and torch.isfinite(ours.weight.grad).all()  # type: ignore[arg-type]


def test_tiles_of_a_few_pixels_pass_through_any_resnet() -> None:
    encoder = build(named("resnet18"), 3, 32, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        encoder(torch.randn(8, 3, 8, 8)).float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_group_norm_is_float32_under_autocast_and_returns_what_it_got() -> None:
    norm, x = GroupNorm(8, 16), torch.randn(4, 16, 5, 5)
    expected = torch.nn.functional.group_norm(x.bfloat16().float(), 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x.bfloat16())
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected.bfloat16())


@pytest.mark.parametrize("name", ["small", "resnet18", "resnet50"])
def test_open_residuals_switches_on_every_branch_and_nothing_else(name: str) -> None:
    encoder = build(named(name), 3, 32, 0)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    after = open_residuals(encoder).state_dict()
    changed = {k for k in after if not torch.equal(before[k], after[k])}
    assert changed and all(not before[k].any() and (after[k] == 1).all() for k in changed)
    assert changed == {k for k in before if k.endswith(".weight") and not before[k].any()}


def test_open_residuals_leaves_a_transformer_and_trained_weights_alone() -> None:
    for encoder in (build(named("vit", width=64), 3, 32, 0), open_residuals(build(SMALL, 3, 32, 0))):
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        assert all(torch.equal(before[k], v) for k, v in open_residuals(encoder).state_dict().items())
