"""Methods whose loss looks at the whole batch have on two processes the loss, gradients and memory of one."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_core import distributed
from ssl_core.augment import AugmentConfig
from ssl_core.encoders import Encoder
from ssl_core.method import Batch, DataInfo, Method
from ssl_core.methods.barlow import BarlowConfig, BarlowTwins
from ssl_core.methods.dino import DINO, DINOConfig
from ssl_core.methods.lejepa import LeJEPA, LeJEPAConfig
from ssl_core.methods.nnclr import NNCLR, NNCLRConfig
from ssl_core.methods.swav import SwAV, SwAVConfig
from ssl_core.methods.vicreg import VICReg, VICRegConfig
from ssl_core.multicrop import Crops

AUGMENT = AugmentConfig(1.0, (0.4, 1.0), 0.5, 0.8, 0.4, 0.4, 0.4, 0.1, 0.2, 0.0, (0.1, 2.0), 0.0)
CROPS = Crops(1, (0.1, 0.4), 0.5)
B, D = 16, 5


class Flat(Encoder):
    """Vectors (B, D) go through as they are: what is compared are the losses, not the encoder's BatchNorm."""

    dim = D

    def blocks(self, x: Tensor) -> list[Tensor]:
        return [x[:, :, None, None]]


def methods() -> dict[str, Method]:
    """Each method with linear heads, the same in every process."""
    torch.manual_seed(0)
    common = (AUGMENT, DataInfo(64, 16, 1, (0.5,), (0.25,)))
    made: dict[str, Method] = {
        "barlow": BarlowTwins(Flat(), BarlowConfig(6, 0.005), *common),
        "vicreg": VICReg(Flat(), VICRegConfig(6, 25.0, 25.0, 1.0), *common),
        "swav": SwAV(Flat(), SwAVConfig(8, 6, 7, 0.05, 3, 0.1, 32, 0.0, 0.0, CROPS), *common),
        "dino": DINO(Flat(), DINOConfig(8, 6, 7, 0.1, (0.04, 0.04), 0.0, 0.9, 0.9, 0.0, CROPS), *common),
        "nnclr": NNCLR(Flat(), NNCLRConfig(8, 6, 0.2, 32), *common),
        "lejepa": LeJEPA(Flat(), LeJEPAConfig(8, 6, 0.05, 10, CROPS), *common),
    }
    for module in [m for method in made.values() for m in method.modules()]:
        for name in {"projector", "expander", "mlp"} & dict(module.named_children()).keys():
            setattr(module, name, nn.Linear(D, 6, bias=False))
        if "predictor" in dict(module.named_children()):
            module.predictor = nn.Linear(6, 6, bias=False)
    return made


def results_of(rows: slice) -> dict[str, Tensor]:
    """Losses, gradients and buffers after three steps with these rows of batches of 16, the mean over processes."""
    out = {}
    for name, method in methods().items():
        generator = torch.Generator().manual_seed(1)
        for step in range(3):  # two batches fill SwAV's queue, the third uses it
            views = tuple(torch.randn(B, D, generator=generator)[rows] for _ in range(3))
            if name == "lejepa":
                views = *views, nn.functional.normalize(torch.randn(10, 6, generator=generator))
            elif name not in ("swav", "dino"):
                views = views[:2]
            method.zero_grad()
            loss = method.loss(Batch(views, torch.arange(B)[rows], 0.5))["loss"]
            loss.backward()  # type: ignore[no-untyped-call]
            out[f"{name} loss {step}"] = distributed.mean(loss.detach())
        out |= {f"{name} {k}": distributed.mean(p.grad) for k, p in method.named_parameters() if p.grad is not None}
        out |= {f"{name} {k}": b.clone() for k, b in method.named_buffers()}
    return out


def one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = results_of(distributed.local_rows(B // 2))
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_losses_gradients_and_memory_of_one_with_the_whole_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    shared, whole = torch.load(tmp_path / "results.pt", weights_only=True), results_of(slice(0, B))
    assert shared.keys() == whole.keys() and {"swav queues.0.keys", "dino center", "nnclr queue.keys"} <= whole.keys()
    for key, value in whole.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
