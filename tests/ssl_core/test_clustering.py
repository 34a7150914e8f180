"""k-means: right on separated data, the same on every call, never with an empty cluster's NaN."""

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from ssl_core.clustering import cluster_means, kmeans


def blobs(per_blob: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.tensor([[10.0, 0.0], [0.0, 10.0], [-10.0, -10.0]])
    labels = torch.arange(3).repeat(per_blob)
    return centers[labels] + 0.3 * torch.randn(3 * per_blob, 2, generator=generator), labels


@pytest.mark.parametrize("part", range(8))
def test_separated_blobs_are_recovered_whatever_the_key(part: int) -> None:
    x, labels = blobs()
    centroids, assignment = kmeans(x, 3, 10, part)
    assert normalized_mutual_info_score(labels, assignment) == pytest.approx(1.0)
    for cluster in range(3):
        torch.testing.assert_close(centroids[cluster], x[assignment == cluster].mean(0))


def test_the_result_depends_on_the_key_alone() -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    first, again, other = kmeans(x, 20, 5, 7, 0), kmeans(x, 20, 5, 7, 0), kmeans(x, 20, 5, 7, 1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_each_row_belongs_to_its_nearest_centroid() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(2))
    centroids, assignment = kmeans(x, 10, 5, 0)
    assert torch.equal(assignment, torch.cdist(x, centroids).argmin(1))


def test_more_iterations_do_not_raise_the_distance() -> None:
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(3))

    def distance(iterations: int) -> float:
        centroids, assignment = kmeans(x, 12, iterations, 0)
        return float((x - centroids[assignment]).square().sum())

    distances = [distance(i) for i in (0, 1, 2, 5, 20)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.9 * distances[0]


def test_duplicates_leave_empty_clusters_finite_and_cover_every_distinct_point() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).repeat(10, 1)
    centroids, assignment = kmeans(x, 8, 5, 0)
    assert torch.isfinite(centroids).all()
    torch.testing.assert_close(centroids[assignment], x)


def test_an_empty_cluster_restarts_at_the_farthest_point() -> None:
    x = torch.cat([torch.zeros(30, 1), torch.ones(30, 1), torch.full((1, 1), 100.0)])
    centroids, assignment = kmeans(x, 3, 4, 0)
    assert sorted(centroids[:, 0].tolist()) == [0.0, 1.0, 100.0]
    assert torch.bincount(assignment).min() == 1


def test_cluster_means_do_not_depend_on_the_order_of_the_rows() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1000, 6, generator=generator)
    assignment = torch.randint(0, 5, (1000,), generator=generator)
    order = torch.randperm(1000, generator=generator)
    means, count = cluster_means(x, assignment, 6)
    shuffled, _ = cluster_means(x[order], assignment[order], 6)
    assert torch.equal(means, shuffled)
    torch.testing.assert_close(means[2], x[assignment == 2].mean(0))
    assert count[5] == 0 and torch.equal(means[5], torch.zeros(6))


@pytest.mark.parametrize("k", [0, 6])
def test_an_impossible_number_of_clusters_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="1 to 5 clusters"):
        kmeans(torch.randn(5, 2), k, 1)
