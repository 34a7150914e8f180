"""NPID: printed values of softmax and NCE, the frozen normalizer, the bank that is read before it is written."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.npid import NPID, NPIDConfig, estimate_log_z, nce
from ssl_core.parts.losses import unit
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

CONFIG = NPIDConfig(dim=8, temperature=0.5, negatives=0, norm=True, bank_momentum=0.5, proximal=0.0)
IDS = torch.tensor([3, 1, 20, 7, 11, 2, 30, 9])
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

BANK = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]], dtype=torch.float64)
V = torch.tensor([[0.8, 0.6]], dtype=torch.float64)
OWN, NOISE = torch.tensor([1]), torch.tensor([[0, 3]])


def make(**changes: object) -> NPID:
    torch.manual_seed(0)
    encoder = encoder_of()
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return NPID(encoder, config, AUGMENT, DataInfo(32, 16, 1, (0.5,), (0.25,)))


def batch(method: NPID, step: int = 0) -> Batch:
    return Batch(method.views(IMAGES, Rng(IDS, step)), IDS, 0.0)


def worked(**changes: object) -> NPID:
    """The method with the bank of the worked example and an encoder that gives its query."""
    method = make(dim=2, **changes)
    method.encoder = method.projector = torch.nn.Identity()  # type: ignore[assignment]
    method.bank.vectors = BANK.float()
    return method


def test_the_full_softmax_and_the_bank_row_of_the_worked_example() -> None:
    method = worked()
    loss = method.loss(Batch((V.float(),), OWN, 0.0))["loss"].item()
    assert loss == pytest.approx(0.83144915, abs=2e-7)
    assert math.exp(loss + 0.96 / 0.5) == pytest.approx(15.66531688, rel=1e-6)  # the exact Z
    torch.testing.assert_close(method.bank.vectors[1], torch.tensor([0.70710678, 0.70710678]))


def test_the_normalizer_and_nce_of_the_worked_example() -> None:
    similarity = (V @ BANK.T).requires_grad_()
    assert similarity[0].tolist() == pytest.approx([0.8, 0.96, 0.6, -0.28])
    log_z = estimate_log_z(similarity, OWN, NOISE, 0.5)
    assert log_z.exp().item() == pytest.approx(16.46026661, abs=1e-7)
    loss = nce(similarity, OWN, NOISE, log_z.detach(), 0.5)
    assert loss.item() == pytest.approx(1.32969105, abs=5e-8)
    (gradient,) = torch.autograd.grad(loss, similarity)  # (h - 1) / T of the positive, h / T of the noise
    assert (0.5 * gradient[0]).tolist() == pytest.approx([0.37570888, 0.45318696 - 1, 0, 0.06490022], abs=1e-8)


def test_nce_of_the_worked_example_through_the_loss_with_the_normalizer_frozen_after_it() -> None:
    method = worked(negatives=2)
    assert method.loss(Batch((V.float(), NOISE), OWN, 0.0))["loss"].item() == pytest.approx(1.32969105, abs=5e-7)
    method.loss(Batch((-V.float(), NOISE), OWN, 0.0))
    assert method.log_z.exp().item() == pytest.approx(16.46026661, rel=1e-6)
    resumed = worked(negatives=2)
    resumed.load_state_dict(method.state_dict())
    resumed.loss(Batch((-V.float(), NOISE), OWN, 0.0))
    assert torch.equal(resumed.log_z, method.log_z)


def test_nce_is_the_formula_written_as_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    bank = unit(torch.randn(12, 4, generator=generator, dtype=torch.float64))
    v = unit(torch.randn(5, 4, generator=generator, dtype=torch.float64))
    own, noise = torch.arange(5) * 2, torch.randint(0, 12, (5, 3), generator=generator)
    z, m, total = 40.0, 3, 0.0
    for i in range(5):

        def h(j: int, i: int = i) -> float:
            p = math.exp(float(v[i] @ bank[j]) / 0.3) / z
            return p / (p + m / 12)

        total -= math.log(h(int(own[i]))) + sum(math.log(1 - h(int(j))) for j in noise[i])
    assert nce(v @ bank.T, own, noise, torch.tensor(z).log(), 0.3).item() == pytest.approx(total / 5, rel=1e-7)


def test_nce_when_every_image_is_equally_likely_is_its_closed_form() -> None:
    similarity, noise = torch.zeros(2, 10, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.int64)
    loss = nce(similarity, torch.tensor([0, 1]), noise, torch.tensor(10.0, dtype=torch.float64).log(), 0.5)
    assert loss.item() == pytest.approx(2.50201212, abs=1e-8)
    assert loss.item() == pytest.approx(math.log(5) + 4 * math.log(5 / 4))


def test_the_loss_reads_the_bank_before_it_writes_it_at_the_ids_of_the_batch() -> None:
    method = make().eval()
    data, old = batch(method), method.bank.read()
    v = unit(method.projector(method.encoder(data.views[0])))
    torch.testing.assert_close(method.loss(data)["loss"], F.cross_entropy(v @ old.T / 0.5, IDS))
    torch.testing.assert_close(method.bank.vectors[IDS], F.normalize(0.5 * old[IDS] + 0.5 * v.detach(), dim=1))
    rest = torch.ones(32, dtype=torch.bool)
    rest[IDS] = False
    assert torch.equal(method.bank.vectors[rest], old[rest])


def test_the_proximal_term_pulls_to_the_last_vector() -> None:
    plain, pulled = make().eval(), make(proximal=2.0).eval()
    pulled.load_state_dict(plain.state_dict())
    data, old = batch(plain), plain.bank.read()
    v = unit(plain.projector(plain.encoder(data.views[0])))
    expected = plain.loss(data)["loss"] + 2.0 * (v - old[IDS]).square().sum(1).mean()
    torch.testing.assert_close(pulled.loss(data)["loss"], expected)


def test_noise_is_drawn_from_all_images_per_query() -> None:
    method = make(negatives=400)
    _, noise = method.views(IMAGES, Rng(IDS, 0))
    assert noise.shape == (8, 400)
    assert noise.unique().tolist() == list(range(32))
    assert not torch.equal(noise[0], noise[1])


def test_the_bank_gets_no_gradient() -> None:
    method = make(negatives=4)
    method.loss(batch(method))["loss"].backward()
    assert method.bank.vectors.grad is None
    assert not method.bank.vectors.requires_grad
