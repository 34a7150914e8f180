"""CPC: exact causality, which latent is the positive, patches that see only themselves."""

import dataclasses

import pytest
import torch
from torch import nn

from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.cpc import CPC, CPCConfig, patch_geometry
from ssl_core.parts.patches import overlapping_patches
from ssl_core.rng import Rng
from tasks.runtime import params
from tests.support.configs import AUGMENT, encoder_of

PLAIN = dataclasses.replace(AUGMENT, jitter=0.0, grayscale=0.0)
CONFIG = CPCConfig(grid=7, padding=0.125, first_step=2, steps=3, context_blocks=5, context_hidden=8, dim=6)
IDS = torch.arange(2)


def make(side: int = 32, channels: int = 1, augment: AugmentConfig = AUGMENT, **changes: object) -> CPC:
    torch.manual_seed(0)
    encoder = encoder_of(channels, side, norm="group")
    data = DataInfo(64, side, channels, (0.5,) * channels, (0.25,) * channels)
    return CPC(encoder, dataclasses.replace(CONFIG, **changes), augment, data)


def images(side: int = 32, channels: int = 1) -> torch.Tensor:
    return torch.randint(
        0, 256, (len(IDS), channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize(
    ("side", "grid", "expected"),
    [
        (32, 7, (32, 8, 4)),
        (28, 6, (28, 8, 4)),
        (32, 4, (30, 12, 6)),
        (28, 4, (25, 10, 5)),
        (64, 7, (64, 16, 8)),
        (96, 7, (96, 24, 12)),
        (224, 7, (224, 56, 28)),
        (256, 7, (256, 64, 32)),
    ],
)
def test_half_overlapping_patches_fill_the_crop_at_any_size(side: int, grid: int, expected: tuple[int, int, int]) -> None:
    crop, patch, stride = patch_geometry(side, grid)
    assert (crop, patch, stride) == expected
    assert crop <= side and (crop - patch) // stride + 1 == grid and patch == 2 * stride


def test_the_nearest_row_that_is_predicted_shares_no_pixel(shipped: dict[str, object]) -> None:
    config = params.method_params(shipped, "cpc").config
    _, patch, stride = patch_geometry(28, config.grid)
    assert config.first_step * stride >= patch


def test_patches_too_small_to_see_anything_are_refused() -> None:
    with pytest.raises(ValueError, match="too many for 28 px"):
        patch_geometry(28, 14)
    with pytest.raises(ValueError, match="needs more than 4 rows"):
        make(grid=4)


def test_patch_i_j_is_the_window_at_4i_4j() -> None:
    x = torch.rand(2, 3, 32, 32)
    patches = overlapping_patches(x, 8, 4)
    assert patches.shape == (2, 7, 7, 3, 8, 8)
    for i in range(7):
        for j in range(7):
            assert torch.equal(patches[:, i, j], x[:, :, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8])


@pytest.mark.parametrize(("side", "channels", "grid", "patch"), [(28, 1, 6, 8), (32, 3, 7, 8), (96, 3, 7, 24), (224, 3, 7, 56)])
def test_views_are_patches_at_any_size(side: int, channels: int, grid: int, patch: int) -> None:
    (patches,) = make(side, channels, PLAIN, grid=grid).views(images(side, channels), Rng(IDS, 0))
    assert patches.shape == (2, grid, grid, channels, patch, patch)
    half = patch // 2  # neighbors share half of their pixels
    assert torch.equal(patches[:, 1:, :, :, :half], patches[:, :-1, :, :, half:])
    assert torch.equal(patches[:, :, 1:, :, :, :half], patches[:, :, :-1, :, :, half:])


def test_each_patch_is_jittered_by_itself() -> None:
    (patches,) = make(channels=3).views(torch.full((2, 3, 32, 32), 128, dtype=torch.uint8), Rng(IDS, 0))
    colors = patches.flatten(4).flatten(0, 2)
    assert torch.equal(colors, colors[..., :1].expand_as(colors)) and len(colors[..., 0].unique(dim=0)) > 49


@pytest.mark.parametrize("blocks", [2, 5])
def test_context_row_r_depends_on_rows_r_minus_blocks_to_r_and_no_other(blocks: int) -> None:
    method = make(context_blocks=blocks).double()
    latents = torch.randn(1, 7, 7, method.encoder.dim, dtype=torch.float64, requires_grad=True)
    contexts = method.context(latents.movedim(3, 1)).movedim(1, 3)  # before the last ReLU, which could hide a path
    for r in range(7):
        (gradient,) = torch.autograd.grad(contexts[:, r].sum(), latents, retain_graph=True)
        seen = gradient.abs().amax((0, 2, 3)) > 0
        assert seen.tolist() == [r - blocks <= row <= r for row in range(7)]


def test_the_rows_below_change_nothing_in_the_contexts_above() -> None:
    method = make()
    latents = torch.randn(2, 7, 7, method.encoder.dim)
    other = latents.clone()
    other[:, 4:] = torch.randn_like(other[:, 4:])
    with torch.no_grad():
        assert torch.equal(method.contexts(latents)[:, :4], method.contexts(other)[:, :4])
        assert not torch.equal(method.contexts(latents)[:, 4:], method.contexts(other)[:, 4:])


@pytest.mark.parametrize("train", [True, False])
def test_a_latent_is_made_of_its_own_patch_alone(train: bool) -> None:
    method = make().train(train)
    (patches,) = method.views(images(), Rng(IDS, 0))
    other = patches.clone()
    other[0, 3, 4] = torch.randn_like(other[0, 3, 4])
    with torch.no_grad():
        same = torch.isclose(method.latents(patches), method.latents(other), rtol=1e-5, atol=1e-6).all(3)
    assert int((~same).sum()) == 1 and not same[0, 3, 4]


def test_latents_that_are_all_the_same_have_loss_ln_of_their_number() -> None:
    method = make()
    for p in method.predictors.parameters():
        nn.init.zeros_(p)
    out = method.loss(Batch(method.views(images(), Rng(IDS, 0)), IDS, 0.0))
    assert float(out["loss"].detach()) == pytest.approx(4.5849675, abs=1e-6)  # ln(2 * 7 * 7)


def test_the_loss_is_info_nce_over_every_position_of_every_image() -> None:
    method = make(grid=6, side=28).eval()
    views = method.views(images(28), Rng(IDS, 0))
    with torch.no_grad():
        for p in (*method.predictors.parameters(), *method.target.parameters()):
            p.mul_(10.0)  # logits that matter
        out = method.loss(Batch(views, IDS, 0.0))
        latents = method.latents(views[0])
        contexts, targets = method.contexts(latents), method.target(latents)
        steps, found = [], []
        for k, predictor in zip((2, 3, 4), method.predictors, strict=True):
            losses, right = [], []
            for b in range(2):
                for r in range(6 - k):
                    for c in range(6):
                        prediction = predictor(contexts[b, r, c])
                        scores = [
                            float(0.1 * prediction @ targets[i, y, x]) for i in range(2) for y in range(6) for x in range(6)
                        ]
                        positive = float(0.1 * prediction @ targets[b, r + k, c])
                        losses.append(float(torch.logsumexp(torch.tensor(scores), 0)) - positive)
                        right.append(positive >= max(scores) - 1e-6)
            steps.append(sum(losses) / len(losses))
            found.append(sum(right) / len(right))
    assert float(out["loss"]) == pytest.approx(sum(steps) / 3, abs=1e-4)
    assert float(out["accuracy"]) == pytest.approx(sum(found) / 3, abs=0.02)


def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process compares its own predictions with the latents of all, and knows where its own stand among them."""
    method = make().eval()
    (patches,) = method.views(images(), Rng(IDS, 0))
    whole = method.loss(Batch((patches,), IDS, 0.0))
    everyone = method.target(method.latents(patches))
    parts = []
    for rank in range(2):
        monkeypatch.setattr("ssl_core.engine.distributed.gather", lambda x: everyone)
        monkeypatch.setattr("ssl_core.engine.distributed.local_rows", lambda b, rank=rank: slice(rank, None, 2))
        parts.append(method.loss(Batch((patches[rank : rank + 1],), IDS[rank : rank + 1], 0.0))["loss"])
    torch.testing.assert_close(sum(parts) / 2, whole["loss"])


def test_a_context_that_knows_the_future_finds_every_patch() -> None:
    """Unique latents, and contexts replaced by the latent two rows below: accuracy 1, so the labels point there."""
    method = make(steps=1, dim=98)
    unique = torch.eye(98).reshape(2, 7, 7, 98)
    method.latents = lambda patches: unique  # type: ignore[method-assign]
    method.contexts = lambda latents: latents.roll(-2, dims=1)  # type: ignore[method-assign]
    method.target = nn.Identity()
    method.predictors = nn.ModuleList([nn.Linear(98, 98, bias=False)])
    nn.init.eye_(method.predictors[0].weight).data.mul_(1000)
    out = method.loss(Batch((torch.zeros(1),), IDS, 0.0))
    assert float(out["accuracy"]) == 1.0 and float(out["loss"].detach()) < 1e-6


def test_the_networks_have_no_batch_norm() -> None:
    assert not [m for m in make().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_an_encoder_with_batch_norm_is_refused() -> None:
    data = DataInfo(64, 32, 1, (0.5,), (0.25,))
    with pytest.raises(ValueError, match=r"leaks the answer: encoder\.norm group"):
        CPC(encoder_of(1, 32), CONFIG, AUGMENT, data)
