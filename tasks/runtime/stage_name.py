"""The name of a stage in DVC, ``pretrain@simclr-0``, and its parts. Nobody else takes such a name apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tasks.runtime.errors import UsageError


@dataclass(frozen=True)
class StageName:
    """The parts of a stage's name."""

    group: str
    """The stage in dvc.yaml: ``pretrain``."""
    method: str | None = None
    """None: a stage for all methods."""
    seed: int | None = None

    @classmethod
    def parse(cls, name: str) -> Self:
        """The parts of ``GROUP``, ``GROUP@METHOD`` or ``GROUP@METHOD-SEED``."""
        group, _, item = name.partition("@")
        method, _, seed = item.rpartition("-")
        if method and seed.isdecimal():
            return cls(group, method, int(seed))
        return cls(group, item or None)

    def __str__(self) -> str:
        item = "-".join(str(part) for part in (self.method, self.seed) if part is not None)
        return f"{self.group}@{item}" if item else self.group


def method_and_seed(module: str, arguments: Sequence[str]) -> tuple[str, int]:
    """What ``python -m MODULE METHOD SEED`` was given.

    Raises:
        UsageError: something else.
    """
    if len(arguments) != 2 or not arguments[1].isdecimal():
        raise UsageError(f"usage: python -m {module} METHOD SEED")
    return arguments[0], int(arguments[1])
