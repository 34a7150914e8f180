"""The one training loop. It names no method, opens no file and knows no clock.

State between two steps is (parameters and buffers, optimizer tensors, step, sums of the running epoch, history); every
random number is keyed, so a trainer restored from that state continues with the same bits. ``tasks.pretrain.training`` resumes
one from a stored state (``tasks.runtime.checkpoint``).
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_core.config import ConfigError
from ssl_core.engine import distributed
from ssl_core.engine.convolutions import quicken
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import Encoder, open_residuals
from ssl_core.engine.features import frozen
from ssl_core.engine.health import health, knn_by_the_others, watched
from ssl_core.engine.method import Batch, Method
from ssl_core.engine.optim import (
    TrainConfig,
    build_optimizer,
    clip,
    load_optimizer_tensors,
    optimizer_tensors,
    set_lr,
    set_weight_decay,
)
from ssl_core.rng import Rng, permutation

# Purposes that keep the streams of random numbers apart.
ORDER, VIEWS, HEALTH = 1, 2, 3
EMBED_BATCH = 500
GUARD_STEPS = 50
"""A GPU would wait for the host if it looked at every loss; it looks at all of these steps at once."""
ROW_STEPS = 50
"""A row of the history sums up at least so many steps, so that looking at the encoder costs little where epochs are short, as
long as there are ``LEAST_ROWS``."""
LEAST_ROWS = 10


class NonFinite(RuntimeError):
    """The loss or the gradient of ``step``, or a feature after it, is not a number; nothing of that is saved."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class Position:
    """Where the training is."""

    step: int
    steps: int
    epoch: int
    epochs: int
    images: int
    """Images seen since this process started."""


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively (measured on CPUs: 1.8x in training; emulation is slower)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)  # type: ignore[no-any-return]
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(bool(getattr(torch.cpu, name, bool)()) for name in probes)
    return False


def precision_of(config: TrainConfig, device: torch.device) -> str:
    """``bf16`` or ``float32``: what ``auto`` means on this device."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if bf16_is_fast(device) else "float32"


class Trainer:
    """Trains one method on one set of images.

    Args:
        method: on the CPU or the device; moved to the device.
        images: (N, C, H, W) uint8 or uint16.
        seed: of the order and the views.
        epochs: instead of what ``config`` says. A budget in images may end within an epoch, which then counts as one.
        labels: (N,) int64, -1 where unknown: kNN is watched by them, nothing is trained with them.
        groups: (N,) int64, equal for images that belong together, which kNN does not count as neighbors; None: none do.
        rows: (M,) int64, positions of the images that are trained on; None: all. The budget is that of all images.

    Raises:
        ConfigError: a batch larger than what is trained on, or one the processes cannot share evenly.
    """

    def __init__(
        self,
        method: Method,
        images: Images,
        config: TrainConfig,
        seed: int,
        epochs: int | None = None,
        labels: Tensor | None = None,
        groups: Tensor | None = None,
        rows: Tensor | None = None,
    ):
        self.config, self.images, self.seed = config, images, seed
        self.labels, self.groups = (None if known is None else known.to(images.device) for known in (labels, groups))
        self.rows, self.num_trained = rows, len(images) if rows is None else len(rows)
        world = distributed.world_size()
        if config.batch_size > self.num_trained:
            over = f"train.batch_size {config.batch_size} is larger than the {self.num_trained} training images"
            raise ConfigError(f"{over}; lower it")
        if config.batch_size % world:
            raise ConfigError(f"train.batch_size {config.batch_size} must be a multiple of the {world} processes")
        self.device = images.device
        self.precision = precision_of(config, self.device)
        self.method = method.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        deterministic = config.mode == "deterministic"
        if torch.are_deterministic_algorithms_enabled() != deterministic:  # to ask again imports torch's compiler, 1.5 s
            torch.use_deterministic_algorithms(deterministic)
        if self.device.type == "cpu":
            quicken(self.method)
        else:
            torch.backends.cudnn.benchmark = config.mode == "fast"
        self.forward: Callable[[Batch], dict[str, Tensor]] = distributed.parallel(self.method, self.device)
        self.steps_per_epoch = self.num_trained // config.batch_size
        self.steps = config.steps(len(images)) if epochs is None else self.steps_per_epoch * epochs
        self.epochs = -(-self.steps // self.steps_per_epoch)
        self.row_epochs = max(1, min(-(-ROW_STEPS // self.steps_per_epoch), self.epochs // LEAST_ROWS))
        self.optimizer = build_optimizer(self.method, config) if self.steps else None
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self.guard_steps = 1 if self.device.type == "cpu" else GUARD_STEPS
        """After so many steps their numbers are looked at."""
        self._broken = torch.full((), torch.inf, dtype=torch.float64, device=self.device)

    # ------------------------------------------------------------------ running

    def run(
        self, on_step: Callable[[Position], None] | None = None, on_epoch: Callable[[dict[str, float]], None] | None = None
    ) -> None:
        """Train from the current step to the end; the callbacks may raise to stop between two steps."""
        if not self.history:
            self._close_epoch(0, on_epoch)
        first = self.step
        while self.step < self.steps:
            epoch = self.step // self.steps_per_epoch
            for ids, images in self.images.batches(self._rest_of_epoch(epoch)):
                if self.epoch_work_is_due(self.step):
                    self.method.before_epoch(epoch, self.embed)
                self._train_step(ids, images, epoch)
                if self._row_is_due():
                    self._close_epoch(epoch + 1, on_epoch)
                if on_step is not None:
                    seen = (self.step - first) * self.config.batch_size
                    on_step(Position(self.step, self.steps, epoch, self.epochs, seen))

    def epoch_work_is_due(self, step: int) -> bool:
        """Whether ``before_epoch`` of the method comes before this step: where its warm-up ends, and at each epoch after."""
        first = round(self.method.epoch_work_from * self.steps)
        return step == first or (step > first and step % self.steps_per_epoch == 0)

    def _row_is_due(self) -> bool:
        """Whether the history gets a row after this step."""
        return self.step == self.steps or self.step % (self.row_epochs * self.steps_per_epoch) == 0

    def _rest_of_epoch(self, epoch: int) -> Iterator[Tensor]:
        """This process's share of each batch that is left of the epoch: (B / world,) ids."""
        last = min(self.steps_per_epoch, self.steps - epoch * self.steps_per_epoch)
        device = self.device if self.images.resident else "cpu"  # where the images are picked
        order = permutation(self.num_trained, self.seed, ORDER, epoch, device=device)
        order = order if self.rows is None else self.rows.to(device)[order]
        size = self.config.batch_size
        own = distributed.local_rows(size // distributed.world_size())
        for index in range(self.step % self.steps_per_epoch, last):
            yield order[index * size : (index + 1) * size][own]

    def _train_step(self, ids: Tensor, images: Tensor, epoch: int) -> None:
        self.method.train()
        progress = self.step / self.steps
        rng = Rng(ids, *self.key(epoch))
        with torch.no_grad():
            views = self.method.views(self.method.seen(images), rng)
        with self.autocast():
            out = self.forward(Batch(views, ids, progress))
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        out["loss"].backward()  # type: ignore[no-untyped-call]
        self._guard(out["loss"].detach())
        set_lr(self.optimizer, self.config, progress)
        set_weight_decay(self.optimizer, self.config, progress)
        self.optimizer.step()
        self.step += 1
        self.method.after_step(self.step / self.steps)
        self.method.follow()
        for name, value in out.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=self.device)) + value.detach().float()

    def key(self, epoch: int) -> tuple[int, ...]:
        """Names the random numbers of the next step."""
        return self.seed, VIEWS, epoch, self.step

    def _guard(self, loss: Tensor) -> None:
        """Clip, and note the first step with a number that is not finite: a half more if only its gradient is not."""
        grads = [p.grad for p in self.method.parameters() if p.grad is not None]
        norms = torch._foreach_norm(grads)
        norm = torch.linalg.vector_norm(torch.stack(norms))
        place = torch.where(torch.isfinite(loss), self.step + 0.5, float(self.step))
        self._broken = torch.minimum(self._broken, torch.where(torch.isfinite(loss + norm), torch.inf, place))
        if self.step % self.guard_steps == 0:
            self._refuse_broken()
        clip(grads, norms, norm, self.config)

    def _refuse_broken(self) -> None:
        """Raise if a step since the start was not finite; before a weight is touched on a CPU, before it is saved elsewhere."""
        place = float(self._broken)
        if place < torch.inf:
            which = "loss" if place == int(place) else "gradient"
            raise NonFinite(
                f"the {which} is not finite at step {int(place)} of {self.steps}; lower train.lr or use precision float32",
                int(place),
            )

    def autocast(self) -> torch.autocast:
        """The mixed-precision context of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    # ------------------------------------------------------------------ looking

    def _close_epoch(self, epoch: int, on_epoch: Callable[[dict[str, float]], None] | None) -> None:
        """Append the mean scalars since the last row and the health of the encoder to the history.

        Epoch 0 is the encoder before training with its residual branches on: what the others are judged against.
        """
        self._refuse_broken()
        row: dict[str, float] = {"epoch": epoch, "step": self.step}
        for name, total in self._sums.items():
            row[name] = float(distributed.mean(total)) / (self.step - int(self.history[-1]["step"]))
        self._sums = {}
        row |= self.health(self.method.exported if epoch else open_residuals(copy.deepcopy(self.method.exported)))
        self.history.append(row)
        if on_epoch is not None:
            on_epoch(row)

    def watched(self) -> Tensor:
        """Positions of the training images that ``health`` looks at."""
        return watched(len(self.images), self.config.health_images).to(self.device)

    def health(self, encoder: Encoder) -> dict[str, float]:
        """Label-free indicators of ``encoder`` on evenly spaced training images and one augmented pair of views of each, and
        where there are labels ``knn`` among these images.

        Raises:
            NonFinite: a feature is not a number, though the loss was.
        """
        ids = self.watched()
        plain = self.features(encoder, ids)
        rngs = (Rng(ids, self.seed, HEALTH, number) for number in (1, 2))
        views = (self.method.view(self.images.batch(ids), rng) for rng in rngs)
        first, second = (frozen(encoder, torch.split(x, EMBED_BATCH), self.precision)[0] for x in views)
        if not all(bool(torch.isfinite(features).all()) for features in (plain, first, second)):
            raise NonFinite(f"the features are not finite after step {self.step} of {self.steps}; lower train.lr", self.step)
        if self.labels is None:
            return health(plain, (first, second))
        groups = None if self.groups is None else self.groups[ids]
        return health(plain, (first, second)) | knn_by_the_others(plain, self.labels[ids], groups)

    def features(self, module: nn.Module, ids: Tensor) -> Tensor:
        """Outputs (B, D) float32 of ``module`` for the images ``ids``, un-augmented, in evaluation mode."""
        whole = (self.method.whole(self.images.batch(chunk)) for chunk in torch.split(ids, EMBED_BATCH))
        return frozen(module, map(self.method.normalize, whole), self.precision)[0]

    @torch.no_grad()
    def embed(self, module: nn.Module) -> Tensor:
        """``features`` of every training image, in the order of the ids (N, D); each process computes its share."""
        n, world = len(self.images), distributed.world_size()
        share = -(-n // world)
        ids = torch.arange(world * share, device=self.device)[distributed.local_rows(share)] % n
        own = torch.cat([self.features(module, chunk) for chunk in torch.split(ids, 10 * EMBED_BATCH)])
        return distributed.gather_keys(own)[:n]

    # ------------------------------------------------------------------ stopping and going on

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor needed to go on, by name. All processes must call it; all get the same.

        Raises:
            NonFinite: they would hold what is not a number.
        """
        self._refuse_broken()
        named = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        if self.optimizer is not None:
            named |= {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer).items()}
        named |= {f"sums.{k}": distributed.gather_keys(v[None]) for k, v in self._sums.items()}
        return {k: v.detach().cpu().contiguous() for k, v in named.items()}

    def scalars(self) -> dict[str, Any]:
        """What is not a tensor: the step and the history."""
        return {"step": self.step, "history": self.history}

    def load(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Continue from ``tensors()`` and ``scalars()``.

        Raises:
            RuntimeError: a tensor is missing or unexpected.
        """
        part: dict[str, dict[str, Tensor]] = {"method": {}, "optimizer": {}, "sums": {}}
        for key, value in tensors.items():
            group, name = key.split(".", 1)
            part[group][name] = value
        self.method.load_state_dict(part["method"])
        if self.optimizer is not None:
            load_optimizer_tensors(self.optimizer, part["optimizer"])
        self._sums = {k: v[distributed.rank()].to(self.device) for k, v in part["sums"].items()}
        self.step, self.history = scalars["step"], scalars["history"]
