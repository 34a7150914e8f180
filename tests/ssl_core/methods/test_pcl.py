"""PCL: printed concentration and prototype loss, the E-step on separated blobs, the state before the first one."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.config import ConfigError
from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.moco import MoCo, MoCoConfig
from ssl_core.methods.pcl import PCL, PCLConfig, concentration, proto_nce, scaled
from ssl_core.parts.losses import info_nce, unit
from ssl_core.rng import Rng
from tests.ssl_core.engine.test_contract import build
from tests.support.configs import AUGMENT, encoder_of

CONFIG = PCLConfig(
    hidden=16,
    dim=8,
    temperature=0.2,
    momentum=0.9,
    queue=32,
    splits=2,
    clusters=(3, 5),
    iterations=10,
    warmup=0.2,
    weight=1.0,
    smoothing=10.0,
)
IDS = torch.tensor([3, 1, 20, 7, 11, 2, 30, 9])
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BLOBS = torch.arange(60) % 3


def make(**changes: object) -> PCL:
    torch.manual_seed(0)
    encoder = encoder_of()
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return PCL(encoder, config, AUGMENT, DataInfo(60, 16, 1, (0.5,), (0.25,)))


def batch(method: PCL, step: int = 0) -> Batch:
    return Batch(method.views(IMAGES, Rng(IDS, step)), IDS, 0.0)


def embed(module: nn.Module) -> Tensor:
    """Three separated directions in 8 dimensions, of varying length."""
    generator = torch.Generator().manual_seed(1)
    lengths = 1.0 + torch.rand(60, 1, generator=generator)
    return lengths * (torch.eye(8)[BLOBS] + 0.02 * torch.randn(60, 8, generator=generator))


def test_the_concentration_of_the_worked_example() -> None:
    x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]], dtype=torch.float64)
    phi = concentration(x, x.mean(0, keepdim=True), torch.zeros(3, dtype=torch.int64), 10.0)
    assert phi.item() == pytest.approx(0.13382742, abs=1e-8)


def test_the_concentration_is_the_formula_written_as_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    x, assignment = torch.randn(12, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2] * 3 + [2] * 3)
    centroids, expected = torch.stack([x[assignment == c].mean(0) for c in range(3)]), []
    for c in range(3):
        members = [row for row, own in zip(x, assignment.tolist(), strict=True) if own == c]
        distance = sum(math.sqrt(sum(float(d) ** 2 for d in row - centroids[c])) for row in members)
        expected.append(distance / (len(members) * math.log(len(members) + 10)))
    assert concentration(x, centroids, assignment, 10.0).tolist() == pytest.approx(expected, rel=1e-6)


def test_singletons_and_empty_clusters_get_the_largest_concentration() -> None:
    x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    centroids = torch.tensor([[0.9, 0.3], [0.0, 1.0], [-1.0, 0.0]])
    phi = concentration(x, centroids, torch.tensor([0, 0, 1]), 10.0)
    assert phi[1] == phi[2] == phi[0] == phi.max() > 0


def test_scaled_concentrations_are_clipped_to_percentiles_with_the_temperature_as_mean() -> None:
    phi = torch.cat([torch.linspace(0.1, 0.2, 19), torch.tensor([50.0])])
    out = scaled(phi, 0.2)
    assert out.mean().item() == pytest.approx(0.2, abs=1e-7)
    assert out.max() / out.min() < 2.0
    assert out[0] == out[1]


def test_identical_members_give_a_usable_concentration() -> None:
    assert torch.equal(scaled(torch.zeros(4), 0.2), torch.full((4,), 0.2))
    assert (scaled(torch.tensor([0.0, 0.0, 0.0, 1.0]), 0.2) > 0).all()


def test_the_prototype_loss_of_the_worked_example() -> None:
    q = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    prototypes = torch.tensor([[0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    phi = torch.tensor([0.2, 0.1, 0.4], dtype=torch.float64)
    loss = proto_nce(q, prototypes, phi, torch.tensor([0])).item()
    assert loss == pytest.approx(0.01962526, abs=5e-8)
    assert loss == pytest.approx(math.log(1 + math.exp(-4) + math.exp(-6.5)))


def test_with_equal_concentrations_the_prototype_loss_is_info_nce() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, queue = (unit(torch.randn(n, 4, generator=generator, dtype=torch.float64)) for n in (1, 1, 6))
    phi = torch.full((7,), 0.3, dtype=torch.float64)
    torch.testing.assert_close(proto_nce(q, torch.cat([k, queue]), phi, torch.tensor([0])), info_nce(q, k, 0.3, queue))


def test_the_e_step_recovers_separated_blobs_from_the_momentum_encoder() -> None:
    method, asked = make(), []

    def remember(module: nn.Module) -> Tensor:
        asked.append(module)
        return embed(module)

    method.before_epoch(1, remember)
    assert asked == [method.momentum_encoder]
    assert normalized_mutual_info_score(BLOBS, method.assignment[0]) == pytest.approx(1.0)
    for cluster in range(3):
        mean = unit(embed(method))[method.assignment[0] == cluster].mean(0)
        torch.testing.assert_close(method.prototypes[cluster], F.normalize(mean, dim=0))
    torch.testing.assert_close(method.phi.split([3, 5])[1].mean(), torch.tensor(0.2))


def test_before_the_first_e_step_the_loss_is_finite_and_only_info_nce() -> None:
    method = make()
    assert not method.clustered
    out = method.loss(batch(method))
    out["loss"].backward()
    assert torch.equal(out["loss"], out["loss_info"]) and out["loss_proto"] == 0
    assert all(torch.isfinite(p.grad).all() for p in method.encoder.parameters())  # type: ignore[arg-type]


def test_after_the_e_step_the_loss_is_the_sum_of_its_parts_at_each_granularity() -> None:
    method = make(weight=0.5).eval()
    method.before_epoch(1, embed)
    data, older = batch(method), method.queue.read()
    q = unit(method.projector(method.encoder(data.views[0])))
    k = unit(method.momentum_encoder(data.views[1]))
    terms = []
    for level, (start, stop) in enumerate(((0, 3), (3, 8))):
        for row, image in zip(q, IDS.tolist(), strict=True):
            logits = torch.stack([row @ method.prototypes[j] / method.phi[j] for j in range(start, stop)])
            terms.append(torch.logsumexp(logits, 0) - logits[method.assignment[level, image]])
    expected = info_nce(q, k, 0.2, older) + 0.5 * torch.stack(terms).mean()
    torch.testing.assert_close(method.loss(data)["loss"], expected)
    torch.testing.assert_close(method.queue.keys[:8], k)


def test_with_weight_zero_it_is_moco() -> None:
    """Two steps with a gradient and a moved momentum encoder each."""
    weighted = make(weight=0.0)
    weighted.before_epoch(1, embed)
    numbers = {f.name: getattr(CONFIG, f.name, None) for f in dataclasses.fields(MoCoConfig)}
    config = MoCoConfig(**numbers | {"head": "mlp", "symmetric": False})  # type: ignore[arg-type]
    torch.manual_seed(0)
    encoder = encoder_of()
    moco = MoCo(encoder, config, AUGMENT, weighted.data)
    moco.queue.load_state_dict(weighted.queue.state_dict())
    for step in range(2):
        losses = [m.loss(batch(weighted, step))["loss"] for m in (moco, weighted)]
        torch.testing.assert_close(*losses)
        for method, loss in zip((moco, weighted), losses, strict=True):
            method.zero_grad()
            loss.backward()
            method.after_step(0.5)
        for a, b in zip(moco.encoder.parameters(), weighted.encoder.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_the_e_step_is_keyed_by_the_epoch_alone() -> None:
    def noise(module: nn.Module) -> Tensor:
        return torch.randn(60, 8, generator=torch.Generator().manual_seed(2))

    first, again, later = make(), make(), make()
    for method, epoch in ((first, 1), (again, 1), (later, 2)):
        method.before_epoch(epoch, noise)
    assert torch.equal(first.prototypes, again.prototypes) and torch.equal(first.assignment, again.assignment)
    assert not torch.equal(first.prototypes, later.prototypes)


def test_clusters_survive_in_the_state() -> None:
    first, second = make(), make()
    first.before_epoch(1, embed)
    second.load_state_dict(first.state_dict())
    assert second.clustered
    data = batch(first)
    assert torch.equal(first.loss(data)["loss"], second.loss(data)["loss"])


def test_more_clusters_than_images_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.pcl\.clusters"):
        make(clusters=(3, 61))


@pytest.mark.parametrize(
    ("epochs", "warmup", "expected"),
    [(5, 0.2, [4, 8, 12, 16]), (5, 0.1, [2, 4, 8, 12, 16]), (1, 0.25, [1]), (1, 0.0, [0])],
)
def test_the_first_e_step_is_at_the_end_of_the_warmup_even_within_the_only_epoch(
    shipped_copy: dict[str, Any], monkeypatch: pytest.MonkeyPatch, epochs: int, warmup: float, expected: list[int]
) -> None:
    shipped_copy["method"]["pcl"]["warmup"] = warmup
    method, trainer = build(shipped_copy, "pcl", epochs=epochs)
    steps: list[int] = []
    monkeypatch.setattr(method, "before_epoch", lambda epoch, embed: steps.append(trainer.step))
    trainer.run()
    assert steps == expected
