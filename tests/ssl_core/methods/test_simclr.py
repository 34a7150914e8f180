"""SimCLR: two different views, one forward pass, NT-Xent of the projections."""

import math
from dataclasses import replace

import torch

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.simclr import SimCLR, SimCLRConfig
from ssl_core.parts.losses import nt_xent
from ssl_core.rng import Rng
from tests.conftest import textured_images
from tests.support.configs import AUGMENT, encoder_of

IDS = torch.arange(8)
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make() -> SimCLR:
    torch.manual_seed(0)
    encoder = encoder_of()
    return SimCLR(encoder, SimCLRConfig(hidden=16, dim=8, temperature=0.5), AUGMENT, DataInfo(8, 16, 1, (0.5,), (0.25,)))


def test_the_two_views_of_an_image_differ() -> None:
    x1, x2 = make().views(IMAGES, Rng(IDS, 0))
    assert x1.shape == x2.shape == IMAGES.shape
    assert ((x1 - x2).abs().amax((1, 2, 3)) > 0.1).all()


def test_the_loss_is_nt_xent_of_the_projections_of_both_views() -> None:
    method = make().eval()
    x1, x2 = views = method.views(IMAGES, Rng(IDS, 0))
    expected = nt_xent(method.projector(method.encoder(x1)), method.projector(method.encoder(x2)), 0.5)
    torch.testing.assert_close(method.loss(Batch(views, IDS, 0.0))["loss"], expected)


def test_both_views_share_their_batch_statistics() -> None:
    method = make()
    method.loss(Batch(method.views(IMAGES, Rng(IDS, 0)), IDS, 0.0))
    norm = method.encoder.stem[1]  # type: ignore[index]
    assert int(norm.num_batches_tracked) == 1


def test_training_finds_each_image_among_the_others() -> None:
    """The loss falls well below ln(2B - 1), where one that ignored its positives would stay."""
    method, images, ids = make(), torch.from_numpy(textured_images(64, 1, 16)), torch.arange(64)
    method.augment = replace(AUGMENT, crop_scale=(0.8, 1.0))
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    for step in range(30):
        optimizer.zero_grad()
        loss = method.loss(Batch(method.views(images, Rng(ids, step)), ids, 0.0))["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < math.log(127) - 0.5
