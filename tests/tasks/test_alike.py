"""All near-duplicates are found, whatever is shown, and as groups where there are many."""

import argparse
from itertools import combinations

import pytest
import torch

from tasks import alike, embed

ALL = argparse.Namespace(all=True, threshold=0.99, neighbors=5, query=None, path="images")


@pytest.mark.parametrize("count", [2, 3, 4, 20, 300])
def test_identical_images_are_all_pairs_and_one_group(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 1 + 1e-7 * torch.randn(count, 192, generator=generator)  # another place in the batch
    features = torch.rand(192, generator=generator) * noise
    found = alike.duplicates(features, 0.99)
    assert found.count == count * (count - 1) // 2 and found.groups == [list(range(count))]
    if found.count <= alike.MOST_PAIRS:
        assert {(i, j) for _, i, j in found.pairs} == set(combinations(range(count), 2))
    similarity, _ = alike.likeness(features, 1)
    assert (similarity > 0.99).all()


@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.999])
def test_pairs_and_groups_are_those_of_the_whole_matrix(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "BLOCK", 7)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(40, 6, generator=generator)
    features[30:] = features[:10]
    centered = torch.nn.functional.normalize(features.double() - features.double().mean(0))
    matrix = centered @ centered.T
    expected = {(i, j): matrix[i, j].item() for i, j in combinations(range(40), 2) if matrix[i, j] >= threshold}
    found = alike.duplicates(features, threshold)
    assert {(i, j): pytest.approx(s, abs=1e-6) for s, i, j in found.pairs} == expected and found.count == len(expected)
    assert [s for s, _, _ in found.pairs] == sorted((s for s, _, _ in found.pairs), reverse=True)
    groups = {i: {i} for i in range(40)}
    for i, j in expected:
        joined = groups[i] | groups[j]
        groups |= dict.fromkeys(joined, joined)
    assert {tuple(g) for g in found.groups} == {tuple(sorted(g)) for g in groups.values() if len(g) > 1}


def test_the_complete_list_does_not_depend_on_the_neighbors_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names, features = [f"{i}.png" for i in range(20)], torch.ones(20, 4)
    embed.show(names, features, ALL)
    printed = capsys.readouterr().out
    assert "190 pairs, 1 group " in printed and printed.count("  1.000  ") == 190 + 5 * 5


def test_many_pairs_are_listed_as_groups(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{i}.png" for i in range(300)]
    features = torch.cat([torch.eye(4)[:1].expand(200, 4), torch.eye(4)[1:2].expand(100, 4)])
    embed.show(names, features, ALL)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].endswith(f"{200 * 199 // 2 + 100 * 99 // 2:,} pairs, 2 groups of images")
    assert lines[-3].startswith("note: 200 of 300 images are one group")
    assert lines[-2].split() == ["200", "images:", *names[:200]] and lines[-1].split() == ["100", "images:", *names[200:]]


def test_four_of_five_neighbors_of_another_class_are_enough_to_suspect_a_label() -> None:
    most, fewer = ([*["cat"] * count, *["dog"] * (10 - count)] for count in (8, 7))
    for neighbors, suspected in ((most, [0]), (fewer, [])):
        found = alike.suspects(["dog", *neighbors], torch.arange(1, 11)[None])
        assert [suspect.row for suspect in found] == suspected


def test_a_chain_is_one_group() -> None:
    label = torch.arange(1000)
    order = torch.randperm(999, generator=torch.Generator().manual_seed(0))
    for part in order.split(100):
        alike._join(label, part, part + 1)
    assert (label == 0).all()
