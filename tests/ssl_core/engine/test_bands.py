"""Any number of channels, 8 or 16 bits: geometry is for all, brightness and contrast for each band, color for three."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_core.engine import augment
from ssl_core.engine.data import Images
from ssl_core.engine.method import Batch
from ssl_core.rng import Rng
from tests.ssl_core.engine.test_contract import TRAINED, build
from tests.support.configs import AUGMENT, STILL


def sixteen(count: int = 6, channels: int = 5, side: int = 16) -> Tensor:
    values = np.random.default_rng(0).integers(0, 65536, (count, channels, side, side), dtype=np.uint16)
    return torch.from_numpy(values)


def rng(count: int = 6) -> Rng:
    return Rng(torch.arange(count), 7)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_jitter_changes_brightness_and_contrast_of_each_band_by_itself(channels: int) -> None:
    x = augment.to_unit(sixteen(channels=channels)) * 0.4 + 0.3
    bright = augment.color_jitter(x, rng(), replace(AUGMENT, jitter=1.0, contrast=0.0, brightness=0.2))
    factors = (bright / x).flatten(2)
    assert torch.allclose(factors, factors[..., :1].expand_as(factors), atol=1e-5)  # one factor of a band
    assert factors[..., 0].std(1).min() > 1e-3 and factors.min() >= 0.8 and factors.max() <= 1.2  # another of each
    flat = augment.color_jitter(x, rng(), replace(AUGMENT, jitter=1.0, brightness=0.0, contrast=0.3))
    assert torch.allclose(flat.mean((2, 3)), x.mean((2, 3)), atol=1e-5)
    stretch = (flat - flat.mean((2, 3), keepdim=True)) / (x - x.mean((2, 3), keepdim=True))
    assert stretch.flatten(2).median(2).values.std(1).min() > 1e-3
    assert torch.equal(augment.color_jitter(x, rng(), replace(AUGMENT, jitter=0.0)), x)
    some = augment.color_jitter(x, rng(), replace(AUGMENT, jitter=0.5))
    still = (some == x).flatten(1).all(1)
    assert 0 < still.sum() < len(x) and ((some != x).flatten(2).any(2) | still[:, None]).all()


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_what_is_about_color_leaves_other_bands_alone(channels: int) -> None:
    x = augment.to_unit(sixteen(channels=channels))
    assert torch.equal(augment.random_grayscale(x, rng(), 1.0), x)
    assert torch.equal(augment.drop_channels(x, rng(), 0.01), x)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_seen_as_the_floats_they_stand_for(channels: int) -> None:
    x = sixteen(channels=channels)
    unit = x.to(torch.float32) / 65535
    for change in (
        lambda images: augment.view(images, rng(), AUGMENT, (0.5,) * channels, (0.25,) * channels),
        lambda images: augment.padded_crop(images, rng(), 2, 0.5),
        lambda images: augment.random_crop(images, rng(), 9, 0.5),
        lambda images: augment.warp(images, rng(), 20.0, (0.8, 1.2), 0.1),
        lambda images: augment.normalize(images, (0.5,) * channels, (0.25,) * channels),
    ):
        assert torch.allclose(change(x), change(unit), atol=1e-4)
    assert (augment.to_unit(x) - augment.to_unit((x.int() // 256 * 256).to(torch.uint16))).abs().max() > 0.003  # low bits count


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_takes_a_step_on_bands_of_sixteen_bits(shipped: dict[str, Any], name: str) -> None:
    method, _ = build(shipped, name, channels=5)
    images = Images(sixteen(64, 5, 28).numpy(), torch.device("cpu"))
    ids = torch.arange(16)
    views = method.views(images.batch(ids), Rng(ids, 3))
    pictures = [view for view in views if view.is_floating_point() and view.ndim >= 4]
    assert pictures and all(view.shape[-3] == 5 and torch.isfinite(view).all() for view in pictures)
    loss = method.loss(Batch(views, ids, 0.0))["loss"]
    loss.backward()
    assert torch.isfinite(loss) and any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


def test_a_fixed_recipe_gives_the_bands_themselves() -> None:
    x = sixteen()
    assert torch.allclose(augment.view(x, rng(), STILL, (0.0,) * 5, (1.0,) * 5), augment.to_unit(x), atol=1e-6)
