"""Every method on two processes has the losses, weights and memory of one process with the whole batch.

Computed in double precision: in float32 the losses agree as well, to about 1e-6, until some activation near zero falls to
the other side, which any other order of sums can cause.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from ssl_core.engine import distributed, train
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, Method
from ssl_core.engine.train import Trainer
from tasks.runtime import params
from tests.conftest import ROOT
from tests.ssl_core.engine.test_contract import TRAINED, build

pytestmark = pytest.mark.slow
STEPS = 5  # the second of two epochs has begun: PCL has clustered, SwAV's queue is full
SETTINGS = {"moco": {"symmetric": True}, "npid": {"proximal": 0.5}}


@contextlib.contextmanager
def float_is_double() -> Iterator[None]:
    narrow, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.Tensor.float = narrow  # type: ignore[method-assign]


def wide(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with float_is_double():
            return function(*arguments)

    return call


def in_double(method: Method, trainer: Trainer) -> None:
    """Views stay float32 numbers; everything that is computed from them is double."""
    views = method.views
    method.double()
    method.views = lambda images, rng: tuple(  # type: ignore[method-assign]
        v.double() if v.is_floating_point() else v for v in views(images, rng)
    )
    method.loss = wide(method.loss)  # type: ignore[method-assign]
    for module in method.modules():
        if isinstance(module, Encoder):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    trainer.forward = distributed.parallel(method, trainer.device)


def results_of(name: str) -> dict[str, Tensor]:
    """Losses of the first steps, then the tensors a checkpoint would hold and the health of the encoder."""
    shipped = params.load(ROOT / "params.yaml")
    shipped["method"][name] |= SETTINGS.get(name, {})
    method, trainer = build(shipped, name)
    if name == "supervised":
        method.labels[::3] = -1  # type: ignore[index, operator]
    in_double(method, trainer)
    loss, out = trainer.forward, {}

    def remember(batch: Batch) -> dict[str, Tensor]:
        values = loss(batch)
        out.update({f"step {trainer.step}: {k}": distributed.mean(v.detach()) for k, v in values.items()})
        return values

    class Enough(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.step == STEPS:
            raise Enough

    trainer.forward = remember
    with pytest.raises(Enough), mock.patch.object(train, "frozen", wide(train.frozen)):
        trainer.run(on_step=stop)
    saved = {k: v.mean() if k.startswith("sums.") else v for k, v in trainer.tensors().items()}
    health = {f"health {k}": torch.tensor(v) for k, v in trainer.history[-1].items()}
    return out | saved | health


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in TRAINED:
        results = results_of(name)
        if rank == 0:
            torch.save(results, f"{folder}/{name}.pt")
    torch.save(torch.tensor(bits_of_collectives()), f"{folder}/collectives-{rank}.pt")
    torch.distributed.destroy_process_group()


def bits_of_collectives() -> list[int]:
    """What a rank learns: which flags some process raised, then the first one's message."""
    own = distributed.rank()
    return [
        *distributed.any_of(own == 1, False),
        *distributed.broadcast_bytes(b"\x07\x00\xff" if own == 0 else b""),
        *distributed.broadcast_bytes(),
    ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of each method; not forked from this one, where gradients may have started threads."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.start_processes(one_of_two, (str(folder),), nprocs=2, start_method="forkserver")  # type: ignore[no-untyped-call]
    return folder


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_have_the_losses_weights_and_memory_of_one_with_the_whole_batch(shared: Path, name: str) -> None:
    two, one = torch.load(shared / f"{name}.pt", weights_only=True), results_of(name)
    assert two.keys() == one.keys() and sum(k.endswith(": loss") for k in one) == STEPS
    assert float(one[f"step {STEPS - 1}: loss"]) != float(one["step 0: loss"])
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_every_process_gets_the_same_flags_and_message(shared: Path) -> None:
    for rank in range(2):
        assert torch.load(shared / f"collectives-{rank}.pt", weights_only=True).tolist() == [1, 0, 7, 0, 255]


def test_batch_norm_of_all_processes_is_batch_norm_in_one() -> None:
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
    plain, own = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    own.__class__ = distributed.SyncBatchNorm
    for mode in (True, False):
        plain.train(mode), own.train(mode)
        torch.testing.assert_close(own(x), plain(x))
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(own.state_dict()[key], value)
    assert own.train()(x.bfloat16()).dtype == torch.bfloat16
