"""``make doctor``: find what a crash left behind, repair what can be repaired, and say what is left to do.

Nothing that is still in use is touched: a lock that somebody holds belongs to a living process.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from tasks.dvc import damage, graph, lock_files
from tasks.dvc.places import check_places
from tasks.runtime import files, recorded, settings
from tasks.runtime.errors import EnvironmentFault, IntegrityError, Stop, UsageError, explain, run
from tasks.runtime.locks import try_lock
from tasks.runtime.work import KEPT, discard_old
from tasks.tracking import registered
from tasks.tracking.records import journals

NEEDED_BYTES = 2 * 2**30
WATCHED = ("data", "out", "reports", ".ssl", "mlruns")
REGISTERS = "make run, which makes again what was removed above, registers it too"


class Doctor:
    """Examines one project; ``fixed`` and ``problems`` collect a line for each finding."""

    def __init__(self, root: Path):
        self.root = root
        self.fixed: list[str] = []
        self.problems: list[Stop] = []
        self.plan: list[graph.PlannedStage] = []
        self.compared: set[Path] = set()
        self.removed: list[str] = []

    def examine(self) -> None:
        """Every check, the cheap ones first."""
        checks: list[tuple[str, Callable[[], None]]] = [
            ("versions", self.versions),
            ("disk", self.disk),
            ("DVC's locks", self.locks),
            ("half-written files", self.leftovers),
            ("stages", self.stages),
            ("outputs", self.outputs),
            ("sealed directories", self.seals),
            ("captures", self.captures),
            ("DVC's cache", self.cache),
            ("flow runs", self.flow_runs),
            ("tracking", self.tracking),
            ("registry", self.registry),
        ]
        for name, check in checks:
            fixed, problems = len(self.fixed), len(self.problems)
            try:
                check()
            except (Stop, OSError) as problem:  # the other checks are made all the same
                self.problems.append(problem if isinstance(problem, Stop) else EnvironmentFault(explain(problem)[1]))
            for line in self.fixed[fixed:]:
                print(f"{name}: {line}", flush=True)
            for problem in self.problems[problems:]:
                print(f"{name}: PROBLEM {str(problem).replace(files.MEND, 'make run makes it again')}", flush=True)
            if len(self.fixed) == fixed and len(self.problems) == problems:
                print(f"{name}: ok", flush=True)

    def versions(self) -> None:
        """The installed packages are those the project allows."""
        from packaging.requirements import Requirement

        project = self.root / "pyproject.toml"
        if not project.exists():
            return
        for line in tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]:
            wanted = Requirement(line)
            try:
                version = metadata.version(wanted.name)
            except metadata.PackageNotFoundError:
                version = "no version"
            if version == "no version" or not wanted.specifier.contains(version, prereleases=True):
                self.problems.append(EnvironmentFault(f"{wanted} is needed, {version} is installed; run make setup"))

    def disk(self) -> None:
        """There is room for checkpoints and outputs."""
        free = shutil.disk_usage(self.root).free
        if free < NEEDED_BYTES:
            raise EnvironmentFault(f"only {free / 2**30:.1f} GiB are free in {self.root}; dvc gc -w frees what no stage uses")

    def locks(self) -> None:
        """DVC's rwlock names only living processes, and dvc.lock is whole."""
        self.fixed += lock_files.repair(self.root)

    def leftovers(self) -> None:
        """Temporary files of processes that died while writing are removed."""
        for top in (self.root, *(self.root / name for name in WATCHED)):
            directories = [top] if top == self.root else [Path(d) for d, _, _ in os.walk(top)]
            for directory in directories:
                if directory.is_dir():
                    self.fixed += [f"removed {path.relative_to(self.root)}" for path in files.remove_leftovers(directory)]

    def stages(self) -> None:
        """The graph can be read; work directories that nobody will go on from are removed."""
        try:
            plan = graph.plan(self.root)
        except UsageError as error:
            said = str(error).removesuffix("; see also python -m tasks.doctor")
            if "dvc.lock" in said and recorded.RESTORE not in said:
                said += f"; {recorded.RESTORE}"
            raise UsageError(said) from None
        self.plan = plan
        check_places(self.root, plan)
        stale = {s.name for s in plan if s.stale}
        for directory in sorted((self.root / ".ssl" / "work").glob("*")):
            kept = KEPT if directory.name in stale else 0
            self.fixed += [f"removed old work {work.relative_to(self.root)}" for work in discard_old(directory, kept)]

    def outputs(self) -> None:
        """What DVC takes for up to date is what dvc.lock records; damaged outputs are removed, so that dvc repro makes them.

        Those of methods that params.yaml lists no more count too: the list may grow again.
        """
        changing = {out for stage in self.plan if stage.stale for out in stage.outs}
        known = {path: md5 for path, md5 in recorded.outputs(self.root).items() if path not in changing}
        self.removed = damage.discard_damaged(self.root, known)
        self.fixed += self.removed
        self.compared = set(known)

    def cache(self) -> None:
        """Every object of DVC's cache is what its name says; a damaged one, which would come back for ever, is removed."""
        self.fixed += damage.remove_bad_objects(self.root)

    def seals(self) -> None:
        """Every sealed directory that DVC does not record still has the bytes it was sealed with."""
        for manifest in self._manifests():
            if manifest.parent in self.compared:
                continue
            try:
                files.verify(manifest.parent)
            except IntegrityError as problem:
                what = str(problem).partition(";")[0]
                self.problems.append(IntegrityError(f"{what}; make run makes it again, unless no stage has made it"))

    def _manifests(self) -> Iterable[Path]:
        for top in ("data", "out", "reports"):
            yield from sorted((self.root / top).glob(f"**/{files.MANIFEST}"))

    def captures(self) -> None:
        """Steps that were not finite, kept to be repeated: named; one that is damaged can tell nothing and is removed."""
        for directory in sorted((self.root / ".ssl" / "captures").glob("[!.]*")):
            place = directory.relative_to(self.root)
            try:
                files.verify(directory)
                print(f"captures: python -m tasks.replay {place} repeats a step that was not finite; rm -r {place} forgets it")
            except IntegrityError:
                files.remove(directory)
                self.fixed.append(f"removed {place}, which was damaged")

    def flow_runs(self) -> None:
        """Flow runs whose process was killed are closed in Prefect."""
        dead = [path for path in (self.root / ".ssl" / "flows").glob("*") if _free(path)]
        if dead:
            self._command("flows.runs")

    def tracking(self) -> None:
        """MLflow has what the journals say, and the files of the runs; runs whose process is gone are closed."""
        if journals(self.root):
            self._command("tasks.sync", "--files")

    def registry(self) -> None:
        """The registry in use holds every encoder, the aliases name the right ones, and every byte can be read."""
        if self.removed:
            fault = registered.fault(self.root, whole=True)
            self.fixed += [f"{fault.partition(';')[0]}; {REGISTERS}"] if fault else []
            return
        problem = registered.ensure(self.root, self.fixed.append, whole=True)
        if problem:
            raise problem

    def _command(self, module: str, *options: str) -> None:
        done = subprocess.run([sys.executable, "-m", module, *options], cwd=self.root, capture_output=True, text=True)
        self.fixed += [line for line in done.stdout.splitlines() if line.strip()]
        self.fixed += [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
            self.problems.append(EnvironmentFault(f"python -m {module}: {reason}"))


def _free(path: Path) -> bool:
    with path.open("a") as file:
        return try_lock(file)


def main() -> None:
    """Examine the project here; the exit code is that of the first problem left."""
    settings.apply()
    doctor = Doctor(Path.cwd())
    if not (doctor.root / "dvc.yaml").exists():
        raise UsageError("dvc.yaml is missing; run from the project's root")
    doctor.examine()
    if doctor.problems:
        sys.exit(doctor.problems[0].code)


if __name__ == "__main__":
    run(main)
