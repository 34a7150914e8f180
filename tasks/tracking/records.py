"""Journals read for the mirror: what each run amounts to, in names and texts that MLflow accepts."""

import contextlib
import hashlib
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.runtime import files, recorded
from tasks.runtime.locks import try_lock
from tasks.runtime.redaction import redact
from tasks.runtime.stage_name import StageName
from tasks.tracking import journal

PREFIX = {"pretrain": "train", "evaluate": "eval"}
"""Of metrics whose name has no group; that of any other stage is its own name."""
ADDING = ("evaluate", "finetune")
"""Stages that add to the run of the training whose encoder they took."""
ORDER = {**dict.fromkeys(ADDING, 1), "report": 2}
"""A report is the parent of all; any other stage comes first."""
Row = tuple[int, int, str, float]
"""(time, step, name, value)."""
SHOWN_BY_MLFLOW = ("git_commit", "user", "description")
"""Facts of a journal that have a tag of MLflow's own, and a place on its pages."""
LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG = 240, 5900, 7900


@dataclass(frozen=True)
class Record:
    """One journal, read."""

    path: Path
    digest: str
    run: dict[str, Any]
    started: int
    last: int
    rows: list[Row]
    """The first of each name and step; finite values only."""
    tags: dict[str, str]
    artifacts: list[tuple[Path, str]]
    end: dict[str, Any] | None
    status: str

    @property
    def kind(self) -> str:
        """``pretrain``, ``evaluate``, ``report``, ..."""
        return _kind(self.run)

    @property
    def adds(self) -> bool:
        """Whether it adds to the run of a training."""
        return self.kind in ADDING

    @property
    def evaluated(self) -> str:
        """The tag of a run that says which evaluation it shows: the pool's, a task's, or a fine-tuning."""
        name = "ssl.evaluation" if self.kind == "evaluate" else f"ssl.{self.kind}"
        return ".".join(filter(None, (name, StageName.parse(self.run["stage"]).task)))

    @property
    def name(self) -> str:
        """``METHOD-SEED``, or the stage's name where there is no seed."""
        return self.run["name"] if self.run["seed"] is None else f"{self.run['name']}-{self.run['seed']}"

    def files(self, root: Path) -> tuple[list[tuple[Path, str]], list[Path]]:
        """The artifacts that are there, each with its folder, and the names of those that are not."""
        present, missing = [], []
        for path, folder in self.artifacts:
            # A stage that has just ended has not published yet.
            place = next((p for p in (self.path.parent / "outs" / path, root / path) if p.is_file()), None)
            if place:
                present.append((place, folder))
            else:
                missing.append(path)
        return present, missing


def read_record(path: Path, faults: list[str] | None = None) -> Record | None:
    """A journal's content; None if it does not even have a beginning. ``faults`` gets a text for each damaged line."""
    data = path.read_bytes()
    events = list(journal.read(path, faults))
    if not events or events[0]["event"] != "start":
        return None
    run = events[0]["run"]
    kind = _kind(run)
    end = events[-1] if events[-1]["event"] == "end" else None
    status = end["status"] if end else "RUNNING" if _held(path.parent / ".lock") else "KILLED"
    return Record(
        path=path,
        digest=hashlib.sha256(data + status.encode()).hexdigest(),
        run=run,
        started=events[0]["time"],
        last=events[-1]["time"],
        rows=list((_rows(events, kind) | _costs(end)).values()),
        tags=_tags(events, kind),
        artifacts=[(Path(e["path"]), e["folder"]) for e in events if e["event"] == "artifact"],
        end=end,
        status=status,
    )


def _kind(run: dict[str, Any]) -> str:
    """The stage's group; an evaluation on the images of a task is one too."""
    return StageName.parse(run["stage"]).group.removesuffix("_task")


def _numbers(events: list[dict[str, Any]], kind: str) -> Iterator[tuple[int, int, str, float | str]]:
    """(time, step, name, value) as they were written; a value that is not finite is text."""
    for event in events:
        if event["event"] == "metrics":
            for key, value in event["metrics"].items():
                yield event["time"], event["step"], clean(key if "/" in key else f"{PREFIX.get(kind, kind)}/{key}"), value


def _rows(events: list[dict[str, Any]], kind: str) -> dict[tuple[str, int], Row]:
    """The finite numbers, the first of each name and step."""
    rows: dict[tuple[str, int], Row] = {}
    for time, step, name, value in _numbers(events, kind):
        if not isinstance(value, str):
            rows.setdefault((name, step), (time, step, name, value))
    return rows


def _costs(end: dict[str, Any] | None) -> dict[tuple[str, int], Row]:
    """The cost of the result: that of an attempt which failed is not shown."""
    if end is None or end["status"] != "FINISHED":
        return {}
    numbers = {clean(f"resources/{k}"): float(v) for k, v in end["cost"].items() if isinstance(v, (int, float))}
    return {(name, 0): (end["time"], 0, name, value) for name, value in numbers.items()}


def _tags(events: list[dict[str, Any]], kind: str) -> dict[str, str]:
    """What was said of the run, and where its first number that is not finite is."""
    run = events[0]["run"]
    tags = _texts(run["tags"])
    if kind in ADDING:  # where it was made is not where its training was; both end up on one run
        made, recipe = ("evaluation.", "protocol.") if kind == "evaluate" else (f"{kind}.", f"{kind}.recipe.")
        tags = _texts(run["tags"], made) | _texts(run["params"], recipe)
    for event in events:
        if event["event"] == "tags":
            tags |= _texts(event["tags"])
    for _, step, name, value in _numbers(events, kind):
        if isinstance(value, str):
            tags.setdefault(f"nonfinite.{name}", f"{value} at step {step}")
    return tags


def _texts(tags: dict[str, Any], prefix: str = "") -> dict[str, str]:
    return {prefix + k: str(v) for k, v in journal.flat(tags).items()}


def training(root: Path, name: str) -> Record | None:
    """The published training ``METHOD-SEED``."""
    path = root / "out" / "journal" / f"{name}.jsonl"
    return read_record(path) if path.exists() else None


def records(root: Path, damage: list[str] | None = None) -> list[Record]:
    """Every journal of a project, one per fingerprint: the finished one, else the newest, rather the published copy than the
    work; trainings first, reports last.

    Args:
        damage: gets a line for each published journal that is not what dvc.lock records, which is passed over, and for each
            damaged line of another.
    """
    best: dict[str, Record] = {}
    published, damage = recorded.outputs(root), [] if damage is None else damage
    for path in journals(root):
        with contextlib.suppress(FileNotFoundError):  # a work directory just removed
            if path in published and recorded.digest(path) != published[path]:
                damage.append(f"{path} is not the one that dvc.lock records and was passed over; {files.MEND}")
                continue
            faults: list[str] = []
            record = read_record(path, faults)
            damage += [f"{path}: {fault}; the line was left out" for fault in faults]
            if record is None:
                continue
            other = best.get(record.run["fingerprint"])
            if other is None or (record.status == "FINISHED", record.last) >= (other.status == "FINISHED", other.last):
                best[record.run["fingerprint"]] = record
    return sorted(best.values(), key=lambda r: (ORDER.get(r.kind, 0), r.started, r.name))


def journals(root: Path) -> list[Path]:
    """Every journal of a project: those of work in progress or set aside, then the published ones."""
    work = [*root.glob(".ssl/work/*/*/journal.jsonl"), *set_aside(root)]
    return sorted(work) + sorted([*root.glob("out/journal/*.jsonl"), *root.glob("reports/journal.jsonl")])


def set_aside(root: Path) -> list[Path]:
    """Journals whose work directory was removed; a sync that sent them removes them."""
    return list(root.glob(".ssl/journals/*.jsonl"))


def first_tags(record: Record) -> dict[str, str]:
    """What a new run is found by in MLflow; what it is grouped and compared by are the parameters of ``headline``."""
    from ssl_core.catalogue import METHODS

    stage, name = record.run["stage"], record.run["name"]
    tags = {
        "ssl.fingerprint": record.run["fingerprint"],
        "stage": stage,
        "mlflow.source.name": f"dvc repro -s {stage}",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": record.tags.get("git_commit", ""),
        "mlflow.user": record.tags.get("user", ""),
        "mlflow.note.content": record.tags.get("description", "") or description(record),
    }
    if name in METHODS:
        tags["paper"] = METHODS[name].paper
    return {k: v for k, v in tags.items() if v}


def description(record: Record) -> str:
    """What a run is, for a reader who sees nothing else."""
    from ssl_core.catalogue import BASELINES, METHODS

    name, seed = record.run["name"], record.run["seed"]
    if name in METHODS:
        about = METHODS[name]
        what = f"**{about.title}** ({about.family}, {about.year}, {about.paper}), trained without labels"
    else:
        what = f"Baseline: {BASELINES[name]}" if name in BASELINES else f"`{record.run['stage']}`"
    where = f" on {record.run['data']['name']}" if record.run["data"] else ""
    return f"{what}{where}{'' if seed is None else f', seed {seed}'}. Made by `dvc repro -s {record.run['stage']}`."


def own_tags(evaluation: Record, known: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    """The tags of an evaluation that say more than what its run says already, and the names of those that repeat that.

    ``tiles.protocol.precision`` repeats ``precision``, and ``tiles.protocol.data_sha256`` what ``evaluation.tiles.data_sha256``
    of the same evaluation says.
    """
    repeated, said = set(), set()
    for name, value in sorted(evaluation.tags.items()):
        words = name.split(".")
        if any(known.get(".".join(words[i:])) == value for i in range(1, len(words))) or (words[-1], value) in said:
            repeated.add(name)
        said.add((words[-1], value))
    return {k: v for k, v in evaluation.tags.items() if k not in repeated}, repeated


def headline(record: Record) -> dict[str, str]:
    """Parameters that MLflow's comparison page shows first: it takes the three that differ and come first in ASCII.

    The run of a report has those of its champion, whose scores it carries.
    """
    from ssl_core.catalogue import METHODS

    name = record.tags.get("champion", "").rpartition("-")[0] if record.kind == "report" else record.run["name"]
    year, family = METHODS[name][:2] if name in METHODS else ("", "baseline")
    seed = "" if record.run["seed"] is None else str(record.run["seed"])
    return {k: str(v) for k, v in {"Family": family, "Method": name, "Year": year, "seed": seed}.items() if v and name}


def _held(lock: Path) -> bool:
    """Whether a living process holds the lock of a work directory."""
    try:
        with lock.open("rb") as file:
            return not try_lock(file, shared=True)
    except FileNotFoundError:
        return False


def clean(name: str) -> str:
    """A name MLflow accepts; a changed one carries a hash, so that two names never become one."""
    fine = re.sub(r"[^\w\-. :/]", "_", name)[:LONGEST_NAME]
    if fine.startswith(("/", "..")) or fine in ("", ".") or posixpath.normpath(fine) != fine:
        fine = "_" + fine.replace("/", "_")
    return fine if fine == name else f"{fine[: LONGEST_NAME - 10]}_{_hash(name)}"


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def text(value: Any, longest: int) -> str:
    """``value`` as redacted text of bounded length; a cut one ends with the hash of the whole."""
    whole = redact(str(value)).encode("utf-8", "backslashreplace").decode()
    return whole if len(whole) <= longest else f"{whole[:longest]}... (cut, sha256 {_hash(whole)})"
