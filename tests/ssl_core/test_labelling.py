"""Which images to label, and what a few labels say of an encoder."""

import pytest
import torch
from torch import Tensor

from ssl_core.labelling import judged_by_few, spread


def blobs(count: int, dim: int, far: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points around four centers, and whose they are."""
    random = torch.Generator().manual_seed(seed)
    centers = torch.randn(4, dim, generator=random) * far
    labels = torch.arange(count) % 4
    return centers[labels] + torch.randn(count, dim, generator=random), labels


def test_the_images_to_label_stand_for_all() -> None:
    points, labels = blobs(400, 16, 8.0)
    rare = torch.cat([torch.arange(0, 380), torch.tensor([381])])  # all of four groups, and of one much less
    kept = rare[(labels[rare] != 1) | (rare < 20)]
    rows = spread([points[kept], points[kept] * 100], 12, 0)
    assert len(rows.unique()) == 12 and rows.tolist() == sorted(rows.tolist())
    assert set(labels[kept][rows].tolist()) == {0, 1, 2, 3}
    assert spread([points[kept], points[kept] * 100], 12, 0).equal(rows)


def test_an_encoder_with_wider_features_has_no_more_say() -> None:
    points, labels = blobs(200, 8, 8.0)
    noise = torch.randn(200, 512, generator=torch.Generator().manual_seed(1))
    rows = spread([points, noise], 16, 0)
    assert len(set(labels[rows].tolist())) == 4


def test_images_that_are_all_alike_are_still_different_rows() -> None:
    assert len(spread([torch.ones(30, 4)], 10, 0).unique()) == 10
    with pytest.raises(ValueError, match="30 clusters, not 31"):
        spread([torch.ones(30, 4)], 31, 0)


def test_the_better_features_get_more_of_the_labels_right() -> None:
    near, labels = blobs(60, 16, 0.3)
    far, _ = blobs(60, 16, 3.0)
    assert judged_by_few(far, labels, 0) > 0.95 > 0.7 > judged_by_few(near, labels, 0)
    chance = judged_by_few(torch.randn(60, 16, generator=torch.Generator().manual_seed(3)), labels, 0)
    assert chance < 0.5
    assert judged_by_few(far, labels + 7, 0) == judged_by_few(far, labels, 0)


def test_one_class_tells_nothing_and_a_rare_one_breaks_nothing() -> None:
    points, labels = blobs(20, 16, 3.0)
    with pytest.raises(ValueError, match="two classes"):
        judged_by_few(points, torch.zeros(20, dtype=torch.int64), 0)
    rare = torch.where(torch.arange(20) == 0, 1, 0)
    assert 0 <= judged_by_few(points, rare, 0) <= 1
    assert 0 <= judged_by_few(points[:3], labels[:3], 0) <= 1
