"""NNCLR: the search, the printed loss, a queue that is read before it is written."""

import dataclasses
import math

import pytest
import torch
from lightly.models.modules import NNMemoryBankModule
from torch import nn

from ssl_core.config import ConfigError
from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.nnclr import NNCLR, NNCLRConfig, nearest
from ssl_core.parts.losses import info_nce, unit
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

CONFIG = NNCLRConfig(hidden=16, dim=8, temperature=0.2, queue=32)
IDS = torch.arange(8)
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make(**changes: object) -> NNCLR:
    torch.manual_seed(0)
    encoder = encoder_of()
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return NNCLR(encoder, config, AUGMENT, DataInfo(64, 16, 1, (0.5,), (0.25,)))


def batch(method: NNCLR) -> Batch:
    return Batch(method.views(IMAGES, Rng(IDS, 0)), IDS, 0.0)


def test_the_nearest_of_a_queue_that_holds_the_query_is_the_query() -> None:
    z, others = unit(torch.randn(5, 8)), unit(torch.randn(20, 8))
    torch.testing.assert_close(nearest(z, torch.cat([others, z])), z)
    assert torch.equal(nearest(7 * z, others), nearest(z, others))  # length does not matter


def test_the_search_equals_lightly() -> None:
    z, support = torch.randn(5, 8), unit(torch.randn(20, 8))
    peer = NNMemoryBankModule(size=(20, 8))
    peer(torch.randn(2, 8), update=True)
    peer.bank = support.T.clone() if peer.bank.shape == (8, 20) else support.clone()
    torch.testing.assert_close(nearest(z, support), peer(z, update=False))


def test_the_worked_example() -> None:
    """Two orthogonal projections that find themselves, and predictions turned by an angle."""
    method = make(dim=2, queue=2, temperature=0.5)
    method.encoder = method.projector = nn.Identity()  # type: ignore[assignment]
    method.predictor = nn.Linear(2, 2, bias=False)  # type: ignore[assignment]
    with torch.no_grad():
        method.predictor.weight.copy_(torch.tensor([[0.6, -0.8], [0.8, 0.6]]))
    method.queue.keys.copy_(torch.eye(2))
    loss = method.loss(Batch((torch.eye(2), torch.eye(2)), torch.arange(2), 0.0))["loss"]
    assert loss.item() == pytest.approx(0.48602404, abs=2e-7)


def test_the_loss_is_the_mean_of_both_directions_with_the_queue_of_before() -> None:
    method = make().eval()
    data, older = batch(method), method.queue.read()
    z1, z2 = (method.projector(method.encoder(x)) for x in data.views)
    p1, p2 = method.predictor(z1), method.predictor(z2)
    expected = (info_nce(nearest(z1, older), p2, 0.2) + info_nce(nearest(z2, older), p1, 0.2)) / 2
    torch.testing.assert_close(method.loss(data)["loss"], expected)
    total = 0.0  # the formula written as loops: predictions of one view alone are in the sum
    for z, p in ((unit(z1).detach(), unit(p2).detach()), (unit(z2).detach(), unit(p1).detach())):
        for i in range(8):
            friend = max(older, key=lambda row: float(row @ z[i]))
            scores = [math.exp(float(friend @ p[k]) / 0.2) for k in range(8)]
            total -= math.log(scores[i] / sum(scores)) / 16
    assert expected.item() == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(method.queue.keys[:8], unit(z1))  # the first view alone enters
    torch.testing.assert_close(method.queue.keys[8:], older[8:])


def test_the_gradient_comes_through_the_predictions_alone() -> None:
    """With predictions that ignore their input nothing is left to carry a gradient to the encoder."""
    method = make()
    for p in method.predictor[0].parameters():
        nn.init.zeros_(p)
    method.loss(batch(method))["loss"].backward()
    assert not any(p.grad.any() for p in [*method.encoder.parameters(), *method.projector.parameters()])


def test_a_queue_longer_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.nnclr\.queue is 128"):
        make(queue=128)
