"""Where the time of ``make run`` goes: ``python -m benchmarks.shares``, in a clone, with the parameters that are shipped.

The time of a run is its wall-clock time times the stages that it runs at a time. Training and evaluation are what the
journals say of themselves; all the rest is orchestration. Exit code 1 when that is more than a tenth, unless a preset is
named: trainings of a second, as ``tiny`` has them, leave nothing to compare with.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import machine
from benchmarks.overhead import clone
from tasks import run
from tasks.dvc.outcome import Outcome
from tasks.dvc.runner import Runner
from tasks.dvc.schedule import default_parallelism
from tasks.preset import NONE
from tasks.runtime import settings
from tasks.tracking.journal import read

LIMIT = 0.1
"""Share of the time that orchestration may take."""


class Timed(Runner):
    """Notes how long each stage took, from DVC's start to its end."""

    stages: dict[str, float] = {}

    def run(self, name: str, watch: Callable[[list[str]], None] = lambda lines: None) -> Outcome:
        started = time.monotonic()
        outcome = super().run(name, watch)
        self.stages[name] = time.monotonic() - started
        return outcome


def costs(journals: Path, key: str) -> float:
    """The sum of what the journals of finished stages say they cost."""
    ends = (event for path in journals.glob("*.jsonl") for event in read(path) if event["event"] == "end")
    return float(sum(end["cost"].get(key, 0.0) for end in ends))


def measured() -> dict[str, float]:
    """Seconds of the project in the current directory by what they went into; the first is all of them."""
    jobs, started = default_parallelism(Path()), time.monotonic()
    run.Runner = Timed  # type: ignore[misc]
    sys.argv = ["tasks.run"]
    run.main()
    whole = jobs * (time.monotonic() - started)
    journals, stages = Path("out/journal"), Timed.stages
    training, evaluation = costs(journals, "seconds"), costs(journals, "evaluation_seconds")
    around = sum(seconds for name, seconds in stages.items() if name.startswith(("pretrain", "evaluate")))
    others = {f"the stage {name}": seconds for name, seconds in stages.items() if "@" not in name}
    return {
        f"all: {jobs} stages at a time": whole,
        "training": training,
        "evaluation": evaluation,
        "around them: DVC, Python, imports, hashes, outputs": around - training - evaluation,
        **others,
        "the forecast, what follows the stages, and slots with nothing to do": whole - around - sum(others.values()),
    }


def main() -> int:
    """Run, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shares", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("preset", nargs="?", default=NONE, help="instead of the parameters that are shipped")
    preset = parser.parse_args().preset
    settings.apply()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ.pop("MLFLOW_TRACKING_URI")  # the copy has a store of its own
    before, project = Path.cwd(), clone("shares", preset)
    os.chdir(project)
    found = measured()
    os.chdir(before)
    shutil.rmtree(project)
    whole, training, evaluation, *_ = found.values()
    orchestration = 1 - (training + evaluation) / whole
    rows = [f"| {name} | {seconds:.1f} s | {seconds / whole:.1%} |" for name, seconds in found.items()]
    rows.append(f"| **orchestration: all but training and evaluation** | | **{orchestration:.1%}**, at most {LIMIT:.0%} |")
    print("\n".join([*machine(), "", "| what | seconds of a slot | share |", "|---|--:|--:|", *rows]))
    return int(preset == NONE and orchestration > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
