"""Keyed randomness: pure, independent, and distributed as it says."""

import pytest
import torch

from ssl_core.hashing import key, order
from ssl_core.rng import Rng, permutation

IDS = torch.arange(2000)


def test_the_same_key_draws_the_same_and_any_other_differs() -> None:
    first = Rng(IDS, 1, 2, 3).uniform(4)
    assert torch.equal(first, Rng(IDS, 1, 2, 3).uniform(4))
    for parts in ((1, 2, 4), (1, 3, 2), (3, 2, 1), (1, 2), (0, 1, 2, 3)):
        assert not torch.equal(first, Rng(IDS, *parts).uniform(4)), parts


def test_two_draws_of_one_stream_are_independent() -> None:
    rng = Rng(IDS, 0)
    a, b = rng.uniform(8).flatten(), rng.uniform(8).flatten()
    assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 0.03


@pytest.mark.fault("F49")
def test_an_image_draws_the_same_in_any_batch_and_position() -> None:
    whole = Rng(IDS, 7).normal(3, 2)
    part = Rng(IDS[[5, 999, 3]], 7).normal(3, 2)
    assert torch.equal(part, whole[[5, 999, 3]])


def test_moments() -> None:
    rng = Rng(IDS, 5)
    uniform, normal = rng.uniform(50), rng.normal(50)
    assert uniform.min() >= 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.005 and abs(uniform.var() - 1 / 12) < 0.002
    assert abs(normal.mean()) < 0.01 and abs(normal.var() - 1) < 0.02
    assert abs(rng.bernoulli(0.3, 50).float().mean() - 0.3) < 0.01
    counts = rng.integers(7, 50).flatten().bincount(minlength=7)
    assert counts.min() > 0.9 * 100_000 / 7 and len(counts) == 7


def test_low_bits_and_neighbouring_ids_are_unrelated() -> None:
    bits = (Rng(IDS, 1).uniform(64) * 2**24).long() % 2
    assert abs(bits.float().mean() - 0.5) < 0.01
    values = Rng(IDS, 1).uniform(64)
    assert torch.corrcoef(torch.stack([values[:-1].flatten(), values[1:].flatten()]))[0, 1].abs() < 0.02


def test_permutations_are_permutations() -> None:
    rows = Rng(IDS[:100], 2).permutation(9)
    assert torch.equal(rows.sort(dim=1).values, torch.arange(9).expand(100, 9))
    assert len(rows.unique(dim=0)) > 90
    order = permutation(5000, 0, 1)
    assert torch.equal(order.sort().values, torch.arange(5000))
    assert not torch.equal(order, permutation(5000, 0, 2))
    assert not torch.equal(order, torch.arange(5000))


def test_a_shared_draw_does_not_depend_on_the_ids() -> None:
    assert torch.equal(Rng(IDS[:3], 4).shared_normal(5, 2), Rng(IDS[10:], 4).shared_normal(5, 2))


@pytest.mark.fault("F49")
def test_keys_differ_in_every_part_and_position() -> None:
    keys = {key(a, b) for a in range(50) for b in range(50)}
    assert len(keys) == 2500


def test_each_piece_of_a_sample_draws_for_itself_and_the_same_in_any_batch() -> None:
    drawn = Rng(torch.tensor([5, 9]), 0).each(3).uniform(2)
    assert drawn.shape == (6, 2) and len(drawn.unique()) == 12
    assert torch.equal(drawn[3:], Rng(torch.tensor([9]), 0).each(3).uniform(2))


def test_arrays_and_tensors_are_shuffled_alike() -> None:
    for parts in ((0, 1), (7, 3, 2**40)):
        assert order(5000, *parts).tolist() == permutation(5000, *parts).tolist()
