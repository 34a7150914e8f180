"""Which stage may start now, which never will, and what became of each; for ``make run`` and the Prefect flow alike."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks.dvc.graph import PlannedStage, read_params
from tasks.runtime.cores import cores
from tasks.runtime.errors import UsageError

GOOD = ("Completed", "Unchanged", "Restored")
SKIPPED, FAILED = "Not run", "Failed"
NAMED = 3
"""Stages named where more share a reason."""


class Schedule:
    """The chosen stages of a plan and their fates.

    Args:
        stages: the whole plan, each stage after those it depends on.
        methods: choose the stages of these methods, what they need, and what gathers results (report, register).
        seeds: the same for seeds.
        targets: choose these stages or groups of stages, and what they need.

    Raises:
        UsageError: nothing in the plan has such a name.
    """

    def __init__(
        self,
        stages: Sequence[PlannedStage],
        methods: Iterable[str] | None = None,
        seeds: Iterable[int] | None = None,
        targets: Iterable[str] | None = None,
    ):
        self.stages = {s.name: s for s in stages}
        self.chosen = self._choose(methods, None if seeds is None else [str(s) for s in seeds], targets)
        self.fate: dict[str, str] = {}
        self.why: dict[str, str] = {}
        self._started: set[str] = set()
        self._depth: dict[str, int] = {}
        for s in stages:
            self._depth[s.name] = 1 + max((self._depth[name] for name in s.after), default=0)

    def ready(self, limit: int) -> list[PlannedStage]:
        """At most ``limit`` stages to start now; later ones first, so that results show early."""
        for name in self.chosen:  # in the plan's order: a stage after those it depends on
            if name not in self._started and name not in self.fate and self._settled(name):
                reason = self._obstacle(self.stages[name])
                if reason:
                    self.fate[name], self.why[name] = SKIPPED, reason
        waiting = [n for n in self.chosen if n not in self._started and n not in self.fate and self._settled(n)]
        chosen = sorted(waiting, key=lambda n: -self._depth[n])[: max(0, limit)]
        for name in chosen:
            self._started.add(name)
            self._remove_old_rows(self.stages[name])
        return [self.stages[name] for name in chosen]

    def over(self) -> bool:
        """Whether every chosen stage has its fate."""
        return all(name in self.fate for name in self.chosen)

    def finished(self, name: str, fate: str, why: str = "") -> None:
        """Note how a started stage ended: one of ``GOOD``, or ``FAILED``."""
        self.fate[name], self.why[name] = fate, why

    def done(self) -> list[PlannedStage]:
        """The chosen stages that are up to date now."""
        return [self.stages[n] for n in self.chosen if self.fate.get(n) in GOOD]

    @property
    def failed(self) -> list[str]:
        """Stages that failed."""
        return [n for n, fate in self.fate.items() if fate == FAILED]

    @property
    def first_failure(self) -> str:
        """The stage that failed first, and why."""
        return f"{self.failed[0]} failed: {self.why[self.failed[0]]}"

    def summary(self) -> str:
        """One line of counts, then one for each reason why stages failed or were not run."""
        names = {
            "Completed": "ran",
            "Restored": "restored from the cache",
            "Unchanged": "unchanged",
            FAILED: "failed",
            SKIPPED: "not run",
        }
        counts = {word: sum(f == fate for f in self.fate.values()) for fate, word in names.items()}
        lines = [f"{len(self.chosen)} stages: " + ", ".join(f"{n} {word}" for word, n in counts.items() if n)]
        for fate in (FAILED, SKIPPED):
            groups: dict[str, list[str]] = {}
            for name in self.chosen:
                if self.fate.get(name) == fate:
                    groups.setdefault(self.why[name], []).append(name)
            lines += [f"{_few(found)} {names[fate]}: {why}" for why, found in groups.items()]
        if self.failed:
            lines.append("The same command goes on from here; a method taken out of run.methods is left out of the report.")
        return "\n".join(lines)

    # ------------------------------------------------------------------ rules

    def _choose(self, methods: Iterable[str] | None, seeds: Iterable[str] | None, targets: Iterable[str] | None) -> list[str]:
        groups = {n.partition("@")[0] for n in self.stages}
        for target in targets or ():
            if target not in self.stages and target not in groups:
                raise UsageError(
                    f"target {target!r}: no such stage; there are {', '.join(sorted(groups))} (and e.g. pretrain@simclr-0)"
                )
        named = [n for n in self.stages if not targets or n in targets or n.partition("@")[0] in targets]
        if methods is None and seeds is None:
            return self._with_ancestors(named)
        chosen = []
        for name in named:
            method, _, seed = name.partition("@")[2].rpartition("-")
            if method and (methods is None or method in methods) and (seeds is None or seed in seeds):
                chosen.append(name)
        gathering = {n for n in named if "@" not in n}
        return [n for n in self.stages if n in gathering or n in self._with_ancestors(chosen)]

    def _with_ancestors(self, names: Iterable[str]) -> list[str]:
        found: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo.extend(self.stages[name].after)
        return [n for n in self.stages if n in found]

    def _settled(self, name: str) -> bool:
        return all(n in self.fate for n in self.stages[name].after if n in self.chosen)

    def _good(self, name: str) -> bool:
        return self.fate.get(name) in GOOD if name in self.chosen else not self.stages[name].stale

    def _obstacle(self, stage: PlannedStage) -> str | None:
        """Why a stage cannot run: an input that nobody made, or one that is out of date and was not asked for.

        A directory that several stages fill (the report's) is an input as soon as one of them succeeded.
        """
        for makers in stage.inputs:
            if not any(self._good(n) for n in makers):
                return f"needs {' or '.join(makers[:3])}{', ...' if len(makers) > 3 else ''}"
        for name in sorted(stage.after - set(self.chosen)):
            if self.stages[name].stale and any(out.exists() for out in self.stages[name].outs):
                return f"{name} is out of date and was not asked for"
        return None

    def _remove_old_rows(self, stage: PlannedStage) -> None:
        """A method that failed now must not appear in a report with the outputs of an earlier run."""
        for name in stage.after:
            if self.fate.get(name) in (FAILED, SKIPPED):
                for out in self.stages[name].outs:
                    shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)


def _few(names: list[str]) -> str:
    """``names``, or the first of many."""
    return ", ".join(names) if len(names) <= NAMED + 1 else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def default_parallelism(root: Path) -> int:
    """Stages that fill the cores, each with its fixed number of processes and threads; with GPUs, one more than they carry."""
    train = read_params(root)["train"]
    processes = int(train.get("processes", 1))
    fitting = max(1, cores() // (int(train["threads"]) * processes))
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return min(fitting, gpus // processes + 1) if gpus else fitting
