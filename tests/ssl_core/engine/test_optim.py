"""Optimizers and schedule against their formulas."""

import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from ssl_core.config import typed
from ssl_core.engine.optim import (
    Adam,
    AdamW,
    Lars,
    Sgd,
    TrainConfig,
    build_optimizer,
    clip,
    load_optimizer_tensors,
    optimizer_tensors,
    set_lr,
    set_weight_decay,
)
from tests.conftest import ROOT


@pytest.fixture
def config(shipped: dict[str, Any]) -> TrainConfig:
    return typed(TrainConfig, shipped["train"], "train")


class Groups(nn.Module):
    """Stands for a method: two weights, one bias, in two groups."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2, bias=False)

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.a.parameters())}, {"params": [self.b.weight], "constant_lr": True, "lr_scale": 2.0}]


@pytest.mark.parametrize(
    ("ours", "its", "options"),
    [
        (Sgd, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (Adam, torch.optim.Adam, {"weight_decay": 0.1}),
        (AdamW, torch.optim.AdamW, {"betas": (0.9, 0.95)}),
    ],
)
@pytest.mark.fault("F54")
def test_an_unwrapped_optimizer_is_that_of_torch(ours: Any, its: Any, options: dict[str, Any]) -> None:
    """Bit for bit, also when it goes on from a saved state half-way."""
    both = [Groups(), Groups()]
    optimizers = [
        ours(both[0].parameters(), 0.1, foreach=True, **options),
        its(both[1].parameters(), 0.1, foreach=True, **options),
    ]
    for step in range(4):
        for parameter, twin in zip(both[0].parameters(), both[1].parameters(), strict=True):
            parameter.grad = torch.randn(parameter.shape)
            twin.grad = parameter.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step == 1:
            saved = optimizer_tensors(optimizers[0])
            optimizers[0] = ours(both[0].parameters(), 0.1, foreach=True, **options)
            load_optimizer_tensors(optimizers[0], saved)
    assert all(p.grad is None and torch.equal(p, twin) for p, twin in zip(*(m.parameters() for m in both), strict=True))
    assert all(p.requires_grad for p in both[0].parameters())


def test_no_training_imports_the_compiler() -> None:
    """It takes 1.5 s of each process; torch does it where an optimizer is wrapped or determinism is asked for."""
    code = (
        "import sys, torch; from ssl_core.engine.optim import Sgd, AdamW;"
        "from tasks.runtime import params; from tests.ssl_core.engine.test_contract import build;"
        "build(params.load(params.PARAMS), 'rotation', n=16, epochs=1)[1].run();"
        "w = torch.nn.Parameter(torch.ones(2)); w.grad = w.detach();"
        "[(o.step(), o.load_state_dict(o.state_dict()), o.zero_grad()) for o in (Sgd([w], 0.1), AdamW([w], 0.1))];"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


def test_lars_follows_the_formula() -> None:
    torch.manual_seed(0)
    w, bias = nn.Parameter(torch.randn(4, 3, dtype=torch.float64)), nn.Parameter(torch.randn(4, dtype=torch.float64))
    groups = [{"params": [w], "weight_decay": 0.1}, {"params": [bias], "adapt": False}]
    optimizer = Lars(groups, lr=0.5, momentum=0.9)
    expected_w, expected_b = w.detach().clone(), bias.detach().clone()
    buffer_w, buffer_b = torch.zeros_like(expected_w), torch.zeros_like(expected_b)
    for _ in range(3):
        w.grad, bias.grad = torch.randn_like(w), torch.randn_like(bias)
        decayed = w.grad + 0.1 * expected_w
        ratio = 0.001 * expected_w.norm() / decayed.norm()
        buffer_w = 0.9 * buffer_w + ratio * decayed
        buffer_b = 0.9 * buffer_b + bias.grad
        expected_w, expected_b = expected_w - 0.5 * buffer_w, expected_b - 0.5 * buffer_b
        optimizer.step()
    torch.testing.assert_close(w.detach(), expected_w)
    torch.testing.assert_close(bias.detach(), expected_b)


def test_lars_takes_a_zero_weight_or_gradient_without_dividing_by_it() -> None:
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lars([{"params": [zero, still]}], lr=1.0, momentum=0.0)
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimizer.step()
    assert torch.equal(zero.detach(), -torch.ones(2, 2)) and torch.equal(still.detach(), torch.ones(2, 2))


def test_schedule_warms_up_then_follows_the_cosine(config: TrainConfig) -> None:
    config = dataclasses.replace(config, lr=0.4, batch_size=128, warmup=0.1, final_lr=0.01)
    optimizer = build_optimizer(Groups(), config)  # type: ignore[arg-type]
    factors = {p: set_lr(optimizer, config, p) for p in (0.0, 0.05, 0.1, 0.55, 1.0)}
    expected = {0.0: 0.0, 0.05: 0.5, 0.1: 1.0, 0.55: 0.01 + 0.99 * 0.5, 1.0: 0.01}
    assert all(math.isclose(factors[p], expected[p], abs_tol=1e-12) for p in expected)
    set_lr(optimizer, config, 0.55)
    rates = {len(g["params"]) and g["constant_lr"]: g["lr"] for g in optimizer.param_groups}
    assert math.isclose(rates[False], 0.4 * 0.5 * expected[0.55])
    assert math.isclose(rates[True], 2 * 0.4 * 0.5), "the constant group ignores the schedule"


@pytest.mark.parametrize("decay_all", [False, True])
def test_norms_and_biases_are_decayed_only_when_asked(config: TrainConfig, decay_all: bool) -> None:
    config = dataclasses.replace(config, weight_decay=0.3, decay_norm_and_bias=decay_all)
    for group in build_optimizer(Groups(), config).param_groups:  # type: ignore[arg-type]
        is_bias = all(p.ndim == 1 for p in group["params"])
        assert group["weight_decay"] == (0.3 if decay_all or not is_bias else 0.0)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
def test_state_survives_being_written_as_tensors(config: TrainConfig, name: str) -> None:
    config = dataclasses.replace(config, optimizer=name)  # type: ignore[arg-type]

    def steps(module: Groups, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for i in range(first, last):
            torch.manual_seed(i)
            set_lr(optimizer, config, 0.5)
            for p in module.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()

    whole = Groups()
    steps(whole, build_optimizer(whole, config), 0, 6)  # type: ignore[arg-type]
    first = Groups()
    optimizer = build_optimizer(first, config)  # type: ignore[arg-type]
    steps(first, optimizer, 0, 3)
    second = Groups()
    second.load_state_dict(first.state_dict())
    resumed = build_optimizer(second, config)  # type: ignore[arg-type]
    load_optimizer_tensors(resumed, {k: v.clone() for k, v in optimizer_tensors(optimizer).items()})
    steps(second, resumed, 3, 6)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_lars_with_clip_never_raises_a_rate() -> None:
    """One weight whose ratio is above lr, one below: the first moves by plain SGD, the second by its trust."""
    above, below = nn.Parameter(torch.full((2, 2), 10.0)), nn.Parameter(torch.full((2, 2), 1.0))
    optimizer = Lars([{"params": [above, below]}], lr=0.1, momentum=0.0, eta=0.02, clip=True)
    above.grad, below.grad = torch.full((2, 2), 0.5), torch.full((2, 2), 4.0)
    optimizer.step()
    torch.testing.assert_close(above.detach(), torch.full((2, 2), 10.0 - 0.1 * 0.5))
    torch.testing.assert_close(below.detach(), torch.full((2, 2), 1.0 - 0.02 / 4.0 * 4.0))


def test_a_rate_falls_in_steps_after_its_warm_up(config: TrainConfig) -> None:
    config = dataclasses.replace(config, warmup=0.1, lr_steps=(0.3, 0.6), lr_step_factor=0.2)
    optimizer = build_optimizer(Groups(), config)  # type: ignore[arg-type]
    factors = [set_lr(optimizer, config, p) for p in (0.05, 0.1, 0.29, 0.3, 0.59, 0.6, 0.99)]
    assert factors == pytest.approx([0.5, 1, 1, 0.2, 0.2, 0.04, 0.04])


def test_the_weight_decay_goes_to_its_end_along_a_cosine_where_there_is_one(config: TrainConfig) -> None:
    config = dataclasses.replace(config, weight_decay=0.04, final_weight_decay=0.4, decay_norm_and_bias=False)
    optimizer = build_optimizer(Groups(), config)  # type: ignore[arg-type]
    for progress, expected in ((0.0, 0.04), (0.5, 0.22), (1.0, 0.4)):
        set_weight_decay(optimizer, config, progress)
        for group in optimizer.param_groups:
            assert group["weight_decay"] == pytest.approx(expected if group["params"][0].ndim > 1 else 0.0)


def test_norms_and_biases_have_a_rate_of_their_own(config: TrainConfig) -> None:
    config = dataclasses.replace(config, lr=0.2, batch_size=512, norm_and_bias_lr=0.024)
    rates = {g["params"][0].ndim: g["peak_lr"] for g in build_optimizer(Groups(), config).param_groups[:2]}  # type: ignore[arg-type]
    assert rates == {2: pytest.approx(0.4), 1: pytest.approx(0.4 * 0.024)}


def test_betas_and_nesterov_reach_the_optimizer(config: TrainConfig) -> None:
    mae = dataclasses.replace(config, optimizer="adamw", beta2=0.95)
    assert build_optimizer(Groups(), mae).param_groups[0]["betas"] == (0.9, 0.95)  # type: ignore[arg-type]
    rotnet = dataclasses.replace(config, optimizer="sgd", nesterov=True)
    assert build_optimizer(Groups(), rotnet).param_groups[0]["nesterov"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("each", "expected"), [(True, [1.0, 0.5]), (False, [3 / 9.25**0.5, 0.5 / 9.25**0.5])])
def test_gradients_are_clipped_together_or_each_by_itself(config: TrainConfig, each: bool, expected: list[float]) -> None:
    config = dataclasses.replace(config, clip_grad=1.0, clip_each=each)
    grads = [torch.tensor([3.0]), torch.tensor([0.5])]
    total = torch.stack(grads).norm()
    clip(grads, [g.norm() for g in grads], total, config)
    torch.testing.assert_close(torch.cat(grads), torch.tensor(expected), rtol=1e-5, atol=0)
