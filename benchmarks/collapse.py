"""Does the verdict tell a collapse? Trainings that are broken on purpose, beside sound ones, on the prepared images.

``python -m benchmarks.collapse`` where ``make run`` (or ``python -m tasks.run prepare``) was, with its params.yaml; some six
minutes of one core as shipped, fewer with ``--images``. For CIFAR-10, in the workspace of ``benchmarks.evidence``.
"""

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.engine.data import Images
from ssl_core.engine.health import judge
from ssl_core.engine.method import Batch, Method
from ssl_core.engine.train import Trainer
from tasks.pretrain.training import make_method
from tasks.runtime import dataset, params
from tasks.runtime.device import pick_device
from tasks.runtime.errors import run

Loss = Callable[[Method, Batch], dict[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """A training, and how it is broken."""

    title: str
    method: str
    change: Callable[[Method], None] = lambda method: None
    loss: Loss | None = None
    """Instead of the method's own."""


def no_predictor(method: Method) -> None:
    """BYOL whose projection is its prediction."""
    method.predictor = nn.Identity()


def rank_one(method: Method) -> None:
    """All projections lie on a line."""
    dim = method.config.dim
    method.projector = nn.Sequential(method.projector, nn.Linear(dim, 1), nn.Linear(1, dim))


def no_stop(method: Method, batch: Batch) -> dict[str, Tensor]:
    """SimSiam with a gradient on both sides."""
    z1, z2 = (method.projector(method.encoder(x)) for x in batch.views)
    pairs = ((method.predictor(z1), z2), (method.predictor(z2), z1))
    return {"loss": -0.5 * torch.stack([F.cosine_similarity(p, z).mean() for p, z in pairs]).sum()}


def constant_projection(method: Method, batch: Batch) -> dict[str, Tensor]:
    """The projector, without its last norm, is to give ones, whatever the image."""
    z = method.projector[:-1](method.encoder(torch.cat(batch.views)))  # type: ignore[index]
    return {"loss": (z.float() - 1).square().mean()}


def pulled_together(method: Method, batch: Batch) -> dict[str, Tensor]:
    """The features of all images are to be alike."""
    features = F.normalize(method.encoder(batch.views[0]))
    return {"loss": (features - features.mean(0)).square().sum(1).mean()}


def pulled_to_a_constant(method: Method, batch: Batch) -> dict[str, Tensor]:
    """Every feature is to be one."""
    return {"loss": (method.encoder(batch.views[0]) - 1).square().mean()}


CASES = (
    Case("SimCLR", "simclr"),
    Case("BYOL", "byol"),
    Case("SimSiam", "simsiam"),
    Case("BYOL without predictor", "byol", no_predictor),
    Case("SimSiam without stop-gradient", "simsiam", loss=no_stop),
    Case("projector that learns a constant", "simclr", loss=constant_projection),
    Case("rank-1 projector, SimCLR", "simclr", rank_one),
    Case("features pulled to each other", "simclr", loss=pulled_together),
    Case("features pulled to a constant", "simclr", loss=pulled_to_a_constant),
)


def row(case: Case, images: int | None) -> str:
    """Train, and what the indicators are in shares of the untrained encoder's."""
    values, data = params.load(), dataset.load()
    chosen = params.method_params(values, case.method)
    train = chosen.train if images is None else replace(chosen.train, images=images, epochs=None)
    torch.set_num_threads(train.threads)
    method = make_method(chosen, data, 0)
    case.change(method)
    if case.loss:
        method.loss = functools.partial(case.loss, method)  # type: ignore[method-assign]
    labels = torch.from_numpy(data.train_labels.copy())
    trainer = Trainer(method, Images(data.train_images, pick_device()), train, 0, labels=labels)
    trainer.run()
    first, last = trainer.history[0], trainer.history[-1]
    spread, rank = (last[key] / first[key] for key in ("feature_std", "effective_rank"))
    least = min(now["effective_rank"] / first["effective_rank"] for now in trainer.history[1:])
    knn = f"{100 * last['knn']:.1f}" if "knn" in last else ""
    numbers = f"{last['loss']:.3g} | {spread:.2g} | {rank:.2g}, least {least:.2g} ({last['effective_rank']:.1f})"
    return f"| {case.title} | {trainer.steps} | {numbers} | {knn} | {judge(last, first)} |"


def main() -> None:
    """Train one after another and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collapse", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, help="instead of train.images")
    images = parser.parse_args().images
    print("| training | steps | loss | spread | rank | kNN % | verdict |\n|---|---|---|---|---|---|---|")
    for case in CASES:
        print(row(case, images), flush=True)


if __name__ == "__main__":
    run(main)
