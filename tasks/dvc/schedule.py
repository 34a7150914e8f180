"""Which stage may start now, which never will, and what became of each; for ``make run`` and the Prefect flow alike."""

import math
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from tasks.dvc.graph import PlannedStage, read_params
from tasks.dvc.outcome import Fate, Outcome
from tasks.runtime import files
from tasks.runtime.cores import cores
from tasks.runtime.errors import StageFailed, UsageError
from tasks.runtime.words import counted, few


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
        methods: Collection[str] | None = None,
        seeds: Collection[int] | None = None,
        targets: Collection[str] | None = None,
    ):
        self.stages = {s.name: s for s in stages}
        self.chosen = self._choose(methods, seeds, targets)
        self.outcomes: dict[str, Outcome] = {}
        self.expected: Mapping[str, float] = {}
        """Seconds that trainings will take, where that is known."""
        self._started: set[str] = set()
        self._ended: dict[str, float] = {}
        self._depth: dict[str, int] = {}
        for s in stages:
            self._depth[s.name] = 1 + max((self._depth[name] for name in s.after), default=0)

    def ready(self, limit: int) -> list[PlannedStage]:
        """At most ``limit`` stages to start now.

        What reads images comes first, for it may refuse them; then later stages, so that results show early. Of trainings the
        longest is first, so that none is left over at the end, after those of which nothing is expected: these have no steps.
        """
        for name in self.chosen:  # in the plan's order: a stage after those it depends on
            reason = self._obstacle(self.stages[name]) if self._waits(name) else None
            if reason:
                self.finished(name, Outcome(0, Fate.NOT_RUN, reason))
        waiting = [name for name in self.chosen if self._waits(name)]
        waiting.sort(key=lambda n: (not self._prepares(n), -self._depth[n], -self.expected.get(n, math.inf)))
        chosen = waiting[: max(0, limit)]
        for name in chosen:
            self._started.add(name)
            self._remove_old_rows(self.stages[name])
        return [self.stages[name] for name in chosen]

    def over(self) -> bool:
        """Whether it is known of every chosen stage what became of it."""
        return all(name in self.outcomes for name in self.chosen)

    def finished(self, name: str, outcome: Outcome) -> None:
        """Note how a started stage ended, or why one will not start."""
        self.outcomes[name], self._ended[name] = outcome, time.time()

    def done(self) -> list[PlannedStage]:
        """The chosen stages that are up to date now."""
        return [self.stages[name] for name in self.chosen if name in self.outcomes and self.outcomes[name].how.good]

    @property
    def stale(self) -> bool:
        """Whether anything in the whole plan is out of date."""
        return any(stage.stale for stage in self.stages.values())

    @property
    def out_of_date(self) -> set[str]:
        """The stages of the whole plan whose outputs, if there are any, are not those of what is there now."""
        outcomes = self.outcomes
        return {name for name, s in self.stages.items() if (not outcomes[name].how.good if name in outcomes else s.stale)}

    @property
    def to_run(self) -> int:
        """How many of the chosen stages are out of date."""
        return sum(self.stages[name].stale for name in self.chosen)

    def which(self, fate: Fate) -> list[str]:
        """The stages of one fate, as they ended."""
        return [name for name, outcome in self.outcomes.items() if outcome.how is fate]

    @property
    def failed(self) -> list[str]:
        """Stages that failed, the first one first."""
        return self.which(Fate.FAILED)

    @property
    def failure(self) -> StageFailed | None:
        """What a command ends with when a stage failed: the exit code of the first one, its name and why."""
        if not self.failed:
            return None
        first = self.failed[0]
        return StageFailed(self.outcomes[first].code, f"{first} failed: {self.outcomes[first]}")

    def summary(self) -> str:
        """One line of counts, then one for each reason why stages failed or were not run."""
        counts = {fate: len(self.which(fate)) for fate in Fate}
        found = ", ".join(f"{n} {fate}" for fate, n in counts.items() if n)
        lines = [f"{counted(len(self.chosen), 'stage', 'stages')}: {found}"]
        for fate in (Fate.FAILED, Fate.NOT_RUN):
            groups: dict[str, list[str]] = {}
            for name in sorted(self.which(fate), key=self.chosen.index):
                groups.setdefault(str(self.outcomes[name]), []).append(name)
            lines += [f"{few(names)} {fate}: {why}" for why, names in groups.items()]
        if self.failed:
            lines.append("The same command goes on from here; a method taken out of run.methods is left out of the report.")
        return "\n".join(lines)

    @property
    def prepared(self) -> bool:
        """Whether the images are those that params.yaml names now, so that what was scored is of them."""
        return "prepare" not in self.outcomes or self.outcomes["prepare"].how.good

    # ------------------------------------------------------------------ rules

    def _choose(
        self, methods: Collection[str] | None, seeds: Collection[int] | None, targets: Collection[str] | None
    ) -> list[str]:
        groups = {stage.parts.group for stage in self.stages.values()}
        for target in targets or ():
            if target not in self.stages and target not in groups:
                raise UsageError(
                    f"target {target!r}: no such stage; there are {', '.join(sorted(groups))} (and e.g. pretrain@simclr-0)"
                )
        named = {n: s.parts for n, s in self.stages.items() if not targets or n in targets or s.parts.group in targets}
        if methods is None and seeds is None:
            return self._with_ancestors(named)
        chosen = [
            name
            for name, parts in named.items()
            if parts.method and (methods is None or parts.method in methods) and (seeds is None or parts.seed in seeds)
        ]
        gathering = {name for name, parts in named.items() if parts.method is None}
        needed = self._with_ancestors(chosen)
        return [name for name in self.stages if name in gathering or name in needed]

    def _with_ancestors(self, names: Iterable[str]) -> list[str]:
        needed: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in needed:
                needed.add(name)
                todo.extend(self.stages[name].after)
        return [name for name in self.stages if name in needed]

    def _waits(self, name: str) -> bool:
        """Whether a stage is still to be started or given up, and all it depends on has ended."""
        over = {*self._started, *self.outcomes}
        return name not in over and all(n in self.outcomes for n in self.stages[name].after if n in self.chosen)

    def _prepares(self, name: str) -> bool:
        return self.stages[name].parts.group.startswith("prepare")

    def _good(self, name: str) -> bool:
        if name in self.chosen:
            return name in self.outcomes and self.outcomes[name].how.good
        return not self.stages[name].stale

    def _obstacle(self, stage: PlannedStage) -> str | None:
        """Why a stage cannot run: an input that nobody made, or one that is out of date and was not asked for.

        A directory that several stages fill (the report's) is an input as soon as one of them succeeded.
        """
        for makers in stage.inputs:
            if not any(self._good(n) for n in makers):
                return f"needs {few(makers, between=' or ')}"
        for name in sorted(stage.after - set(self.chosen)):
            if self.stages[name].stale and any(out.exists() for out in self.stages[name].outs):
                return f"{name} is out of date and was not asked for"
        return None

    def _remove_old_rows(self, stage: PlannedStage) -> None:
        """A method that failed now must not appear in a report with the outputs of an earlier run.

        What has come since is of another run in this workspace, which goes on with it.
        """
        for name in stage.after:
            if name in self.outcomes and not self.outcomes[name].how.good:
                for out in self.stages[name].outs:
                    if os.path.lexists(out) and out.lstat().st_ctime <= self._ended[name]:
                        files.remove(out)


def default_parallelism(root: Path) -> int:
    """Stages that fill the cores, each with its fixed number of processes and threads; with GPUs, one more than they carry."""
    train = read_params(root)["train"]
    processes = int(train.get("processes", 1))
    fitting = max(1, cores() // (int(train["threads"]) * processes))
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return min(fitting, gpus // processes + 1) if gpus else fitting
