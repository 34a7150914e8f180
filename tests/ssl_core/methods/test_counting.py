"""Counting: the two terms, the zero solution, the branches that learn, and the tiles."""

import dataclasses

import pytest
import torch

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.counting import FILTERS, Counting, CountingConfig, counting_terms, halve, quarters
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

CONFIG = CountingConfig(hidden=16, dim=8, margin=10.0, grayscale=0.5, padding=0.125)
IDS = torch.arange(6)


def make(side: int = 28, channels: int = 1, norm: str = "group", **changes: object) -> Counting:
    torch.manual_seed(0)
    encoder = encoder_of(channels, side, norm=norm)
    data = DataInfo(64, side, channels, (0.5,) * channels, (0.25,) * channels)
    return Counting(encoder, dataclasses.replace(CONFIG, **changes), AUGMENT, data)


def images(side: int = 28, channels: int = 1) -> torch.Tensor:
    return torch.randint(
        0, 256, (len(IDS), channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def test_the_terms_of_a_worked_example() -> None:
    whole = torch.tensor([[4.0, 0, 2]])
    parts = torch.tensor([[[1.0, 0, 0], [1, 0, 1], [1, 0, 0], [1, 0, 1]]])
    pull, hinge = counting_terms(whole, parts, torch.tensor([[6.0, 0, 2]]), 10.0)
    assert (float(pull), float(hinge), float(pull + hinge)) == (0.0, 6.0, 6.0)


def test_the_margin_is_on_the_whole_vector() -> None:
    """Element by element each difference of 2 would be within a margin of 10; together they are not."""
    whole, parts = torch.zeros(1, 3), torch.zeros(1, 4, 3)
    assert float(counting_terms(whole, parts, torch.full((1, 3), 2.0), 10.0)[1]) == 0.0
    assert float(counting_terms(whole, parts, torch.tensor([[2.0, 0, 0]]), 10.0)[1]) == 6.0


def test_counting_nothing_costs_the_margin_and_raises_the_alarm() -> None:
    method = make()
    views = method.views(images(), Rng(IDS, 0))
    last = method.counter[-2]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, -1.0)  # the rectified counts are exactly zero
    out = {k: float(v.detach()) for k, v in method.loss(Batch(views, IDS, 0.0)).items()}
    assert out == {"loss": 10.0, "pull": 0.0, "hinge": 10.0, "zero_solution": 1.0}
    torch.nn.init.constant_(last.bias, 1.0)  # constant ones: pull = 8 * 3^2, other = whole
    out = {k: float(v.detach()) for k, v in method.loss(Batch(views, IDS, 0.0)).items()}
    assert out == {"loss": 72.0, "pull": 72.0, "hinge": 0.0, "zero_solution": 0.0}


@pytest.mark.parametrize(("margin", "branches"), [(1e6, 6), (0.0, 5)])
def test_the_gradient_reaches_all_six_branches_while_the_hinge_is_active_and_five_when_not(
    margin: float, branches: int
) -> None:
    whole, parts, other = (torch.rand(2, *shape, requires_grad=True) for shape in ((5,), (4, 5), (5,)))
    sum(counting_terms(whole, parts, other, margin)).sum().backward()  # type: ignore[union-attr]
    reached = int((whole.grad != 0).any()) + int((parts.grad != 0).any(2).all(0).sum())
    reached += int(other.grad is not None and bool((other.grad != 0).any()))
    assert reached == branches


def test_no_count_of_pixels_solves_the_task() -> None:
    """The sum over the pixels of a constant image v at 32 px: 256 v halved, 1024 v in the quarters, pull (768 v)^2."""
    v = 0.25
    x = torch.full((1, 1, 32, 32), v)
    half = halve(x, Rng(torch.zeros(1, dtype=torch.int64), 0))
    pull, _ = counting_terms(half.sum((1, 2, 3))[:, None], quarters(x).sum((2, 3, 4))[..., None], torch.zeros(1, 1), 10.0)
    assert float(pull) == pytest.approx((768 * v) ** 2, rel=1e-4)


def test_the_quarters_make_up_the_image() -> None:
    x = torch.rand(3, 2, 8, 8)
    upper_left, upper_right, lower_left, lower_right = quarters(x).unbind(1)
    rows = [torch.cat([upper_left, upper_right], 3), torch.cat([lower_left, lower_right], 3)]
    assert torch.equal(torch.cat(rows, 2), x)


def test_the_filter_is_drawn_per_image() -> None:
    ids = torch.arange(64)
    same = torch.rand(1, 1, 16, 16).expand(64, -1, -1, -1)
    halves = halve(same, Rng(ids, 0))
    assert len(halves.flatten(1).unique(dim=0)) == len(FILTERS) == 4
    torch.testing.assert_close(halves[5:9], halve(same[5:9], Rng(ids[5:9], 0)))  # and no matter who else is in the batch


def test_halves_and_quarters_are_grey_together() -> None:
    method = make(32, 3)
    method.data = DataInfo(64, 32, 3, (0.0,) * 3, (1.0,) * 3)
    ids = torch.arange(40)
    (inputs,) = method.views(images(32, 3).repeat(7, 1, 1, 1)[:40], Rng(ids, 0))
    grey = (inputs[:, :, :1] - inputs).abs().amax((2, 3, 4)) < 1e-5
    assert torch.equal(grey, grey[:, :1].expand(-1, 5))
    assert 0.25 < grey.float().mean() < 0.75


@pytest.mark.parametrize(("side", "channels", "half"), [(28, 1, 14), (29, 1, 14), (32, 3, 16), (96, 3, 48), (224, 3, 112)])
def test_views_are_the_half_and_four_quarters_at_any_size(side: int, channels: int, half: int) -> None:
    (inputs,) = make(side, channels).views(images(side, channels), Rng(IDS, 0))
    assert inputs.shape == (6, 5, channels, half, half)
    quarters_mean = inputs[:, 1:].mean((1, 2, 3, 4))
    torch.testing.assert_close(inputs[:, 0].mean((1, 2, 3)), quarters_mean, atol=0.05, rtol=0)


def test_the_loss_is_that_of_the_paper_with_the_neighbor_in_the_batch_as_the_other_image() -> None:
    method = make().eval()
    with torch.no_grad():
        for p in method.counter.parameters():
            p.mul_(2.0)  # counts large enough for both terms to matter
        (inputs,) = method.views(images(), Rng(IDS, 0))
        out = method.loss(Batch((inputs,), IDS, 0.0))
        pulls, hinges = [], []
        for n in range(6):
            counts = [method.counter(method.encoder(inputs[n, t : t + 1]))[0] for t in range(5)]
            other = method.counter(method.encoder(inputs[n - 1, :1]))[0]
            total = counts[1] + counts[2] + counts[3] + counts[4]
            pulls.append(sum((float(a) - float(b)) ** 2 for a, b in zip(counts[0], total, strict=True)))
            hinges.append(max(0.0, 10.0 - sum((float(a) - float(b)) ** 2 for a, b in zip(other, total, strict=True))))
    assert float(out["pull"]) == pytest.approx(sum(pulls) / 6, rel=1e-4)
    assert float(out["hinge"]) == pytest.approx(sum(hinges) / 6, rel=1e-4)
    assert float(out["loss"]) == pytest.approx(sum(pulls + hinges) / 6, rel=1e-4)


def test_counts_are_never_negative() -> None:
    assert (make().counter(torch.randn(100, 32)) >= 0).all()


def test_the_alarm_says_what_is_wrong_once_it_is_on_in_most_steps() -> None:
    method = make()
    assert method.raised({"zero_solution": 0.4}) == {} == method.raised({})
    assert "counts nothing" in method.raised({"zero_solution": 0.6})["zero_solution"]


def test_halves_and_quarters_share_one_forward_pass() -> None:
    """With batch statistics of their own they would be told apart."""
    method = make(norm="batch")
    method.loss(Batch(method.views(images(), Rng(IDS, 0)), IDS, 0.0))
    assert int(method.encoder.stem[1].num_batches_tracked) == 1


@pytest.mark.fault("F43")
def test_a_batch_of_one_has_no_other_image() -> None:
    method = make()
    with pytest.raises(ValueError, match="batch_size"):
        method.loss(Batch(method.views(images()[:1], Rng(IDS[:1], 0)), IDS[:1], 0.0))
