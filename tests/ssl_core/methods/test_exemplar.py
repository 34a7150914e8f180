"""Exemplar: who becomes a seed, what the transformations do, and whom the loss leaves out."""

import dataclasses

import pytest
import torch
from torch import nn

from ssl_core.engine.augment import change_contrast, change_saturation_value, color_jitter, normalize, to_unit
from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.exemplar import (
    Exemplar,
    ExemplarConfig,
    GradientEnergy,
    draw_seeds,
)
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

CONFIG = ExemplarConfig(
    seeds=100, seed_share=1.0, copies=2, translate=0.2, scale=(0.7, 1.4), degrees=20.0, contrast=(0.5, 2.0), power=(0.25, 4.0),
    factor=(0.7, 1.4), offset=0.1, hue=0.1, classifier_lr=1.0,
)  # fmt: skip
STILL = dataclasses.replace(
    CONFIG,
    translate=0.0,
    scale=(1.0, 1.0),
    degrees=0.0,
    contrast=(1.0, 1.0),
    power=(1.0, 1.0),
    factor=(1.0, 1.0),
    offset=0.0,
    hue=0.0,
)
IDS = torch.arange(8)


def make(config: ExemplarConfig = CONFIG, side: int = 28, channels: int = 1, n: int = 8, seed: int = 0) -> Exemplar:
    torch.manual_seed(seed)
    encoder = encoder_of(channels, side)
    return Exemplar(encoder, config, AUGMENT, DataInfo(n, side, channels, (0.5,) * channels, (0.25,) * channels))


def images(side: int = 28, channels: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (8, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_seeds_are_drawn_in_proportion_to_their_gradient_energy() -> None:
    energy = torch.cat([torch.full((4000,), 1.0), torch.full((4000,), 4.0)])
    chosen = draw_seeds(energy, 800, 1) >= 0
    assert int(chosen.sum()) == 800
    assert 0.76 < float(chosen[4000:].sum() / 800) < 0.83  # 4 to 1, less a little: drawn without replacement


def test_the_draw_repeats_and_numbers_the_seeds_without_gaps() -> None:
    energy = torch.rand(500, generator=torch.Generator().manual_seed(0))
    classes = draw_seeds(energy, 100, 1)
    assert torch.equal(classes, draw_seeds(energy, 100, 1))
    assert classes[classes >= 0].tolist() == list(range(100))


def test_another_seed_of_the_training_has_other_images_as_classes() -> None:
    energy, drawn = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)), []
    for seed in (0, 0, 1):
        method = make(dataclasses.replace(CONFIG, seeds=100, seed_share=1.0), n=500, seed=seed)
        method.before_epoch(0, lambda module: energy)
        drawn.append(method.classes)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_no_more_than_their_share_of_the_images_are_seeds_and_a_step_costs_the_same() -> None:
    for n in (200, 1000):
        method = make(dataclasses.replace(CONFIG, seeds=8000, seed_share=0.05), n=n)
        assert method.classifier.out_features == n // 20
        assert len(method.chosen(torch.arange(100))) == 5
    assert make(dataclasses.replace(CONFIG, seed_share=0.05), n=8).classifier.out_features == 2, "there is something to tell"


def test_a_flat_image_never_becomes_a_seed() -> None:
    pictures = torch.rand(6, 3, 8, 8)
    pictures[2] = 0.5
    method = make(channels=3, n=6)
    method.before_epoch(0, lambda module: module(pictures))
    assert method.classes.tolist() == [0, 1, -1, 2, 3, 4]
    assert GradientEnergy()(pictures)[2] == 0


def test_seeds_are_drawn_once_and_resumed_from_the_checkpoint() -> None:
    method = make(dataclasses.replace(CONFIG, seeds=3))
    method.before_epoch(0, lambda module: module(to_unit(images())))
    drawn = method.classes.clone()
    method.before_epoch(1, lambda module: pytest.fail("the seeds are fixed after the first epoch"))
    other = make(dataclasses.replace(CONFIG, seeds=3))
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.classes, drawn) and int((drawn >= 0).sum()) == 3


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (32, 3), (96, 3), (224, 3)])
def test_without_magnitudes_a_copy_is_the_image(side: int, channels: int) -> None:
    method = make(STILL, side, channels)
    (copies,) = method.views(images(side, channels), Rng(IDS, 0))
    assert copies.shape == (8, 2, channels, side, side)
    expected = normalize(images(side, channels), method.data.mean, method.data.std)
    for k in range(2):
        torch.testing.assert_close(copies[:, k], expected, atol=2e-4, rtol=0)


def test_copies_differ_from_one_another_and_stay_in_range() -> None:
    (copies,) = make(channels=3, side=32).views(images(32, 3), Rng(IDS, 0))
    assert (copies[:, 0] - copies[:, 1]).abs().mean() > 0.1
    assert copies.abs().max() <= 2.0 + 1e-5  # [0, 1] normalized by 0.5 and 0.25


def test_contrast_scales_each_color_axis_about_the_mean() -> None:
    """One factor on all axes is plain contrast; a grey image only ever changes along luminance."""
    x = 0.5 + 0.1 * torch.randn(8, 3, 6, 6)
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(change_contrast(x, Rng(IDS, 0), (1.5, 1.5)), (mean + 1.5 * (x - mean)).clamp(0, 1))
    grey = x[:, :1].expand(-1, 3, -1, -1)
    changed = change_contrast(grey, Rng(IDS, 0), (0.5, 2.0))
    torch.testing.assert_close(changed[:, 0], changed[:, 2])
    ratio = changed.std((1, 2, 3)) / grey.std((1, 2, 3))
    assert (ratio > 0.49).all() and (ratio < 2.01).all() and ratio.std() > 0.1


def test_saturation_and_value_follow_the_formula_pixel_by_pixel() -> None:
    import colorsys

    x = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    x[0] = 0.3  # grey: no saturation to raise
    out = change_saturation_value(x, Rng(IDS, 0), (2.0, 2.0), (0.8, 0.8), 0.0)
    for b in range(8):
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            h, s, v = colorsys.rgb_to_hsv(*x[b, :, i, j].tolist())
            expected = colorsys.hsv_to_rgb(h, 0.8 * s**2, 0.8 * v**2)
            assert out[b, :, i, j].tolist() == pytest.approx(expected, abs=1e-5)


def test_offsets_never_color_a_grey_pixel() -> None:
    grey = torch.rand(8, 1, 4, 4).expand(-1, 3, -1, -1)
    out = change_saturation_value(grey, Rng(IDS, 0), (0.25, 4.0), (0.7, 1.4), 0.1)
    assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 1], out[:, 2])


def test_hue_is_shifted_with_certainty_and_nothing_else_is() -> None:
    method = make(channels=3, side=32)
    x = torch.rand(8, 3, 4, 4)
    shifted = color_jitter(x, Rng(IDS, 0), method.hue)
    torch.testing.assert_close(shifted.amax(1), x.amax(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted.amin(1), x.amin(1), atol=1e-5, rtol=0)
    assert ((shifted - x).abs().amax((1, 2, 3)) > 1e-3).all()


def test_the_loss_is_the_mean_over_seeds_only() -> None:
    method = make(dataclasses.replace(CONFIG, seeds=5)).eval()
    nn.init.normal_(method.classifier.weight)
    method.classes = torch.tensor([0, -1, 1, 2, -1, -1, 3, -1])
    (copies,) = method.views(images(), Rng(IDS, 0))
    assert method.chosen(IDS).tolist() == [0, 2, 3, 6, 1]  # the seeds first, and as many as a batch has on average
    with torch.no_grad():
        out = method.loss(Batch((copies,), IDS, 0.0))
        losses, right = [], []
        for image, y in zip(copies, method.classes[method.chosen(IDS)].tolist(), strict=True):
            for copy in image:
                logits = method.classifier(method.norm(method.encoder(copy[None])))[0]
                if y >= 0:
                    losses.append(float(torch.logsumexp(logits, 0) - logits[y]))
                    right.append(float(logits.argmax() == y))
    assert len(losses) == 8
    assert float(out["loss"]) == pytest.approx(sum(losses) / 8, abs=1e-5)
    assert float(out["accuracy"]) == pytest.approx(sum(right) / 8, abs=1e-6)
    method.classes = torch.full((8,), -1)
    assert float(method.loss(Batch((copies,), IDS, 0.0))["loss"].detach()) == 0


def test_the_first_loss_is_ln_m() -> None:
    method = make()
    loss = method.loss(Batch(method.views(images(), Rng(IDS, 0)), IDS, 0.0))["loss"]
    assert float(loss.detach()) == pytest.approx(2.0794415, abs=1e-6)  # ln 8


def test_copies_that_agree_leave_only_the_cost_of_telling_images_apart() -> None:
    """mean CE(f_k) = CE(mean f) + [mean lse(f_k) - lse(mean f)]; the bracket, >= 0, is what invariance saves."""
    method, logits = make(), torch.randn(8, 7, 8, generator=torch.Generator().manual_seed(0))
    method.encoder = method.norm = method.classifier = nn.Identity()  # type: ignore[assignment]
    method.chosen = lambda ids: ids  # type: ignore[method-assign]
    loss, invariant = (method.loss(Batch((x,), IDS, 0.0))["loss"] for x in (logits, logits.mean(1, keepdim=True)))
    bracket = (torch.logsumexp(logits, 2).mean(1) - torch.logsumexp(logits.mean(1), 1)).mean()
    assert bracket > 0
    torch.testing.assert_close(loss, invariant + bracket)


def test_eight_seeds_are_learned() -> None:
    """A tiny network tells 8 textured images apart under mild transformations."""
    from tests.conftest import textured_images

    mild = dataclasses.replace(CONFIG, translate=0.05, degrees=5.0, scale=(0.9, 1.1), power=(0.8, 1.25), classifier_lr=10.0)
    method, pictures = make(mild), torch.from_numpy(textured_images(8, 1, 28))
    optimizer = torch.optim.SGD(
        [{"params": g["params"], "lr": 0.05 * g.get("lr_scale", 1)} for g in method.param_groups()], momentum=0.9
    )
    accuracy = 0.0
    for step in range(100):
        out = method.loss(Batch(method.views(pictures, Rng(IDS, 0, step)), IDS, 0.0))
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        accuracy = 0.9 * accuracy + 0.1 * float(out["accuracy"])
    assert accuracy > 0.95
