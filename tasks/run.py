"""``make run``: bring every stage up to date with ``dvc repro``, several side by side, and say what came out.

The result is that of plain ``dvc repro``, byte for byte: DVC decides what is stale and records it, each training has its
fixed number of threads. ``--jobs 1`` is one stage after another. dvc.lock ends in the order of the graph.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tasks import forecast, guard, leaderboard
from tasks.dvc import graph, lock_files
from tasks.dvc.live import Screen
from tasks.dvc.outcome import Fate, Outcome
from tasks.dvc.places import check_places
from tasks.dvc.runner import Runner
from tasks.dvc.schedule import Schedule, default_parallelism
from tasks.forecast import Forecast
from tasks.runtime import audit, dataset, params, settings
from tasks.runtime.errors import Preempted, Stop, UsageError, run
from tasks.runtime.progress import clock
from tasks.runtime.words import few
from tasks.tracking import registered
from tasks.tracking.records import journals

SO_FAR = "What was scored so far, by this run or an earlier one:"


def main() -> None:
    """The command line: work, bring MLflow up to date, show the table."""
    parser = argparse.ArgumentParser(prog="python -m tasks.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", help="only these stages and what they need (pretrain, evaluate@byol-0)")
    parser.add_argument("-j", "--jobs", type=int, help="stages at a time; default: cores // train.threads")
    options = parser.parse_args()
    if options.jobs is not None and options.jobs < 1:
        raise UsageError("--jobs must be at least 1")
    settings.apply()
    settings.need_project()
    root, started = Path.cwd(), time.monotonic()
    schedule = bring_up_to_date(root, options.targets, options.jobs)
    if schedule.stale:
        if journals(root):  # nothing to send otherwise, and MLflow takes seconds to start
            subprocess.run([sys.executable, "-m", "tasks.sync"])
        print("\n".join(line for line in schedule.summary().splitlines() if line != str(schedule.failure)))  # which comes last
    failure, told = schedule.failure, bool(schedule.stale)

    def tell(line: str) -> None:
        nonlocal told
        told = True
        print(line, flush=True)

    if not failure and "register" in schedule.chosen:
        failure = registered.ensure(root, tell)
    if not told:
        print("Nothing has changed.")
    if not schedule.stale and (linked := audit.unwatched(root / dataset.PREPARED)):
        print(f"note: {linked}")
    scored = any(name.startswith("evaluate") for name in schedule.chosen)
    if scored and schedule.prepared and any(Path("out/metrics").glob("*.json")):
        partly = failure and "report" in schedule.chosen
        try:
            leaderboard.show(Path(), schedule.out_of_date, heading=SO_FAR if partly else "")
        except Stop:
            if not failure:  # which is what to say
                raise
    print(f"{clock(time.monotonic() - started)} in all")
    if failure:
        raise failure


def bring_up_to_date(root: Path, targets: Collection[str] = (), jobs: int | None = None) -> Schedule:
    """Repair what a crash left, then run what is stale of ``targets`` (default: all); what became of each stage.

    Raises:
        UsageError, ConfigError: the graph, params.yaml or a target is wrong; nothing was started.
        Preempted: Ctrl-C or SIGTERM came; every stage has ended.
    """
    for line in (*lock_files.repair(root), *guard.complete(root)):
        print(line)
    plan = graph.plan(root)
    repeated = guard.moved(root, plan)
    if repeated:
        print(f"{guard.MOVED}: {few(sorted(repeated))} again")
        plan = graph.again(plan, repeated)
    schedule = Schedule(plan, targets=targets)
    if schedule.stale:
        runner = Runner(root, again=repeated)
        with runner.forking(schedule.to_run):
            params.check(graph.read_params(root))
            check_places(root, plan)
            for line in guard.try_encoders(root, (schedule.stages[name] for name in schedule.chosen)):
                print(line)
            jobs = jobs or default_parallelism(root)
            with ThreadPoolExecutor(jobs) as pool:
                expected = _work_until_stopped(schedule, runner, jobs, pool)
        if expected is not None:
            print(expected.error(root, schedule))
    lock_files.put_in_order(root, [stage.name for stage in plan])
    graph.remember(root, schedule.which(Fate.RAN))
    return schedule


def _work_until_stopped(schedule: Schedule, runner: Runner, jobs: int, pool: ThreadPoolExecutor) -> Forecast | None:
    """Work, and stop every stage cleanly on Ctrl-C or SIGTERM."""

    def stop(number: int, frame: Any) -> None:
        raise Preempted("stopped; the same command goes on from the last checkpoints")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        return _work(schedule, runner, jobs, pool)
    except BaseException:  # here: leaving the pool waits for its threads, and they for their stages
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        runner.stop()
        raise


def _work(schedule: Schedule, runner: Runner, jobs: int, pool: ThreadPoolExecutor) -> Forecast | None:
    """Start what is ready until nothing is left; what was expected of the trainings once the images were there."""
    running: dict[Future[Outcome], str] = {}
    expected, asked = None, False
    with Screen(runner.root, len(schedule.chosen)) as screen:
        while not schedule.over():
            if not asked and "prepare" in schedule.outcomes and schedule.outcomes["prepare"].how.good:
                guard.check_images(runner.root, schedule.chosen)
                expected, asked = forecast.make(runner, schedule, jobs, pool, screen.say), True
                if expected:
                    schedule.expected = expected.by_stage()
                    screen.say(expected.lines())
            for stage in schedule.ready(jobs - len(running)):
                if stage.stale:
                    running[pool.submit(runner.run, stage.name, screen.start(stage.name))] = stage.name
                else:
                    schedule.finished(stage.name, Outcome(0, Fate.UNCHANGED, ""))
                    screen.finish(stage.name, Fate.UNCHANGED)
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                name, outcome = running.pop(future), future.result()
                schedule.finished(name, outcome)
                screen.finish(name, outcome.how)
    return expected


if __name__ == "__main__":
    run(main)
