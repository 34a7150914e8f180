"""Label-free indicators against worked values, and the verdict against forced collapse."""

import math

import pytest
import torch

from ssl_core.engine import encoders
from ssl_core.engine.health import alignment, effective_rank, health, judge, knn_by_the_others, uniformity
from tests.support.configs import encoder_of


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [(torch.eye(5), 5.0000015), (torch.ones(5, 5), 1.0000063), (torch.diag(torch.tensor([3.0, 1.0])), 1.7547653)],
)
def test_effective_rank_has_the_worked_values(matrix, expected):
    assert effective_rank(matrix) == pytest.approx(expected, abs=2e-7 if expected != 1.0000063 else 1e-5)


def test_effective_rank_ignores_rotation_and_scale():
    x = normal(200, 16) @ torch.diag(torch.linspace(0.1, 2, 16))
    q = torch.linalg.qr(normal(16, 16, seed=1))[0]
    assert effective_rank(3 * x @ q) == pytest.approx(effective_rank(x), rel=1e-5)
    assert effective_rank(x[:10]) <= 10.01


def test_uniformity_of_four_axis_points_is_the_worked_value():
    points = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    assert uniformity(points) == pytest.approx(-4.39634897, abs=1e-8)


def test_uniformity_equals_the_loop_over_pairs_across_blocks():
    x = torch.nn.functional.normalize(normal(1100, 4).double())
    assert uniformity(x) == pytest.approx(float(torch.pdist(x).pow(2).mul(-2).exp().mean().log()), abs=1e-9)


def test_alignment_is_zero_for_equal_directions_and_four_for_opposite_ones():
    x = normal(10, 3)
    assert alignment(x, 5 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)


def test_feature_std_is_one_over_sqrt_d_on_the_sphere_and_zero_for_equal_features():
    assert health(normal(4000, 64))["feature_std"] == pytest.approx(1 / 8, rel=0.02)
    assert health(torch.full((100, 64), 0.3))["feature_std"] == 0.0


def test_alignment_is_there_only_with_a_pair():
    x = normal(20, 4)
    assert "alignment" not in health(x)
    assert health(x, (x, x))["alignment"] == pytest.approx(0, abs=1e-12)


@pytest.mark.fault("F38")
def test_bad_features_are_refused_with_a_message():
    with pytest.raises(ValueError, match="not finite"):
        health(torch.full((3, 2), math.nan))
    with pytest.raises(ValueError, match="at least 2"):
        health(torch.ones(1, 2))


# ------------------------------------------------------------------ verdict


def images(channels: int = 3) -> torch.Tensor:
    """128 smooth images: random 4x4 colors enlarged to 32x32."""
    return torch.nn.functional.interpolate(normal(128, channels, 4, 4), size=32, mode="bilinear")


def features_of(encoder: encoders.Encoder, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder.eval()(x)


def small(name: str = "small", width: int = 16, norm: str = "batch", channels: int = 3, seed: int = 0) -> encoders.Encoder:
    return encoder_of(channels, 32, seed, name=name, width=width, norm=norm)


REFERENCE = health(features_of(encoders.open_residuals(small()), images()))
"""Of the untrained network, as a training has it."""


@pytest.mark.parametrize(
    "name,width,norm,channels", [("small", 8, "batch", 1), ("small", 16, "group", 3), ("vit", 64, "batch", 1)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_an_untrained_encoder_is_never_called_collapsed(name, width, norm, channels, seed):
    other, own = (health(features_of(small(name, width, norm, channels, s), images(channels))) for s in (seed + 10, seed))
    assert judge(own, own) == "healthy"
    assert judge(own, other) == "healthy"  # another random start as the reference


def test_spread_out_features_are_healthy():
    assert judge(health(normal(1024, 128)), REFERENCE) == "healthy"


def test_raw_pixels_are_healthy_beside_themselves():
    values = health(images().flatten(1))
    assert judge(values, values) == "healthy"


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3])
@pytest.mark.fault("F39")
def test_equal_features_are_collapsed(noise):
    constant = torch.rand(128, generator=torch.Generator().manual_seed(0)) + noise * normal(1024, 128)
    assert judge(health(constant), REFERENCE) == "collapsed"
    assert judge(health(torch.zeros(1024, 128)), REFERENCE) == "collapsed"


def test_a_positive_multiple_of_one_direction_is_collapsed():
    scales = 0.1 + torch.rand(1024, 1, generator=torch.Generator().manual_seed(0))
    assert judge(health(scales * normal(1, 128)), REFERENCE) == "collapsed"


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.fault("F40")
def test_features_in_few_dimensions_are_dimensional_collapse(rank, mean):
    x = mean + normal(1024, rank) @ normal(rank, 128, seed=1) + 1e-4 * normal(1024, 128, seed=2)
    assert judge(health(x), REFERENCE) == "dimensional collapse"


@pytest.mark.parametrize(
    ("step", "share", "rank", "expected"),
    [
        (418, 0.38, 4.2, "dimensional collapse"),  # features pulled to each other, Fashion-MNIST
        (418, 0.33, 3.6, "dimensional collapse"),  # to a constant
        (633, 0.39, 5.3, "dimensional collapse"),  # SimSiam without stop-gradient, CIFAR-10
        (589, 0.44, 6.0, "dimensional collapse"),
        (589, 0.51, 7.0, "dimensional collapse"),
        (718, 0.62, 25.0, "healthy"),  # CPC, CIFAR-10: of all sound trainings the lowest share
        (263, 1.09, 12.2, "healthy"),  # MAE: the lowest rank
        (155, 0.28, 13.4, "healthy"),  # CPC on its way up
        (15, 0.41, 5.0, "healthy"),  # Jigsaw after a few steps
    ],
)
@pytest.mark.fault("F40")
def test_the_verdict_tells_broken_trainings_from_sound_ones(step, share, rank, expected):
    """The measured ones of docs/decisions/0014-the-untrained-encoder.md that are nearest to the line."""
    reference = {"feature_std": 0.02, "effective_rank": rank / share}
    assert judge({"step": step, "feature_std": 0.02, "effective_rank": rank}, reference) == expected


@pytest.mark.fault("F39")
def test_a_network_forced_to_one_output_is_collapsed():
    encoder = small()
    with torch.no_grad():
        for parameter in encoder.stages[-1].parameters():
            parameter.mul_(0)
        encoder.stages[-1][-1].norm2.bias.fill_(1.0)
    assert judge(health(features_of(encoder, images())), REFERENCE) == "collapsed"


def test_knn_among_the_others_never_asks_the_image_itself():
    centers = torch.eye(4)
    labels = torch.arange(80) % 4
    x = centers[labels] + 0.05 * normal(80, 4)
    assert knn_by_the_others(x, labels) == {"knn": 1.0}
    alone = torch.cat([labels, torch.tensor([4])])  # a class of one image: nobody else can tell it
    assert knn_by_the_others(torch.cat([x, x[:1]]), alone)["knn"] == pytest.approx(80 / 81)
    unknown = torch.where(labels == 3, -1, labels)
    assert knn_by_the_others(x, unknown) == {"knn": 1.0}
    assert knn_by_the_others(normal(400, 16), torch.arange(400) % 4)["knn"] == pytest.approx(0.25, abs=0.08)
    assert knn_by_the_others(x, torch.full((80,), -1)) == knn_by_the_others(x[:5], labels[:5]) == {}


def test_watched_neighbors_are_of_other_groups() -> None:
    patients = torch.arange(400) // 4
    x = normal(100, 16)[patients] + 0.01 * normal(400, 16)
    labels = patients % 2  # which nothing but the patient tells
    assert knn_by_the_others(x, labels) == {"knn": 1.0}
    assert knn_by_the_others(x, labels, patients)["knn"] == pytest.approx(0.5, abs=0.15)
    alone = torch.arange(400)
    assert knn_by_the_others(x, labels, alone) == knn_by_the_others(x, labels)
    assert knn_by_the_others(x, labels, torch.zeros(400, dtype=torch.int64)) == {}
    nearly = torch.where(alone < 12, alone, 12)  # 12 of their own, and 388 that have these as neighbors
    assert 0 <= knn_by_the_others(x, labels, nearly)["knn"] <= 1
