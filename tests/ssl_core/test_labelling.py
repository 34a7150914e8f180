"""Which images to label, and what a few labels say of an encoder."""

import pytest
import torch
from torch import Tensor

from ssl_core.labelling import STRENGTHS, _kernel, explained_by_few, spread


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


def test_the_errors_are_those_of_regressions_without_each_image() -> None:
    points, labels = blobs(20, 6, 1.0)
    x = torch.nn.functional.normalize(points.double())
    squares = torch.cdist(x, x).square()
    kernel = torch.exp(-squares / (2 * squares[~torch.eye(20, dtype=torch.bool)].median()))
    y = torch.eye(4, dtype=torch.float64)[labels]
    y = y - y.mean(0)
    found = []
    for strength in STRENGTHS:
        errors = []
        for i in range(20):
            rest = torch.arange(20) != i
            weights = torch.linalg.solve(kernel[rest][:, rest] + strength * torch.eye(19, dtype=x.dtype), y[rest])
            errors.append(float((y[i] - kernel[i, rest] @ weights).square().sum()))
        found.append(1 - sum(errors) / float(y.square().sum()))
    explained = explained_by_few(points, labels)
    assert explained.shape == labels.shape and float(explained.mean()) == pytest.approx(max(found), abs=1e-9)


def test_the_better_features_predict_more_of_the_labels() -> None:
    near, labels = blobs(60, 16, 0.3)
    far, _ = blobs(60, 16, 3.0)
    explained = explained_by_few(far, labels)
    assert explained.mean() > 0.8 > 0.4 > explained_by_few(near, labels).mean()
    chance = explained_by_few(torch.randn(60, 16, generator=torch.Generator().manual_seed(3)), labels)
    assert chance.mean() < 0.1
    assert torch.equal(explained_by_few(far, labels + 7), explained)
    torch.testing.assert_close(explained_by_few(9 * far, labels), explained)


def test_of_images_that_belong_together_none_is_predicted_from_another_one_of_its_group() -> None:
    """As by a fit without each group; and pictures of one patient say nothing of another's label."""
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(40, 6, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    groups = torch.arange(40) // 4
    y = torch.nn.functional.one_hot(labels).double()
    y = y - y.mean(0)
    kernel, left_out = _kernel(x), []
    for strength in STRENGTHS:
        errors = torch.zeros_like(y)
        for group in range(10):
            own, rest = groups == group, groups != group
            inner = kernel[rest][:, rest] + strength * torch.eye(36, dtype=torch.float64)
            errors[own] = y[own] - kernel[own][:, rest] @ torch.linalg.solve(inner, y[rest])
        left_out.append(errors.square().sum(1))
    least = min(left_out, key=lambda errors: float(errors.sum()))
    torch.testing.assert_close(explained_by_few(x, labels, groups), 1 - least / y.square().sum(1).mean())
    torch.testing.assert_close(explained_by_few(x, labels, torch.arange(40)), explained_by_few(x, labels))
    patients = torch.randn(20, 8, generator=generator).repeat_interleave(5, 0)
    seen, diagnosis = torch.arange(100) // 5, (torch.arange(20) % 2).repeat_interleave(5)
    assert explained_by_few(patients, diagnosis).mean() > 0.9 > 0.2 > explained_by_few(patients, diagnosis, seen).mean()


def test_one_class_tells_nothing_and_a_rare_one_breaks_nothing() -> None:
    points, labels = blobs(20, 16, 3.0)
    with pytest.raises(ValueError, match="two classes"):
        explained_by_few(points, torch.zeros(20, dtype=torch.int64))
    rare = torch.where(torch.arange(20) == 0, 1, 0)
    assert explained_by_few(points, rare).max() <= 1
    assert explained_by_few(points[:3], labels[:3]).max() <= 1
    assert float(explained_by_few(torch.ones(20, 16), labels).mean()) == pytest.approx(0, abs=0.2)
