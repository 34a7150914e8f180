"""How a stage ended: the same words in ``make run``, in the Prefect flow and in the tests."""

from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """What became of a stage, in the words of the summary."""

    RAN = "ran"
    RESTORED = "restored from the cache"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    NOT_RUN = "not run"

    @property
    def good(self) -> bool:
        """Whether the stage is up to date."""
        return self not in (Fate.FAILED, Fate.NOT_RUN)


@dataclass(frozen=True)
class Outcome:
    """How a stage ended."""

    code: int
    """Exit code of the stage's command, 128 + N when signal N ended it; 0 when DVC recorded the outputs."""
    how: Fate
    message: str
    """Why it failed or was not run."""

    def __str__(self) -> str:
        return f"exit {self.code}: {self.message}" if self.code else self.message
