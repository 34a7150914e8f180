"""DINO: the printed loss and center, lightly over several steps, schedules, the teacher that is exported."""

import dataclasses
import math

import pytest
import torch
from lightly.loss import DINOLoss
from torch import Tensor, nn

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.dino import DINO, DINOConfig
from ssl_core.parts.losses import unit
from ssl_core.parts.memory import momentum_at
from ssl_core.parts.multicrop import Crops, encode_crops
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

CONFIG = DINOConfig(
    layers=3,
    hidden=16,
    dim=8,
    norm=True,
    prototypes=6,
    student_temperature=0.1,
    teacher_temperature=(0.04, 0.07),
    warmup=0.3,
    momentum=0.9,
    center_momentum=0.9,
    freeze=0.1,
    second_blur=0.0,
    second_solarize=0.0,
    crops=Crops(views=2, scale=(0.1, 0.4), size=0.5, blur=0.0),
)
IDS = torch.arange(8)
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make(**changes: object) -> DINO:
    torch.manual_seed(0)
    encoder = encoder_of()
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return DINO(encoder, config, AUGMENT, DataInfo(64, 16, 1, (0.5,), (0.25,)))


def batch(method: DINO, progress: float = 0.0, step: int = 0) -> Batch:
    return Batch(method.views(IMAGES, Rng(IDS, step)), IDS, progress)


class Table(nn.Module):
    """Scores given beforehand, whatever comes in."""

    def __init__(self, *views: list[tuple[float, ...]]):
        super().__init__()
        self.scores = torch.cat([torch.tensor(v) for v in views])

    def forward(self, x: Tensor, hold: bool = False) -> Tensor:
        return self.scores


def given(teacher: Table, student: Table, k: int) -> tuple[DINO, Batch]:
    method = make(prototypes=k)
    method.encoder = method.teacher_encoder = nn.Identity()  # type: ignore[assignment]
    method.teacher_head, method.head = teacher, student  # type: ignore[assignment]
    return method, Batch((torch.zeros(2, 1), torch.zeros(2, 1)), torch.arange(2), 0.0)


def test_the_worked_example_and_its_center_afterwards() -> None:
    teacher = Table([(1.0, 0, 0), (0.0, 1, 0)], [(0.5, 0.5, 0), (0.0, 0.2, 0.8)])
    student = Table([(0.9, 0.1, 0), (0.1, 0.8, 0.1)], [(0.6, 0.4, 0), (0.0, 0.3, 0.7)])
    method, data = given(teacher, student, 3)
    assert method.loss(data)["loss"].item() == pytest.approx(3.78761049, abs=5e-7)
    torch.testing.assert_close(method.center, torch.tensor([0.0375, 0.0425, 0.02]))


def test_equal_scores_have_the_loss_of_a_guess_and_full_entropy() -> None:
    zeros = Table([(0.0,) * 5] * 2, [(0.0,) * 5] * 2)
    method, data = given(zeros, zeros, 5)
    out = method.loss(data)
    assert out["loss"].item() == pytest.approx(math.log(5)) and out["target_entropy"].item() == pytest.approx(math.log(5))


def test_loss_and_center_equal_lightly_over_several_steps_with_small_views() -> None:
    method, peer = make().eval(), DINOLoss(output_dim=6)
    for step, progress in enumerate((0.0, 0.15, 0.6)):
        data = batch(method, progress, step)
        with torch.no_grad():
            teacher = method.teacher_head(encode_crops(method.teacher_encoder, data.views[:2]))
            student = method.head(encode_crops(method.encoder, data.views))
        temperature = method.teacher_temperature(progress)
        expected = peer(list(teacher.chunk(2)), list(student.chunk(4)), teacher_temp=temperature)
        torch.testing.assert_close(method.loss(data)["loss"], expected)
        torch.testing.assert_close(method.center, peer.center.flatten())


def test_scores_are_cosines_with_the_directions() -> None:
    method = make()
    x = torch.randn(8, method.encoder.dim)
    expected = unit(method.head.mlp(x)) @ unit(method.head.directions).T
    with torch.no_grad():
        method.head.directions.mul_(5.0)  # their length must not matter
    torch.testing.assert_close(method.head(x), expected)


def test_the_teacher_temperature_rises_to_its_end_and_stays() -> None:
    method = make()
    assert [method.teacher_temperature(p) for p in (0.0, 0.15, 0.3, 0.9)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert make(warmup=0.0).teacher_temperature(0.0) == pytest.approx(0.07)


def test_the_last_layer_waits_and_then_moves() -> None:
    method = make()
    for progress, moves in ((0.05, False), (0.2, True)):
        method.zero_grad()
        method.loss(batch(method, progress))["loss"].backward()  # type: ignore[no-untyped-call]
        assert method.head.directions.grad is not None and bool(method.head.directions.grad.any()) is moves


def test_the_teacher_is_exported_follows_by_the_schedule_and_gets_no_gradient() -> None:
    method = make()
    assert method.exported is method.teacher_encoder and method.exported is not method.encoder
    with torch.no_grad():
        for p in [*method.encoder.parameters(), *method.head.parameters()]:
            p.add_(1.0)
    pairs = [(method.teacher_encoder, method.encoder), (method.teacher_head, method.head)]
    before = [[p.clone() for p in copied.parameters()] for copied, _ in pairs]
    method.after_step(0.5)
    share = 1 - momentum_at(0.9, 0.5)
    for old, (copied, source) in zip(before, pairs, strict=True):
        for a, b, p in zip(old, copied.parameters(), source.parameters(), strict=True):
            torch.testing.assert_close(b, a + share * (p - a))
    method.loss(batch(method))["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for copied, _ in pairs for p in copied.parameters())


def test_a_continued_training_exports_the_average_of_the_teacher() -> None:
    method = make()
    method.keep_average(0.75)
    before = [p.clone() for p in method.exported.parameters()]
    with torch.no_grad():
        for p in method.teacher_encoder.parameters():
            p.add_(1.0)
    method.follow()
    assert method.exported is method.average
    for old, new in zip(before, method.exported.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)


def test_the_teacher_sees_the_large_views_alone() -> None:
    method = make()
    method.loss(batch(method))
    assert int(method.teacher_encoder.stem[1].num_batches_tracked) == 1  # type: ignore[index,union-attr]
    assert int(method.encoder.stem[1].num_batches_tracked) == 2  # type: ignore[index,union-attr]
