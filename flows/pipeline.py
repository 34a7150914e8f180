"""The flow ``ssl-pipeline``: DVC's stages, several at a time, in Prefect's hands.

    python -m flows.pipeline                        # what changed; needs no server
    python -m flows.pipeline -m byol -S train.epochs=20 -j 4

DVC says what is stale and what depends on what; each stage is one ``dvc repro -s`` process; the result is the one of plain
``dvc repro``. The flow decides only when a stage starts, and shows it.
"""

import argparse
import contextlib
import queue
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import artifacts, own_server, runs
from flows.machines import AT_A_TIME, Machines
from tasks import guard
from tasks.dvc import graph, lock_files
from tasks.dvc.outcome import Fate, Outcome
from tasks.dvc.places import check_places
from tasks.dvc.runner import Runner
from tasks.dvc.schedule import Schedule, default_parallelism
from tasks.runtime import audit, dataset, params, settings, start_rows
from tasks.runtime.errors import Preempted, Stop, UsageError, explain, run
from tasks.runtime.locks import try_lock
from tasks.runtime.words import few
from tasks.tracking import registered
from tasks.tracking.records import journals

RETRIES, RETRY_SECONDS = 2, 3.0
RETRIED = (4, 75)  # environment, preempted; and a death by signal. Wrong parameters or data fail the same way again.


def worth_retrying(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether the same command may succeed the next time."""
    outcome = state.data
    return isinstance(outcome, Outcome) and (outcome.code in RETRIED or outcome.code > 128)


@task(
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=worth_retrying,
)
def stage(name: str, stale: bool, runner: Runner | Machines) -> State[Outcome]:
    """Bring one stage up to date and show what it says meanwhile."""
    if not stale:
        return _state(Outcome(0, Fate.UNCHANGED, "nothing it depends on changed"))
    logger = get_run_logger()
    bar = artifacts.ProgressBar(name, runner.root)

    def watch(lines: list[str]) -> None:
        for line in lines:
            logger.info("%s", line)
        bar.update()

    return _state(runner.run(name, watch))


def _state(outcome: Outcome) -> State[Outcome]:
    """What Prefect shows: ``Completed``, ``Restored``, ``Unchanged`` or ``Failed``."""
    if outcome.how is Fate.FAILED:
        return Failed(message=str(outcome), data=outcome)
    name = "Completed" if outcome.how is Fate.RAN else outcome.how.name.capitalize()
    return Completed(name=name, message=outcome.message or outcome.how, data=outcome)


def run_name() -> str:
    """What Prefect's pages call a run: what was asked for, and when. Also a name that git takes for an experiment."""
    asked = flow_run.parameters
    words = [str(word) for key in ("targets", "methods", "seeds", "overrides") for word in asked.get(key) or ()]
    return f"{re.sub(r'[^a-zA-Z0-9_=]+', '-', ' '.join(words) or 'all').strip('-')[:60]}-{datetime.now():%Y%m%d-%H%M%S}"


@flow(
    name="ssl-pipeline",
    flow_run_name=run_name,
    persist_result=False,
    on_completion=[runs.forget],
    on_failure=[runs.forget],
)
def pipeline(
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
    overrides: list[str] | None = None,
    parallelism: int | None = None,
    targets: list[str] | None = None,
    machines: bool = False,
) -> State[None]:
    """Bring the stages up to date, several at a time.

    Args:
        methods: only these methods, and what can be told from them; one that params.yaml does not list is added there.
        seeds: only these seeds; one that params.yaml does not list is added there.
        overrides: ``KEY=VALUE`` as ``dvc exp run -S`` takes them. They change params.yaml and stay.
        parallelism: stages at a time; default as many as the cores carry.
        targets: only these stages (``evaluate@byol-0``, or ``pretrain`` for all of them) and what they need.
        machines: train and evaluate on the machines whose workers serve the pool ``machines`` (flows/machines.py).
    """
    root, logger = Path.cwd(), get_run_logger()
    before = artifacts.champion(root)
    try:
        if parallelism is not None and parallelism < 1:
            raise UsageError(f"parallelism is {parallelism}; it must be at least 1")
        runs.register(root, flow_run.id)
        wanted = [*additions(root, methods, seeds), *(overrides or [])]
        with workspace(root, wanted):
            for line in lock_files.repair(root):
                logger.info("%s", line)
            plan = graph.plan(root)
            repeated = set() if machines else guard.moved(root, plan)  # other machines take from the remote what was made once
            if repeated:
                logger.info("%s: %s again", guard.MOVED, few(sorted(repeated)))
                plan = graph.again(plan, repeated)
            starts = start_rows.rows_of(graph.read_params(root), methods or ())  # a method is compared with what it starts from
            schedule = Schedule(plan, methods and [*methods, *starts], seeds, targets)
            if schedule.stale:
                params.check(graph.read_params(root))
                check_places(root, plan)
                for line in guard.try_encoders(root, (schedule.stages[name] for name in schedule.chosen)):
                    logger.warning("%s", line)
            local = Runner(root, environment={"SSL_FLOW_RUN_ID": flow_run.id}, pull=machines, again=repeated)
            runner = Machines(local, plan) if machines else local
            with local.forking(schedule.to_run):
                work(schedule, runner, parallelism or (AT_A_TIME if machines else default_parallelism(root)))
            lock_files.put_in_order(root, [planned.name for planned in plan])
            graph.remember(root, schedule.which(Fate.RAN))
            if any(outcome.how is not Fate.UNCHANGED for outcome in schedule.outcomes.values()) and journals(root):
                subprocess.run([sys.executable, "-m", "tasks.sync"], cwd=root)
            failure: Stop | None = schedule.failure
            if not failure and "register" in schedule.chosen:
                failure = registered.ensure(root, logger.info)
            if wanted and not schedule.failed:
                logger.info("%s", record(root, schedule))
            if not schedule.stale and (linked := audit.unwatched(root / dataset.PREPARED)):
                logger.info("%s", linked)
            summary, verdict = schedule.summary(), artifacts.judged(root, schedule.out_of_date) if schedule.prepared else None
            artifacts.publish(root, summary, verdict, before)
    except Exception as error:  # a mistake or the environment: a line, where Prefect would log a traceback
        code, message = explain(error)
        if code in (Stop.code, Preempted.code):
            raise
        return Failed(message=message, data=error)
    logger.info("%s", summary)
    for line in artifacts.said(verdict):
        logger.info("%s", line)
    if verdict:
        logger.info("report: reports/report.html; python -m tasks.leaderboard shows the table and how to load an encoder")
    if failure:
        return Failed(message=summary if schedule.failed else str(failure), data=failure)
    return Completed(message=summary)


def record(root: Path, schedule: Schedule) -> str:
    """Make the workspace an experiment, but not with scores that an earlier report wrote; returns a line that says which."""
    report = schedule.outcomes.get("report")
    if report and not report.how.good:
        return f"not recorded as an experiment: the report was not made, whose scores would be of before ({report})"
    return graph.save_experiment(root, flow_run.name, schedule.done())


def work(schedule: Schedule, runner: Runner | Machines, parallelism: int) -> None:
    """Start what is ready until nothing is left; on a signal stop all and start nothing more."""
    done: queue.Queue[PrefectFuture[Any]] = queue.Queue()
    running: dict[Any, str] = {}
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        while True:
            for planned in schedule.ready(parallelism - len(running)):
                upstream = [futures[name] for name in sorted(planned.after) if name in futures]
                future = stage.submit(
                    planned.name, planned.stale, runner, wait_for=[f for f in upstream if f.state.is_completed()]
                )
                futures[planned.name], running[future.task_run_id] = future, planned.name
                future.add_done_callback(done.put)
            if not running:
                return
            future = done.get()
            future.wait()  # takes over the final state, without asking the server
            outcome = future.state.result(raise_on_failure=False)
            if not isinstance(outcome, Outcome):  # the task itself broke
                outcome = Outcome(Stop.code, Fate.FAILED, future.state.message or "")
            name = running.pop(future.task_run_id)
            schedule.finished(name, outcome)
            if name == "prepare" and outcome.how.good:
                guard.check_images(runner.root, schedule.chosen)
    except BaseException:  # Ctrl-C, SIGTERM, `prefect flow-run cancel`, an API that went away
        runner.stop()
        raise


@contextlib.contextmanager
def workspace(root: Path, overrides: list[str]) -> Iterator[None]:
    """Apply the overrides and hold the workspace: many flows may share it, but none changes params.yaml under another."""
    path = root / ".ssl" / "flow.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as lock:
        if overrides or guard.is_wanted(root):
            _wait_for(lock, shared=False)
            if overrides and graph.override(root, overrides):
                get_run_logger().info("params.yaml: %s", ", ".join(overrides))
            for line in guard.complete(root):
                get_run_logger().info("%s", line)
        _wait_for(lock, shared=True)
        yield


def _wait_for(lock: IO[str], shared: bool) -> None:
    told = False
    while not try_lock(lock, shared):
        if not told:
            get_run_logger().info("waiting for another flow in this workspace")
        told = True
        time.sleep(0.5)


def additions(root: Path, methods: list[str] | None, seeds: list[int] | None) -> list[str]:
    """Overrides that make params.yaml list what was asked for; nothing is ever taken out, so that reports stay comparable."""
    run = graph.read_params(root)["run"]
    overrides = []
    for key, wanted in (("methods", methods), ("seeds", seeds)):
        new = [w for w in wanted or () if w not in run[key]]
        if new:
            overrides.append(f"run.{key}=[{','.join(str(v) for v in [*run[key], *new])}]")
    return overrides


def _seed(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is no seed; targets come before the options")
    return int(word)


def main() -> None:
    """Run the flow from the command line; with no server prepared, Prefect starts one for the time of the run."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline",
        usage="%(prog)s [TARGET ...] [-m NAME ...] [-s N ...] [-S KEY=VALUE] [-j N] [--machines]",
        description="Bring the stages up to date, several at a time.",
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="before the options: only these stages and what they need (pretrain, evaluate@byol-0)",
    )
    parser.add_argument(
        "-m", "--methods", nargs="+", metavar="NAME", help="only these methods; params.yaml gets those it does not list"
    )
    parser.add_argument(
        "-s", "--seeds", nargs="+", type=_seed, metavar="N", help="only these seeds; params.yaml gets those it does not list"
    )
    parser.add_argument(
        "-S", "--set", action="append", metavar="KEY=VALUE", dest="overrides", help="change params.yaml, as dvc exp run -S"
    )
    parser.add_argument("-j", "--parallelism", type=int, metavar="N", help="stages at a time")
    parser.add_argument("--machines", action="store_true", help="train and evaluate on the machines of the pool of that name")
    given = parser.parse_args()
    methods = given.methods and [name for word in given.methods for name in word.split(",") if name]
    if methods == []:
        raise UsageError("-m names no method")
    settings.need_project()
    wanted = [*additions(Path.cwd(), methods, given.seeds), *(given.overrides or [])]
    if wanted:
        graph.overridden(Path.cwd(), wanted)  # what is wrong is told at once: a server takes seconds to start
    own_server.prepare()
    with runs.marked(Path.cwd()):
        state = pipeline(
            methods,
            given.seeds,
            given.overrides,
            given.parallelism,
            given.targets or None,
            given.machines,
            return_state=True,
        )
    if state.is_completed():
        return
    error = state.result(raise_on_failure=False)
    if isinstance(error, Exception):
        raise error
    raise Stop(f"{(state.message or 'the flow failed').splitlines()[0]}; see above")


if __name__ == "__main__":
    run(main)
