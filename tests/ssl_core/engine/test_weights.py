"""Somebody's weights in an encoder: all of them, or a line that says why not."""

import pytest
import torch
from torch.nn import functional as F

from ssl_core.config import ConfigError
from ssl_core.engine.weights import put
from tests.support.configs import encoder_of

VIT = {"name": "timm/vit_tiny_patch16_224"}
X = torch.sin(torch.arange(2 * 3 * 32 * 32) * 0.37).reshape(2, 3, 32, 32)


def test_the_same_network_gives_the_same_features() -> None:
    source, target = encoder_of(3, 32, seed=1), encoder_of(3, 32, seed=2)
    loading = put(target, source.state_dict(), "w.pth")
    assert loading.share == 1.0 and not (loading.missing or loading.unexpected or loading.resized)
    assert torch.equal(target.eval()(X), source.eval()(X))


@pytest.mark.parametrize("prefix", ["module.", "backbone.0.", "encoder."])
def test_a_prefix_and_a_head_are_seen(prefix: str) -> None:
    source, target = encoder_of(seed=1), encoder_of(seed=2)
    weights = {prefix + name: value for name, value in source.state_dict().items()} | {"head.weight": torch.ones(3, 3)}
    loading = put(target, weights, "w.pth")
    assert loading.share == 1.0 and loading.unexpected == ("head.weight",)
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True))


def test_a_grey_image_gives_what_it_gives_in_color() -> None:
    source, target = encoder_of(3, 32, seed=1), encoder_of(1, 32, seed=2)
    loading = put(target, source.state_dict(), "w.pth")
    assert loading.resized == ("stem.0.weight",) and "1 resized (stem.0.weight)" in str(loading)
    grey = X[:, :1]
    torch.testing.assert_close(target.eval()(grey), source.eval()(grey.expand(-1, 3, -1, -1)))


def test_grey_weights_see_the_mean_of_the_colors() -> None:
    source, target = encoder_of(1, 32, seed=1), encoder_of(3, 32, seed=2)
    put(target, source.state_dict(), "w.pth")
    torch.testing.assert_close(target.eval()(X), source.eval()(X.mean(1, keepdim=True)), rtol=1e-4, atol=1e-5)


def test_position_codes_are_interpolated_to_another_grid() -> None:
    source, target = encoder_of(3, 64, seed=1, **VIT), encoder_of(3, 32, seed=2, **VIT)
    loading = put(target, source.net.state_dict(), "w.pth")
    assert loading.resized == ("pos_embed",) and loading.share == 1.0
    theirs, ours = source.net.pos_embed, target.net.pos_embed
    assert torch.equal(theirs[:, 0], ours[:, 0])  # the class token's
    grid = F.interpolate(theirs[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2), (2, 2), mode="bicubic", antialias=True)
    torch.testing.assert_close(ours[:, 1:], grid.permute(0, 2, 3, 1).reshape(1, 4, -1), rtol=1e-4, atol=1e-5)


def test_a_little_may_be_missing_and_is_said() -> None:
    weights = dict(encoder_of(seed=1).state_dict())
    del weights["stem.1.running_mean"]
    loading = put(encoder_of(), weights, "w.pth")
    assert loading.missing == ("stem.1.running_mean",) and "1 missing (stem.1.running_mean)" in str(loading)


def test_less_than_nine_tenths_is_refused_with_the_nearest_names() -> None:
    weights = {name.replace("conv1", "convolution1"): value for name, value in encoder_of().state_dict().items()}
    before = encoder_of(seed=2)
    with pytest.raises(ConfigError, match=r"w.pth holds \d+ % .* it has no stages.0.0.conv1.weight; did you mean") as refusal:
        put(before, weights, "w.pth")
    assert str(refusal.value).count("'stages.") == 3
    same = encoder_of(seed=2).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in before.state_dict().items()), "nothing was copied"


def test_another_architecture_never_loads() -> None:
    with pytest.raises(ConfigError, match="holds 0 %"):
        put(encoder_of(), encoder_of(name="vit", width=32).state_dict(), "w.pth")
    with pytest.raises(ConfigError, match=r"stem.0.weight is \(8, 1, 3, 3\) in w.pth and \(4, 1, 3, 3\) in the encoder"):
        put(encoder_of(), encoder_of(width=8).state_dict(), "w.pth")
