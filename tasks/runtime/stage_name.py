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
    task: str | None = None
    """A name in ``run.tasks``, of the stages whose group ends with ``_task``; it has no dash."""
    folder: str | None = None
    """A name in ``data.more``, of the stages ``prepare_more``."""

    @classmethod
    def parse(cls, name: str) -> Self:
        """The parts of ``GROUP``, ``GROUP@METHOD`` or ``GROUP@METHOD-SEED``; after ``X_task@`` with ``TASK-`` before them.

        After ``X_more@`` stands a further folder's name alone.
        """
        group, _, item = name.partition("@")
        if group.endswith("_more"):
            return cls(group, folder=item)
        task = None
        if group.endswith("_task"):
            task, _, item = item.partition("-")
        method, _, seed = item.rpartition("-")
        if method and seed.isdecimal():
            return cls(group, method, int(seed), task)
        return cls(group, item or None, task=task)

    def __str__(self) -> str:
        item = "-".join(str(part) for part in (self.task, self.folder, self.method, self.seed) if part is not None)
        return f"{self.group}@{item}" if item else self.group


def with_task(module: str, arguments: Sequence[str]) -> tuple[str, int, str | None]:
    """What ``python -m MODULE METHOD SEED`` or ``METHOD SEED TASK`` was given.

    Raises:
        UsageError: something else.
    """
    task = arguments[2] if len(arguments) == 3 and arguments[2].isidentifier() else None
    return *method_and_seed(module, arguments[: 2 if task else None]), task


def method_and_seed(module: str, arguments: Sequence[str]) -> tuple[str, int]:
    """What ``python -m MODULE METHOD SEED`` was given.

    Raises:
        UsageError: something else.
    """
    if len(arguments) != 2 or not arguments[1].isdecimal():
        raise UsageError(f"usage: python -m {module} METHOD SEED")
    return arguments[0], int(arguments[1])
