"""Two processes compute what one computes on the whole batch. No heavy imports: each process repeats them."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.losses import info_nce, nt_xent, unit
from ssl_core.memory import MemoryBank, Queue


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def results_of(rows: slice) -> list[Tensor]:
    """Losses and gradients with respect to a shared weight, then queue and bank, of these rows of a batch of 8."""
    a, b, queue = randn(8, 5), randn(8, 5, seed=1), unit(randn(16, 5, seed=2))
    weight = torch.eye(5, dtype=torch.float64, requires_grad=True)
    losses: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda x, y: nt_xent(x, y, 0.2),
        lambda x, y: info_nce(x, y, 0.2),
        lambda x, y: info_nce(x, y, 0.2, queue),
    ]
    out = []
    for loss in losses:
        value = loss(a[rows] @ weight, b[rows] @ weight)
        out += [distributed.mean(t) for t in (value.detach(), torch.autograd.grad(value, weight)[0])]
    torch.manual_seed(0)
    keys, bank = Queue(16, 5), MemoryBank(16, 5)
    keys.push(a[rows].float())
    bank.update(torch.arange(8)[rows] * 2, b[rows].float(), 0.5)
    return [*out, keys.keys, bank.vectors]


def one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = results_of(distributed.local_rows(4))
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_loss_gradient_queue_and_bank_of_one_with_the_whole_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    shared = torch.load(tmp_path / "results.pt", weights_only=True)
    for ours, whole in zip(shared, results_of(slice(0, 8)), strict=True):
        torch.testing.assert_close(ours, whole)
