"""Step parity: the presets' recipes against the published loss, head, optimizer and rate (tests/support/published*.py).

From the same weights, on the same views, the first twenty optimizer steps give the same losses and the same weights. The
encoder is a tiny one and the batch 16 images, to which both sides scale their rates; queues are cut to the 64 images there
are, heads and prototypes to 128 wide. Nothing else of a preset is changed. Both sides compute in float64: in float32 the
rounding of one sum in another order is amplified by training to a thousandth within twenty steps.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core.catalogue import load_class
from ssl_core.engine import encoders
from ssl_core.engine.data import Images
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.engine.train import Trainer
from tasks import preset
from tasks.runtime import params
from tests.conftest import ROOT, textured_images
from tests.support import published_others as others
from tests.support import published_views as views
from tests.support.published import Recipe

pytestmark = pytest.mark.slow

N, SIZE, BATCH, STEPS = 64, 16, 16, 20
TOLERANCE = 1e-4
TINY: dict[str, Any] = {"name": "small", "width": 8, "depth": 1}
TINY_VIT: dict[str, Any] = {"name": "vit", "width": 32, "depth": 2, "patch_size": 4, "drop_path": 0.0}
CUT: dict[str, Any] = {"queue": N, "clusters": [4, 8], "splits": 4, "prototypes": 256, "depth": 1}
WIDTHS = ("hidden", "dim", "predictor_hidden", "bottleneck", "width")
CIFAR, RESNET, VIT = "cifar10-resnet18-200ep", "imagenet-resnet50", "imagenet-vit-small"
RECIPES: dict[tuple[str, str], Callable[[Any], Recipe]] = {
    (CIFAR, "simclr"): views.simclr,
    (CIFAR, "moco"): views.moco,
    (CIFAR, "byol"): views.byol,
    (CIFAR, "simsiam"): views.simsiam,
    (CIFAR, "barlow"): views.barlow,
    (CIFAR, "vicreg"): views.vicreg,
    (CIFAR, "swav"): views.swav,
    (CIFAR, "dino"): views.dino,
    (CIFAR, "nnclr"): views.nnclr,
    (CIFAR, "npid"): others.npid,
    (CIFAR, "pirl"): others.pirl,
    (CIFAR, "pcl"): others.pcl,
    (CIFAR, "lejepa"): others.lejepa,
    (CIFAR, "rotation"): others.rotation,
    (CIFAR, "mae"): others.mae,
    (RESNET, "simclr"): views.simclr_lars,
    (RESNET, "byol"): views.byol_lars,
    (RESNET, "barlow"): views.barlow_lars,
    (VIT, "dino"): views.dino_vit,
    (VIT, "mae"): others.mae_normalized,
}


def start(name: str, method: str) -> tuple[Method, Trainer]:
    """The method by the preset, on tiny data with a tiny encoder."""
    values = params.load(ROOT / "params.yaml")
    preset.merge(values, params.read(ROOT / f"presets/{name}.yaml"))
    own = values["method"][method]
    vit = {**values["encoder"], **own.get("encoder", {})}["name"] == "vit"
    own["encoder"] = {**own.get("encoder", {}), **(TINY_VIT if vit else TINY)}
    own["train"] |= {"epochs": STEPS * BATCH // N, "epoch_share": 1.0, "batch_size": BATCH, "precision": "float32"}
    own["train"]["health_images"] = 8
    own |= {k: v for k, v in CUT.items() if own.get(k)} | {k: min(own[k], 128) for k in WIDTHS if k in own}
    chosen = params.method_params(values, method)
    encoder = encoders.build(chosen.encoder, 3, SIZE, seed=0)
    data = DataInfo(N, SIZE, 3, (0.5,) * 3, (0.25,) * 3)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = load_class(method)(encoder, chosen.config, chosen.augment, data)
    return made, Trainer(made, Images(textured_images(N, 3, SIZE), torch.device("cpu")), chosen.train, seed=0)


@contextmanager
def float64_weights() -> Iterator[None]:
    """Networks made inside have weights in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Callable[[Method, Trainer], None]:
    """What a method and its trainer compute from the views on, in float64: ``x.float()`` means "at least float32" then."""
    narrow = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else narrow(x))

    def widen(method: Method, trainer: Trainer) -> None:
        views, view, normalize = method.views, method.view, method.normalize
        wide = lambda x: x.double() if x.is_floating_point() else x  # noqa: E731
        monkeypatch.setattr(method, "views", lambda images, rng: tuple(map(wide, views(images, rng))))
        monkeypatch.setattr(method, "view", lambda *given: view(*given).double())
        monkeypatch.setattr(method, "normalize", lambda x: normalize(x).double())

    return widen


@pytest.mark.parametrize(("name", "method"), RECIPES)
def test_the_first_twenty_steps_are_the_published_ones(
    name: str, method: str, in_float64: Callable[[Method, Trainer], None]
) -> None:
    with float64_weights():
        ours, trainer = start(name, method)
        recipe = RECIPES[name, method](copy.deepcopy(ours))
        recipe.adopt(ours)
    in_float64(ours, trainer)
    forward, gaps = trainer.forward, []

    def beside(batch: Batch) -> dict[str, Tensor]:
        out = forward(batch)
        gaps.append(recipe.step(batch) / out["loss"].item() - 1)
        return out

    trainer.forward = beside
    before = {k: v.detach().clone() for k, v in ours.named_parameters()}
    trainer.run()
    assert len(gaps) == STEPS and max(map(abs, gaps)) < TOLERANCE, gaps
    pairs = recipe.weights(ours).values()
    apart = max((peer - own).abs().max().item() for peer, own in pairs)
    moved = max((before[k] - v.detach()).abs().max().item() for k, v in ours.named_parameters())
    assert apart < TOLERANCE and apart < moved / 50, (apart, moved)
