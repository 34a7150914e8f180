"""Multi-crop: sizes an encoder can take, one forward pass per size, the order of the features."""

import dataclasses

import pytest
import torch

from ssl_core.engine import encoders
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.method import DataInfo
from ssl_core.parts.multicrop import Crops, encode_crops, multi_crop
from ssl_core.rng import Rng

AUGMENT = AugmentConfig(1.0, (0.4, 1.0), 0.5, 0.8, 0.4, 0.4, 0.4, 0.1, 0.2, 0.0, (0.1, 2.0), 0.0)


def encoder_of(name: str, size: int) -> encoders.Encoder:
    return encoders.build(encoders.EncoderConfig(name, 8, 1, 4, "batch"), 1, size, 0)


@pytest.mark.parametrize(
    ("size", "name", "small"),
    [(28, "small", 14), (28, "vit", 16), (32, "vit", 16), (64, "small", 32), (96, "small", 48), (224, "small", 112)],
)
def test_two_large_views_then_small_ones_of_a_size_the_encoder_takes(size: int, name: str, small: int) -> None:
    images, data = torch.zeros(2, 1, size, size, dtype=torch.uint8), DataInfo(2, size, 1, (0.5,), (0.25,))
    encoder = encoder_of(name, size)
    views = multi_crop(images, Rng(torch.arange(2), 0), (AUGMENT, AUGMENT), data, Crops(3, (0.1, 0.4), 0.5, 0.0), encoder)
    assert [v.shape[-1] for v in views] == [size, size, small, small, small]
    assert encode_crops(encoder, views).shape == (10, encoder.dim)


def test_small_views_show_less_of_the_image() -> None:
    """On a horizontal ramp the spread of the values is the share of the width that is seen."""
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(64, 1, 32, 32)
    still = AugmentConfig(1.0, (0.8, 1.0), 0.0, *[0.0] * 7, (0.1, 2.0), 0.0)  # type: ignore[arg-type]
    data = DataInfo(64, 32, 1, (0.0,), (1.0,))
    views = multi_crop(
        ramp, Rng(torch.arange(64), 0), (still, still), data, Crops(1, (0.1, 0.3), 0.5, 0.0), encoder_of("small", 32)
    )
    large, small = ((v.amax((1, 2, 3)) - v.amin((1, 2, 3))).max() for v in (views[0], views[2]))
    assert large > 0.9 and small < 0.7


def test_views_of_one_size_share_a_forward_pass_and_keep_their_order() -> None:
    encoder = encoder_of("small", 16)
    views = [torch.randn(3, 1, s, s) for s in (16, 16, 8, 8)]
    encode_crops(encoder, views)
    assert int(encoder.stem[1].num_batches_tracked) == 2  # type: ignore[index]
    encoder.eval()
    torch.testing.assert_close(encode_crops(encoder, views), torch.cat([encoder(v) for v in views]))


def test_the_second_large_view_and_the_small_ones_have_an_augmentation_of_their_own() -> None:
    """White images, solarized in the second view alone; edges, blurred in the small views alone."""
    still = AugmentConfig(1.0, (1.0, 1.0), 0.0, *[0.0] * 7, (0.6, 0.7), 0.0)  # type: ignore[arg-type]
    pair, data = (still, dataclasses.replace(still, solarize=1.0)), DataInfo(4, 16, 1, (0.5,), (0.25,))
    encoder, rng = encoder_of("small", 16), Rng(torch.arange(4), 0)
    white = torch.full((4, 1, 16, 16), 255, dtype=torch.uint8)
    first, second, small = multi_crop(white, rng, pair, data, Crops(1, (1.0, 1.0), 1.0, 0.0), encoder)
    assert (first > 0).all() and (second < 0).all() and torch.equal(small, first)
    stripes = white * (torch.arange(16) % 2).to(torch.uint8)
    first, _, small = multi_crop(stripes, rng, pair, data, Crops(1, (1.0, 1.0), 1.0, 1.0), encoder)
    assert first.amax() - first.amin() > 1.5 * (small.amax() - small.amin())
