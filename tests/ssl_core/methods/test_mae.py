"""MAE: what is hidden stays hidden, targets, the loss with the paper's restored order, refusals."""

import dataclasses
import lzma
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.config import ConfigError
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import sincos_positions
from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.mae import MAE, MAEConfig, normalized, patchify, pick
from ssl_core.rng import Rng
from tests.conftest import ROOT
from tests.support.configs import AUGMENT, encoder_of

GENTLE = dataclasses.replace(AUGMENT, jitter=0.0, grayscale=0.0)
CONFIG = MAEConfig(mask=0.75, width=16, depth=1, normalize=True)
IDS = torch.arange(8)
IMAGES = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make(name: str = "vit", augment: AugmentConfig = GENTLE, patch: int = 4, **changes: object) -> MAE:
    torch.manual_seed(0)
    encoder = encoder_of(3, 32, name=name, width=32, patch_size=patch)
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return MAE(encoder, config, augment, DataInfo(8, 32, 3, (0.5,) * 3, (0.25,) * 3))


def batch(method: MAE) -> Batch:
    return Batch(method.views(IMAGES, Rng(IDS, 0)), IDS, 0.0)


def test_targets_have_mean_zero_and_unbiased_variance_one() -> None:
    expected = torch.tensor([-0.92582, -0.46291, 0.0, 1.38873])
    torch.testing.assert_close(normalized(torch.tensor([1.0, 2, 3, 6])), expected, atol=1e-5, rtol=0)


def test_patches_are_the_image_in_the_order_of_the_tokens() -> None:
    x = torch.randn(2, 3, 32, 32)
    patches = patchify(x, 4)
    assert torch.equal(F.fold(patches.transpose(1, 2), 32, 4, stride=4), x)
    encoder = make().encoder
    kernel = encoder.embed.weight.flatten(1)  # the token of a patch is a product with the patch
    torch.testing.assert_close(patches @ kernel.T + encoder.embed.bias, encoder.embed(x).flatten(2).transpose(1, 2))


def test_a_quarter_is_visible_and_each_image_has_an_order_of_its_own() -> None:
    method = make()
    assert (method.tokens, method.kept) == (64, 16)
    _, order = method.views(IMAGES, Rng(IDS, 0))
    assert torch.equal(order.sort(1).values, torch.arange(64).expand(8, -1))
    assert len({tuple(row.tolist()) for row in order}) == 8


def test_hidden_pixels_are_targets_and_never_inputs() -> None:
    method = make().eval()
    x, order = batch(method).views
    hidden = torch.zeros(8, 64, 1).scatter(1, order[:, 16:, None], 1.0)
    mask = F.fold(hidden.expand(-1, -1, 48).transpose(1, 2), 32, 4, stride=4)
    torch.testing.assert_close(method.predict(x + 9 * mask * torch.randn_like(x), order), method.predict(x, order))
    assert not torch.allclose(
        method.predict(x + 0.1 * (1 - mask) * torch.randn_like(x), order), method.predict(x, order), atol=1e-4
    )


@torch.no_grad()
def paper_loss(method: MAE, x: Tensor, order: Tensor) -> float:
    """The steps of the authors' code: mask tokens appended, order restored, positions added, a mask in the loss."""
    restore = torch.argsort(order, dim=1)
    latent = method.embed(method.encoder.tokens(x, order[:, : method.kept])[-1])
    masks = method.mask_token.expand(len(x), method.tokens - method.kept, -1)
    full = torch.cat([latent[:, 1:], masks], dim=1).gather(1, restore[..., None].expand(-1, -1, latent.shape[-1]))
    full = full + sincos_positions(8, latent.shape[-1])
    prediction = method.head(method.decoder(torch.cat([latent[:, :1], full], dim=1))[:, 1:])
    removed = torch.ones(len(x), method.tokens)
    removed[:, : method.kept] = 0
    removed = removed.gather(1, restore)
    target = patchify(x, 4)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    return float((((prediction - target) ** 2).mean(-1) * removed).sum() / removed.sum())


def test_the_loss_is_that_of_the_authors_steps() -> None:
    method = make().eval()
    data = batch(method)
    assert method.loss(data)["loss"].item() == pytest.approx(paper_loss(method, *data.views), rel=1e-5)


@pytest.mark.parametrize(("normalize", "expected"), [(True, 47 / 48), (False, None)])
def test_predicting_zero_costs_the_mean_square_of_the_targets(normalize: bool, expected: float | None) -> None:
    method = make(normalize=normalize)
    torch.nn.init.zeros_(method.head.weight)
    torch.nn.init.zeros_(method.head.bias)
    data = batch(method)
    x, order = data.views
    if expected is None:
        expected = float(patchify(x, 4).square().mean(-1).gather(1, order[:, 16:]).mean())
    assert method.loss(data)["loss"].item() == pytest.approx(expected, rel=1e-3)


def ramps() -> Tensor:
    """(320, 3, 32, 32) uint8: brightness rises in a direction of each image's own, so any patch tells about the others."""
    angle = 2 * torch.pi * torch.rand(320, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    axis = torch.linspace(-1, 1, 32)
    return ((0.5 + 0.3 * (angle.cos() * axis[:, None] + angle.sin() * axis)) * 255).to(torch.uint8).expand(-1, 3, -1, -1)


def sample() -> Tensor:
    """(2064, 1, 28, 28) uint8: Fashion-MNIST, a third of whose patches are flat."""
    with lzma.open(ROOT / "data/sample/fashion-mnist-12k.npy.xz") as file:
        return torch.from_numpy(np.lib.format.read_array(file)[:2064, None].copy())


@pytest.mark.parametrize(("pictures", "steps", "share"), [(ramps, 60, 0.5), (sample, 200, 0.95)])
def test_unseen_images_are_predicted_better_than_by_the_mean_of_each_patch(
    pictures: Callable[[], Tensor], steps: int, share: float
) -> None:
    """With normalized targets that mean is zero, and what it costs is their mean square."""
    images = pictures()
    (n, channels, side), ids = images.shape[:3], torch.arange(64)
    torch.manual_seed(0)
    encoder = encoder_of(channels, side, name="vit", width=32)
    still = dataclasses.replace(GENTLE, crop_scale=(1.0, 1.0))
    method = MAE(
        encoder,
        MAEConfig(mask=0.75, width=32, depth=1, normalize=True),
        still,
        DataInfo(n, side, channels, (0.3,) * channels, (0.3,) * channels),
    )
    optimizer = torch.optim.AdamW(method.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * min(1.0, (step + 1) / 20) * (1 - step / steps)
        chosen = Rng(ids, 1, step).integers(n - 64)
        loss = method.loss(Batch(method.views(images[chosen], Rng(ids, 0, step)), chosen, 0.0))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, order = method.eval().views(images[-64:], Rng(ids, 2))
    trivial = normalized(pick(patchify(x, 4), order[:, method.kept :])).square().mean().item()
    assert method.loss(Batch((x, order), ids, 0.0))["loss"].item() < share * trivial


def test_the_exported_encoder_sees_whole_images() -> None:
    method = make().eval()
    assert method.exported(torch.randn(2, 3, 32, 32)).shape == (2, 32)
    assert not any(key.startswith(("decoder", "mask_token")) for key in method.exported.state_dict())


def test_what_cannot_work_is_refused_with_what_to_change() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.name vit"):
        make(name="small")
    with pytest.raises(ConfigError, match=r"20 px .* must be a multiple of encoder\.patch_size 8"):
        make(patch=8, augment=dataclasses.replace(GENTLE, view_share=0.6))
    with pytest.raises(ConfigError, match=r"method\.mae\.mask is 1\.0"):
        make(mask=1.0)
