"""What the baselines without a training share: an encoder as it is."""

from dataclasses import dataclass

from torch import Tensor

from ssl_core.engine.method import Batch, Method
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """Nothing to set; params.yaml gives such a row its ``encoder`` and ``train.epochs: 0``."""


class Frozen(Method):
    """A row to compare with that is never trained."""

    Config = Nothing

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (self.view(images, rng),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        name = type(self).__module__.rpartition(".")[2]
        raise RuntimeError(f"{name} is not trained; set method.{name}.train.epochs to 0")
