"""``python -m tasks.sync``: bring MLflow up to date with the journals; whatever was sent before stays as it is.

``--files``: look for the files of all runs too, and send again those that are gone. ``--follow JOURNAL`` (started by
``tasks.tracking.mirror``): go on until standard input closes; complain once and never fail.
"""

import argparse
import os
import select
import signal
import sys
import time
from pathlib import Path

from tasks.runtime import files, settings
from tasks.runtime.errors import run
from tasks.runtime.redaction import redact
from tasks.runtime.words import counted
from tasks.tracking import patience, sent_files
from tasks.tracking.records import journals, set_aside
from tasks.tracking.tracker import Tracker

SENT = Path(".ssl/mlflow.json")  # which runs are where, for pages that link to them


def once(root: Path, files_too: bool = False) -> None:
    """Send everything and say so in one line; with ``files_too`` also files that were there before."""
    tracker, aside = Tracker(root), set_aside(root)
    complete = tracker.sync()
    for journal in () if tracker.problems else aside:
        journal.unlink(missing_ok=True)
    where = {"uri": redact(tracker.uri), "experiment": tracker.experiment, "runs": tracker.published}
    files.write_json(root / SENT, where)
    for line in sent_files.send_again(tracker) if files_too else ():
        print(line)
    for problem in (*tracker.damage, *(f"MLflow refuses {problem}" for problem in tracker.problems)):
        print(f"warning: {problem}", file=sys.stderr)
    print(f"tracking: {counted(complete, 'journal is', 'journals are')} in MLflow at {redact(tracker.uri)}")


def follow(root: Path, journal: Path, interval: float) -> None:
    """Send ``journal`` every ``interval`` seconds (and, once, what others left), until standard input closes."""
    os.nice(10)  # a training beside it comes first
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tracker: Tracker | None = None
    monitor, warned, closed = None, False, False
    while True:
        patience.begin()
        try:
            if tracker is None:
                tracker = Tracker(root)
                tracker.sync()
            tracker.sync(only=journal)
            monitor = monitor or (tracker.system_metrics(journal) if settings.system_metrics() else None)
        except Exception as error:
            tracker = None
            if not warned:
                print(f"warning: {redact(str(error))}; training goes on, python -m tasks.sync sends it later", file=sys.stderr)
            warned = True
        if closed:
            break
        closed = bool(select.select([sys.stdin], [], [], interval)[0])
        if closed:
            time.sleep(0.1)  # a killed process loses its pipes a moment before its lock, which tells that it is dead
    sys.stderr.flush()
    os._exit(0)  # no waiting for MLflow's threads


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tasks.sync", description="Bring MLflow up to date with the journals.")
    parser.add_argument("--follow", type=Path, metavar="JOURNAL", help="keep sending one journal until standard input closes")
    parser.add_argument("--interval", type=float, default=20.0, help="seconds between two sendings with --follow")
    parser.add_argument("--files", action="store_true", help="also send again what is gone of the files of runs")
    arguments = parser.parse_args()
    settings.apply()
    root = settings.project_root()
    if arguments.follow:
        follow(root, arguments.follow, arguments.interval)
    else:
        if not journals(root):
            settings.need_project()
        once(root, arguments.files)


if __name__ == "__main__":
    run(main)
