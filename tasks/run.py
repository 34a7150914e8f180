"""``make run``: bring every stage up to date with ``dvc repro``, several side by side, and say what came out.

The result is that of plain ``dvc repro``, byte for byte: DVC decides what is stale and records it, each training has its
fixed number of threads. ``--jobs 1`` is one stage after another.
"""

import argparse
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tasks import leaderboard
from tasks.dvc import graph, lock_files
from tasks.dvc.live import Live
from tasks.dvc.runner import Outcome, Runner
from tasks.dvc.schedule import FAILED, Schedule, default_parallelism
from tasks.runtime import params, settings
from tasks.runtime.errors import Preempted, StageFailed, UsageError, run
from tasks.runtime.progress import clock
from tasks.tracking.records import records

NAMES = {"unchanged": "Unchanged", "restored": "Restored", "ran": "Completed"}


def work(schedule: Schedule, runner: Runner, jobs: int, pool: ThreadPoolExecutor) -> list[int]:
    """Start what is ready until nothing is left; the exit codes of the stages that failed."""
    codes: list[int] = []
    live = Live(runner.root, len(schedule.chosen))
    running: dict[Future[Outcome], str] = {}
    while not schedule.over():
        for stage in schedule.ready(jobs - len(running)):
            if stage.stale:
                running[pool.submit(runner.run, stage.name, live.start(stage.name))] = stage.name
            else:
                schedule.finished(stage.name, "Unchanged")
                live.finish(stage.name, "unchanged")
        for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
            name, outcome = running.pop(future), future.result()
            codes += [outcome.code] if outcome.code else []
            schedule.finished(name, FAILED if outcome.code else NAMES[outcome.how], outcome.message)
            live.finish(name, outcome.how)
    return codes


def main() -> None:
    """Check, plan, work, bring MLflow up to date, show the table."""
    parser = argparse.ArgumentParser(prog="python -m tasks.run", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="only these stages and what they need (pretrain, evaluate@byol-0)")
    parser.add_argument("-j", "--jobs", type=int, help="stages at a time; default: cores // train.threads")
    options = parser.parse_args()
    if options.jobs is not None and options.jobs < 1:
        raise UsageError("--jobs must be at least 1")
    settings.apply()
    root, started = Path.cwd(), time.monotonic()
    for line in lock_files.repair(root):
        print(line)
    plan, before = graph.plan(root), lock_files.remember_order(root)
    schedule = Schedule(plan, targets=options.targets or None)
    codes: list[int] = []
    if any(stage.stale for stage in plan):
        params.check(params.load())
        codes = bring_up_to_date(schedule, Runner(root), options.jobs or default_parallelism(root))
        if records(root):
            subprocess.run([sys.executable, "-m", "tasks.sync"])
        print(schedule.summary())
    else:
        print("Nothing has changed.")
    lock_files.tidy_lock(root, before, [stage.name for stage in plan], finished=not codes)
    if not codes or any(Path("out/metrics").glob("*.json")):
        leaderboard.show(Path())
    print(f"{clock(time.monotonic() - started)} in all")
    if codes:
        raise StageFailed(codes[0], schedule.first_failure)


def bring_up_to_date(schedule: Schedule, runner: Runner, jobs: int) -> list[int]:
    """Work, and stop every stage cleanly on Ctrl-C or SIGTERM."""

    def stop(number: int, frame: Any) -> None:
        raise Preempted("stopped; the same command goes on from the last checkpoints")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return work(schedule, runner, jobs, pool)
        except BaseException:  # here: leaving the pool waits for its threads, and they for their stages
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            runner.stop()
            raise


if __name__ == "__main__":
    run(main)
