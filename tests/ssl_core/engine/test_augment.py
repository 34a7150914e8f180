"""Each operation equals torchvision's (or Pillow's) on one image at a time, with the same parameters."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from ssl_core.engine.augment import (
    color_jitter,
    drop_channels,
    gaussian_blur,
    normalize,
    padded_crop,
    random_crop,
    random_grayscale,
    resize,
    resized_crop,
    solarize,
    standardize,
    to_unit,
    view,
    warp,
)
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, STILL

LEVEL = 1 / 255
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
NOTHING = dataclasses.replace(STILL, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
ALL = dataclasses.replace(AUGMENT, crop_scale=(0.2, 1.0), blur=0.5, solarize=0.2)
JITTER = dataclasses.replace(NOTHING, jitter=1.0)


def images(batch: int = 24, channels: int = 3, height: int = 32, width: int | None = None) -> torch.Tensor:
    """Smooth structure plus noise, so that all values and both colorful and grey pixels occur."""
    generator = torch.Generator().manual_seed(5)
    shape = (batch, channels, height, width or height)
    coarse = torch.rand(batch, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, shape[2:], mode="bicubic")
    x = ((smooth + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1) * 255).round().to(torch.uint8)
    x[:, :, :2] = x[:, :1, :2]  # grey rows
    x[:, :, 2] = 0
    x[:, :, 3] = 255
    return x


def stream(batch: int = 24) -> Rng:
    """The same numbers at every call, so a test can look at what an operation drew."""
    return Rng(torch.arange(batch), 3, 1)


def assert_same(mine: torch.Tensor, expected: list[torch.Tensor], levels: float = 1e-3) -> None:
    """Within ``levels`` grey levels of 255."""
    assert float((mine - torch.stack(expected)).abs().max()) < levels * LEVEL


# --- crop -------------------------------------------------------------------------------------------------------------


def crop_boxes(batch: int, height: int, width: int, scale: tuple[float, float]) -> torch.Tensor:
    """(batch, 5) top, left, height, width, flipped, read off crops of an image that holds its own coordinates."""
    size = 64
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ramps = torch.stack([row, column]).float().expand(batch, -1, -1, -1)
    view = resized_crop(ramps, stream(batch), scale, size, 0.5)
    boxes = []
    for line in (view[:, 0, :, size // 2], view[:, 1, size // 2]):
        a, b = line[:, 3 * size // 8], line[:, 5 * size // 8]  # far from the edges, where interpolation is linear
        step = (b - a) / (size // 4)
        first = torch.where(step > 0, a - 3 * size / 8 * step, b + 3 * size / 8 * step - step)
        boxes.append((first + 0.5 - step.abs() / 2, step.abs() * size, step < 0))
    (top, h, upside_down), (left, w, flipped) = boxes
    assert not upside_down.any()
    return torch.stack([top, left, h, w, flipped.float()], 1).round().long()


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (28, 28, 28), (96, 96, 48), (60, 40, 24), (32, 32, 50)])
def test_crop_equals_torchvision(height, width, size):
    x = images(24, 3, height, width)
    mine = resized_crop(x, stream(), (0.2, 1.0), size, 0.5)
    expected = []
    for image, (top, left, h, w, flip) in zip(x, crop_boxes(24, height, width, (0.2, 1.0)).tolist(), strict=True):
        out = tv.resized_crop(to_unit(image), top, left, h, w, [size, size], antialias=True)
        expected.append(tv.horizontal_flip(out) if flip else out)
    assert_same(mine, expected)


@pytest.mark.parametrize(("height", "width", "scale"), [(32, 32, (0.08, 1.0)), (32, 32, (0.5, 1.0)), (64, 24, (0.6, 1.0))])
def test_crops_are_distributed_as_torchvisions(height, width, scale):
    n = 3000
    mine = crop_boxes(n, height, width, scale)[:, :4].double()
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    transform = v2.RandomResizedCrop(32, scale=scale)
    drawn = [transform.make_params([image]) for _ in range(n)]
    theirs = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn], dtype=torch.float64)

    def statistics(box: torch.Tensor) -> list[torch.Tensor]:
        top, left, h, w = box.unbind(1)
        return [h * w, h / w, top, left]

    for a, b in zip(statistics(mine), statistics(theirs), strict=True):
        grid = torch.cat([a, b]).unique()
        gap = (
            torch.searchsorted(a.sort().values, grid, right=True) - torch.searchsorted(b.sort().values, grid, right=True)
        ) / n
        assert float(gap.abs().max()) < 1.95 * (2 / n) ** 0.5  # Kolmogorov-Smirnov at 0.1 %


def test_flips_happen_as_often_as_asked():
    x = images(2000, 1, 8)
    for p in (0.0, 0.25, 1.0):
        rng = Rng(torch.arange(2000), 1)
        flipped = (resized_crop(x, rng, (1.0, 1.0), 8, p) - to_unit(x.flip(3))).abs().amax((1, 2, 3)) < 1e-6
        assert float(flipped.float().mean()) == pytest.approx(p, abs=0.04)


def test_padded_crop_is_a_window_of_the_reflected_image():
    x = images()
    mine = padded_crop(x, stream(), 4, 0.5)
    windows = []
    for image in to_unit(x):
        padded = tv.pad(image, [4], padding_mode="reflect")
        windows.append(torch.stack([padded[:, i : i + 32, j : j + 32] for i in range(9) for j in range(9)]))
    seen, flips = set(), 0
    for out, options in zip(mine, windows, strict=True):
        straight = (options == out).flatten(1).all(1).nonzero().flatten().tolist()
        mirrored = (options.flip(3) == out).flatten(1).all(1).nonzero().flatten().tolist()
        assert len(straight) + len(mirrored) == 1
        seen.update(straight + mirrored)
        flips += len(mirrored)
    assert len(seen) > 15 and 6 <= flips <= 18


def test_random_crop_is_a_window_of_the_image():
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    out = random_crop(torch.stack([row, column]).expand(500, -1, -1, -1), stream(500), 30, 0.5)
    top, edges = out[:, 0, 0, 0], out[:, 1, 0][:, [0, -1]]
    left, flipped = edges.min(1).values, edges[:, 0] > edges[:, 1]
    step = torch.arange(30)
    assert torch.equal(out[:, 0], (top[:, None] + step)[:, :, None].expand(-1, -1, 30))
    columns = left[:, None] + step
    assert torch.equal(out[:, 1, 7], torch.where(flipped[:, None], columns.flip(1), columns))
    assert set(top.tolist()) == set(left.tolist()) == {0.0, 1.0, 2.0} and 0.4 < flipped.float().mean() < 0.6


# --- resize and warp --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 20, 48])
@pytest.mark.parametrize(
    ("name", "pillow"),
    [
        ("area", Image.Resampling.BOX),
        ("bilinear", Image.Resampling.BILINEAR),
        ("bicubic", Image.Resampling.BICUBIC),
        ("lanczos", Image.Resampling.LANCZOS),
    ],
)
def test_resize_equals_pillow(name, pillow, size):
    x = images(3, 1, 32, 28)
    expected = [
        torch.from_numpy(np.array(Image.fromarray(image[0].numpy()).resize((size, size), pillow)))[None] for image in to_unit(x)
    ]
    assert_same(resize(x, size, name), expected, levels=0.01)


def test_warp_equals_torchvisions_affine():
    x = images(12, 3, 32, 40)
    mine = warp(x, stream(12), 20.0, (0.7, 1.4), 0.2)
    expected = []
    for image, u in zip(to_unit(x), stream(12).uniform(4).tolist(), strict=True):
        padded = tv.pad(image, [28], padding_mode="symmetric")
        shift = [(2 * u[2] - 1) * 0.2 * 40, (2 * u[3] - 1) * 0.2 * 32]
        out = tv.affine(
            padded, (2 * u[0] - 1) * 20, shift, 0.7 + 0.7 * u[1], [0.0], interpolation=tv.InterpolationMode.BILINEAR
        )
        expected.append(out[:, 28:-28, 28:-28])
    assert_same(mine, expected, levels=0.02)


# --- color ------------------------------------------------------------------------------------------------------------


def factors(u: float, strength: float) -> float:
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * u


@pytest.mark.parametrize("strength", [0.4, 0.8, 1.5])
def test_jitter_equals_torchvisions_four_operations(strength):
    config = dataclasses.replace(ALL, brightness=strength, contrast=strength, saturation=strength, hue=min(strength, 0.5))
    x = images(100)
    expected = []
    for image, u in zip(to_unit(x), stream(100).uniform(5).tolist(), strict=True):
        if u[0] < config.jitter:
            image = tv.adjust_brightness(image, factors(u[1], strength))
            image = tv.adjust_contrast(image, factors(u[2], strength))
            image = tv.adjust_saturation(image, factors(u[3], strength))
            image = tv.adjust_hue(image, (2 * u[4] - 1) * config.hue)
        expected.append(image)
    assert_same(color_jitter(x, stream(100), config), expected, levels=0.01)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_color_operation_works_alone(name):
    index = 1 + ["brightness", "contrast", "saturation", "hue"].index(name)
    x = images()
    mine = color_jitter(x, stream(), dataclasses.replace(JITTER, **{name: 0.5}))
    expected = []
    for image, u in zip(to_unit(x), stream().uniform(5)[:, index].tolist(), strict=True):
        amount = 2 * u * 0.5 - 0.5 if name == "hue" else factors(u, 0.5)
        expected.append(getattr(tv, f"adjust_{name}")(image, amount))
    assert_same(mine, expected)


def test_jitter_of_grey_images_is_brightness_and_contrast():
    x = images(24, 1)
    expected = []
    for image, u in zip(to_unit(x), stream().uniform(5).tolist(), strict=True):
        expected.append(tv.adjust_contrast(tv.adjust_brightness(image, factors(u[1], 0.4)), factors(u[2], 0.4)))
    assert_same(color_jitter(x, stream(), dataclasses.replace(ALL, jitter=1.0)), expected)
    assert torch.equal(random_grayscale(x, stream(), 1.0), to_unit(x))


def test_jitter_leaves_its_input_and_the_images_not_drawn_alone():
    x = to_unit(images(200))
    before = x.clone()
    out = color_jitter(x, stream(200), dataclasses.replace(ALL, jitter=0.3, hue=0.0))
    assert torch.equal(x, before)
    same = (out == x).flatten(1).all(1)
    assert torch.equal(same, stream(200).uniform(5)[:, 0] >= 0.3)


def test_grayscale_equals_torchvision():
    x = images()
    mine = random_grayscale(x, stream(), 0.5)
    chosen = stream().uniform(1)[:, 0] < 0.5
    assert 4 < int(chosen.sum()) < 20
    assert_same(mine, [tv.rgb_to_grayscale(i, 3) if c else i for i, c in zip(to_unit(x), chosen, strict=True)])


def test_solarize_equals_torchvision():
    x = images()
    mine = solarize(x, stream(), 0.5)
    chosen = stream().uniform(1)[:, 0] < 0.5
    assert_same(mine, [tv.solarize(i, 0.5) if c else i for i, c in zip(to_unit(x), chosen, strict=True)])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 40)])
def test_blur_equals_torchvision(height, width):
    x = images(24, 3, height, width)
    mine = gaussian_blur(x, stream(), 0.5, (0.1, 2.0))
    expected = [
        tv.gaussian_blur(image, [13, 13], [0.1 + 1.9 * s]) if p < 0.5 else image
        for image, (s, p) in zip(to_unit(x), stream().uniform(2).tolist(), strict=True)
    ]
    assert_same(mine, expected)


def test_drop_channels_keeps_one_and_fills_the_others_with_its_noise():
    x = torch.rand(40, 9, 3, 16, 16)
    out = drop_channels(x, stream(40), 0.01)
    kept = (out == x).flatten(3).all(3)
    assert (kept.sum(2) == 1).all()
    assert all(0.2 < share < 0.5 for share in kept.float().mean((0, 1)).tolist())
    assert (kept[:, 0] != kept[:, 1]).any()  # every tile has its own
    channel = x[kept].reshape(40, 9, 1, 16, 16)
    noise = (out - channel.mean((3, 4), keepdim=True)) / channel.std((3, 4), keepdim=True)
    noise = noise[~kept]
    assert abs(float(noise.mean())) < 1e-4 and float(noise.std()) == pytest.approx(0.01, rel=0.02)
    assert torch.equal(drop_channels(x[:, :, :1], stream(40), 0.01), x[:, :, :1])


# --- scale ------------------------------------------------------------------------------------------------------------


def test_normalize_takes_bytes_and_unit_floats():
    x = images()
    expected = [tv.normalize(to_unit(image), list(MEAN), list(STD)) for image in x]
    assert_same(normalize(x, MEAN, STD), expected)
    assert_same(normalize(to_unit(x), MEAN, STD), expected)


def test_standardize_gives_mean_zero_and_variance_one_to_each_tile():
    x = torch.rand(4, 9, 3, 8, 8) * torch.linspace(0.1, 1, 9)[:, None, None, None]
    out = standardize(x)
    torch.testing.assert_close(out.mean((2, 3, 4)), torch.zeros(4, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var((2, 3, 4), correction=0), torch.ones(4, 9), atol=2e-3, rtol=0)
    assert torch.equal(standardize(torch.full((1, 3, 8, 8), 0.25)), torch.zeros(1, 3, 8, 8))


# --- the whole view ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_is_the_operations_in_the_stated_order(channels):
    x, rng = images(24, channels), stream()
    expected = resized_crop(x, rng, ALL.crop_scale, 24, ALL.flip)
    expected = random_grayscale(color_jitter(expected, rng, ALL), rng, ALL.grayscale)
    expected = solarize(gaussian_blur(expected, rng, ALL.blur, ALL.blur_sigma), rng, ALL.solarize)
    out = view(x, stream(), dataclasses.replace(ALL, view_share=0.7), MEAN[:channels], STD[:channels])
    assert out.shape == (24, channels, 24, 24) and out.dtype == torch.float32
    torch.testing.assert_close(out, normalize(expected, MEAN[:channels], STD[:channels]), rtol=0, atol=0)
    assert view(x, stream(), ALL, MEAN[:channels], STD[:channels], size=20).shape[-1] == 20


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_of_an_image_does_not_depend_on_its_batch(channels):
    x = images(200, channels)
    whole = view(x, Rng(torch.arange(200), 9), ALL, MEAN[:channels], STD[:channels])
    some = torch.tensor([150, 3, 77])
    alone = view(x[some], Rng(some, 9), ALL, MEAN[:channels], STD[:channels])
    torch.testing.assert_close(alone, whole[some], rtol=0, atol=1e-5)


def test_two_views_of_one_stream_differ_and_repeat():
    x, rng = images(), stream()
    first, second = (view(x, rng, ALL, MEAN, STD) for _ in range(2))
    assert (first != second).flatten(1).any(1).all()
    assert torch.equal(first, view(x, stream(), ALL, MEAN, STD))


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_asked_nothing_done(channels):
    x = images(24, channels)
    unit = to_unit(x)
    torch.testing.assert_close(
        view(x, stream(), NOTHING, MEAN[:channels], STD[:channels]),
        normalize(unit, MEAN[:channels], STD[:channels]),
        rtol=0,
        atol=1e-5,
    )
    torch.testing.assert_close(color_jitter(unit, stream(), JITTER), unit, rtol=0, atol=0)
    torch.testing.assert_close(padded_crop(x, stream(), 0, 0.0), unit, rtol=0, atol=0)
    torch.testing.assert_close(warp(x, stream(), 0.0, (1.0, 1.0), 0.0), unit, rtol=0, atol=1e-5)
    torch.testing.assert_close(resize(x, 32), unit, rtol=0, atol=1e-6)


def test_values_stay_in_range_and_float_input_is_the_same_as_bytes():
    x = images(200)
    config = dataclasses.replace(ALL, jitter=1.0, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    out = view(x, stream(200), config, (0.0,) * 3, (1.0,) * 3)
    assert float(out.min()) >= -1e-6 and float(out.max()) <= 1 + 1e-6
    # A pixel on the solarization threshold may round either way, so compare what most pixels do.
    other = view(to_unit(x), stream(200), config, (0.0,) * 3, (1.0,) * 3)
    assert float(((out - other).abs() < 1e-4).float().mean()) > 0.9999


def test_autocast_does_not_round_the_pixels():
    x = images()
    expected = view(x, stream(), ALL, MEAN, STD)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(view(x, stream(), ALL, MEAN, STD), expected)
