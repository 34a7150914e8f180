"""Whether the files of runs are still in MLflow's store: they lie elsewhere than its numbers, and may be lost alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.runtime import recorded
from tasks.runtime.errors import IntegrityError
from tasks.tracking import artifacts
from tasks.tracking.records import Record, records, training
from tasks.tracking.tracker import Tracker


def send_again(tracker: Tracker) -> list[str]:
    """Send the files of ended runs that are gone from the store, or of another size there; a line for each run.

    What a run never had (``ssl.missing_artifacts``) is the business of ``Tracker.sync``.

    Raises:
        TrackerDown: the store cannot be used now.
    """
    lines, known = [], recorded.outputs(tracker.root)
    with tracker.errors():
        for record, run in _runs(tracker):
            if lost := _lost(tracker.client, run, record, tracker.root):
                if other := _not_as_recorded(record, tracker.root, known):
                    lines.append(
                        f"{record.name}: {', '.join(lost)} in MLflow stays, for {other} here is not what dvc.lock records"
                    )
                    continue
                _, unsent = artifacts.send(tracker.client, run, record, tracker.root)
                became = f"could not be sent again {unsent}" if unsent else "were sent again"
                lines.append(f"{record.name}: files that were gone from MLflow or cut there {became}: {', '.join(lost)}")
    return lines


def _not_as_recorded(record: Record, root: Path, known: Mapping[Path, str]) -> str | None:
    """A file of a run that was damaged or edited here since it was made; the next run makes it again."""
    for path, _ in record.files(root)[0]:
        try:
            if path in known:
                recorded.check(path, known[path])
        except IntegrityError:
            return str(path.relative_to(root))
    return None


def _runs(tracker: Tracker) -> Iterator[tuple[Record, Any]]:
    """The journals that are all in the store, with the runs that show them."""
    for record in records(tracker.root):
        shown = training(tracker.root, record.name) if record.adds else record
        run_id = tracker.run_id(shown.run["fingerprint"]) if shown else None
        if run_id is None:
            continue
        run = tracker.client.get_run(run_id)
        expected = record.run["fingerprint"] if record.adds else record.digest
        if run.data.tags.get(record.evaluated if record.adds else "ssl.journal", "").partition(" ")[0] == expected:
            yield record, run


def _lost(client: Any, run: Any, record: Record, root: Path) -> list[str]:
    present, _ = record.files(root)
    wanted: dict[str, int | None] = {f"{folder}/{path.name}".lstrip("/"): path.stat().st_size for path, folder in present}
    wanted |= {name: None for name, _ in artifacts.made(record, present)}
    folders = {name.rpartition("/")[0] for name in wanted}
    there = {part.path: part.file_size for f in sorted(folders) for part in client.list_artifacts(run.info.run_id, f or None)}
    return sorted(name for name, size in wanted.items() if name not in there or size not in (None, there[name]))
