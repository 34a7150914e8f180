"""LeJEPA: SIGReg's printed and closed-form values, lightly with the same slices, slices that all processes share."""

import math

import pytest
import torch
from lightly.loss.lejepa_loss import LeJEPALoss
from torch import Tensor, nn

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.lejepa import LeJEPA, LeJEPAConfig, sigreg
from ssl_core.parts.multicrop import Crops, encode_crops
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

IDS = torch.arange(8)
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
H = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
ONE = torch.ones(1, 1)


def make(views: int = 2, weight: float = 0.05) -> LeJEPA:
    torch.manual_seed(0)
    encoder = encoder_of()
    config = LeJEPAConfig(hidden=16, dim=8, weight=weight, slices=12, crops=Crops(views=views, scale=(0.1, 0.4), size=0.5))
    return LeJEPA(encoder, config, AUGMENT, DataInfo(8, 16, 1, (0.5,), (0.25,)))


@pytest.mark.parametrize("n", [1, 4, 100])
def test_a_collapsed_batch_costs_its_size_times_the_closed_form(n: int) -> None:
    assert sigreg(torch.zeros(1, n, 3), torch.eye(3)).item() / n == pytest.approx(0.40204758, rel=1e-6)
    root = math.sqrt
    integral = (
        root(2 * math.pi) * math.erf(3 / root(2))
        - 2 * root(math.pi) * math.erf(3)
        + root(2 * math.pi / 3) * math.erf(3 * root(1.5))
    )
    assert pytest.approx(0.40204758, abs=3e-4) == integral  # the trapezoidal rule is this near


def test_the_worked_example() -> None:
    assert sigreg(H[None], torch.eye(3)).item() == pytest.approx(0.41131845, abs=5e-7)


def test_normal_rows_cost_what_theory_says_whatever_their_number() -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (16, 128):
        z = torch.randn(400, n, 1, generator=generator)
        assert sigreg(z, ONE).item() == pytest.approx(1.05246415, abs=0.1)


def test_exact_quantiles_of_a_normal_cost_nearly_nothing_and_another_scale_or_mean_much() -> None:
    z = torch.special.ndtri((torch.arange(1000) + 0.5) / 1000)[None, :, None]
    assert sigreg(z, ONE).item() == pytest.approx(3.53e-5, rel=0.05)
    assert min(sigreg(2 * z, ONE).item(), sigreg(0.5 * z, ONE).item(), sigreg(z + 0.5, ONE).item()) > 10


def test_the_statistic_is_the_formula_written_as_loops() -> None:
    z, slices = torch.randn(2, 5, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[:2]
    total, grid = 0.0, [3 * k / 16 for k in range(17)]
    for v in range(2):
        for a in slices:
            for k, t in enumerate(grid):
                cos = sum(math.cos(t * float(z[v, n] @ a)) for n in range(5)) / 5
                sin = sum(math.sin(t * float(z[v, n] @ a)) for n in range(5)) / 5
                phi = math.exp(-t * t / 2)
                total += 5 * ((cos - phi) ** 2 + sin**2) * phi * (3 / 16) * (1 if k in (0, 16) else 2)
    assert sigreg(z.float(), slices.float()).item() == pytest.approx(total / 4, rel=1e-5)


def peer(slices: Tensor, weight: float) -> LeJEPALoss:
    """lightly's loss with these slices instead of its own draw."""
    loss = LeJEPALoss(lambda_param=weight)
    loss.sigreg._generate_unit_vectors = lambda *args, **kwargs: slices.T
    return loss


def test_loss_and_gradient_equal_lightly_with_the_same_slices() -> None:
    method = make().eval()
    views = method.views(IMAGES, Rng(IDS, 0))
    z = torch.stack(method.projector(encode_crops(method.encoder, views[:-1])).chunk(4))
    expected = peer(views[-1], 0.05)(local_proj=z[2:], global_proj=z[:2])
    ours = method.loss(Batch(views, IDS, 0.0))["loss"]
    torch.testing.assert_close(ours, expected)
    weights = list(method.projector.parameters())
    torch.testing.assert_close(torch.autograd.grad(ours, weights), torch.autograd.grad(expected, weights), rtol=1e-4, atol=1e-6)


def test_equal_views_have_no_invariance_term_and_the_weight_mixes_the_two() -> None:
    method = make(views=0, weight=0.25)
    method.encoder = method.projector = nn.Identity()  # type: ignore[assignment]
    z, slices = torch.randn(6, 3), torch.eye(3)
    out = method.loss(Batch((z, z, slices), torch.arange(6), 0.0))
    assert out["invariance"].item() == 0.0
    torch.testing.assert_close(out["loss"], 0.25 * out["sigreg"])
    out = method.loss(Batch((z, z + 2, slices), torch.arange(6), 0.0))
    assert out["invariance"].item() == pytest.approx(1.0)  # each view is 1 from the center
    torch.testing.assert_close(out["loss"], 0.75 * out["invariance"] + 0.25 * out["sigreg"])


def test_slices_are_unit_new_each_step_and_the_same_for_every_process() -> None:
    method = make()
    slices = method.views(IMAGES, Rng(IDS, 0))[-1]
    torch.testing.assert_close(slices.norm(dim=1), torch.ones(12))
    assert torch.equal(method.views(IMAGES[:4], Rng(IDS[4:], 0))[-1], slices)
    assert not torch.equal(method.views(IMAGES, Rng(IDS, 1))[-1], slices)
