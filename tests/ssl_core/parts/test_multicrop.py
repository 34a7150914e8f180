"""Multi-crop: sizes an encoder can take, one forward pass per size, the order of the features."""

import dataclasses

import pytest
import torch

from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.method import DataInfo, Method
from ssl_core.methods.random_init import RandomInit
from ssl_core.parts.multicrop import Crops, encode_crops, multi_crop
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, STILL, encoder_of


def method_of(name: str, size: int, augment: AugmentConfig = AUGMENT, mean: float = 0.5, std: float = 0.25) -> Method:
    """Any method: its recipe, its encoder and the statistics of its data are what the crops depend on."""
    return RandomInit(
        encoder_of(1, size, name=name, width=8), RandomInit.Config(), augment, DataInfo(64, size, 1, (mean,), (std,))
    )


@pytest.mark.parametrize(
    ("size", "name", "small"),
    [(28, "small", 14), (28, "vit", 16), (32, "vit", 16), (64, "small", 32), (96, "small", 48), (224, "small", 112)],
)
def test_two_large_views_then_small_ones_of_a_size_the_encoder_takes(size: int, name: str, small: int) -> None:
    method, images = method_of(name, size), torch.zeros(2, 1, size, size, dtype=torch.uint8)
    views = multi_crop(method, images, Rng(torch.arange(2), 0), Crops(views=3, scale=(0.1, 0.4), size=0.5, blur=0.0))
    assert [v.shape[-1] for v in views] == [size, size, small, small, small]
    assert encode_crops(method.encoder, views).shape == (10, method.encoder.dim)


def test_small_views_show_less_of_the_image() -> None:
    """On a horizontal ramp the spread of the values is the share of the width that is seen."""
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(64, 1, 32, 32)
    method = method_of("small", 32, dataclasses.replace(STILL, crop_scale=(0.8, 1.0)), 0.0, 1.0)
    views = multi_crop(method, ramp, Rng(torch.arange(64), 0), Crops(views=1, scale=(0.1, 0.3), size=0.5, blur=0.0))
    large, small = ((v.amax((1, 2, 3)) - v.amin((1, 2, 3))).max() for v in (views[0], views[2]))
    assert large > 0.9 and small < 0.7


def test_views_of_one_size_share_a_forward_pass_and_keep_their_order() -> None:
    encoder = encoder_of(width=8)
    views = [torch.randn(3, 1, s, s) for s in (16, 16, 8, 8)]
    encode_crops(encoder, views)
    assert int(encoder.stem[1].num_batches_tracked) == 2  # type: ignore[index]
    encoder.eval()
    torch.testing.assert_close(encode_crops(encoder, views), torch.cat([encoder(v) for v in views]))


def test_the_second_large_view_and_the_small_ones_have_an_augmentation_of_their_own() -> None:
    """White images, solarized in the second view alone; edges, blurred in the small views alone."""
    still = dataclasses.replace(STILL, blur_sigma=(0.6, 0.7))
    method, rng = method_of("small", 16, still), Rng(torch.arange(4), 0)
    other, whole = dataclasses.replace(still, solarize=1.0), Crops(views=1, scale=(1.0, 1.0), size=1.0, blur=0.0)
    white = torch.full((4, 1, 16, 16), 255, dtype=torch.uint8)
    first, second, small = multi_crop(method, white, rng, whole, other)
    assert (first > 0).all() and (second < 0).all() and torch.equal(small, first)
    stripes = white * (torch.arange(16) % 2).to(torch.uint8)
    first, _, small = multi_crop(method, stripes, rng, dataclasses.replace(whole, blur=1.0), other)
    assert first.amax() - first.amin() > 1.5 * (small.amax() - small.amin())
