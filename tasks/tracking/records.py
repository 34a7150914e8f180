"""Journals read for the mirror: what each run amounts to, in names and texts that MLflow accepts."""

import contextlib
import hashlib
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.runtime.locks import try_lock
from tasks.runtime.settings import redact
from tasks.tracking import journal

PREFIX = {"pretrain": "train", "evaluate": "eval"}  # of metrics whose name has no group
LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG = 240, 5900, 7900


@dataclass(frozen=True)
class Record:
    """One journal, read."""

    path: Path
    digest: str
    run: dict[str, Any]
    started: int
    last: int
    rows: list[tuple[int, int, str, float]]
    """(time, step, name, value), the first of each name and step; finite values only."""
    tags: dict[str, str]
    artifacts: list[tuple[Path, str]]
    end: dict[str, Any] | None
    status: str

    @property
    def kind(self) -> str:
        """``pretrain``, ``evaluate``, ``report``, ..."""
        return str(self.run["stage"]).split("@")[0]

    @property
    def name(self) -> str:
        """``METHOD-SEED``, or the stage's name where there is no seed."""
        return self.run["name"] if self.run["seed"] is None else f"{self.run['name']}-{self.run['seed']}"

    def files(self, root: Path) -> tuple[list[tuple[Path, str]], list[Path]]:
        """The artifacts that are there, each with its folder, and the names of those that are not."""
        found, missing = [], []
        for path, folder in self.artifacts:
            # A stage that has just ended has not published yet.
            place = next((p for p in (self.path.parent / "outs" / path, root / path) if p.is_file()), None)
            if place:
                found.append((place, folder))
            else:
                missing.append(path)
        return found, missing


def read_record(path: Path) -> Record | None:
    """A journal's content; None if it does not even have a beginning."""
    data = path.read_bytes()
    events = list(journal.read(path))
    if not events or events[0]["event"] != "start":
        return None
    run = events[0]["run"]
    kind = run["stage"].split("@")[0]
    rows: dict[tuple[str, int], tuple[int, int, str, float]] = {}
    # Where an evaluation was made is not where its training was; both end up on one run.
    tags = _texts(run["tags"])
    if kind == "evaluate":
        tags = _texts(run["tags"], "evaluation.") | _texts(run["params"], "protocol.")
    artifacts = []
    for event in events:
        if event["event"] == "metrics":
            for key, value in event["metrics"].items():
                name, step = clean(key if "/" in key else f"{PREFIX.get(kind, kind)}/{key}"), event["step"]
                if isinstance(value, str):
                    tags.setdefault(f"nonfinite.{name}", f"{value} at step {step}")
                else:
                    rows.setdefault((name, step), (event["time"], step, name, value))
        elif event["event"] == "tags":
            tags |= _texts(event["tags"])
        elif event["event"] == "artifact":
            artifacts.append((Path(event["path"]), event["folder"]))
    end = events[-1] if events[-1]["event"] == "end" else None
    if end and end["status"] == "FINISHED":  # the cost of an attempt that failed is not the cost of the result
        costs = {clean(f"resources/{k}"): float(v) for k, v in end["cost"].items() if isinstance(v, (int, float))}
        rows |= {(name, 0): (end["time"], 0, name, value) for name, value in costs.items()}
    status = end["status"] if end else "RUNNING" if _held(path.parent / ".lock") else "KILLED"
    digest = hashlib.sha256(data + status.encode()).hexdigest()
    return Record(path, digest, run, events[0]["time"], events[-1]["time"], list(rows.values()), tags, artifacts, end, status)


def _texts(tags: dict[str, Any], prefix: str = "") -> dict[str, str]:
    return {prefix + k: str(v) for k, v in journal.flat(tags).items()}


def training(root: Path, name: str) -> Record | None:
    """The published training ``METHOD-SEED``."""
    path = root / "out" / "journal" / f"{name}.jsonl"
    return read_record(path) if path.exists() else None


def records(root: Path) -> list[Record]:
    """Every journal of a project, one per fingerprint: the finished one, else the newest, rather the published copy than the
    work; trainings first, reports last."""
    work = (*root.glob(".ssl/work/*/*/journal.jsonl"), *set_aside(root))
    paths = {*root.glob("out/journal/*.jsonl"), *root.glob("reports/journal.jsonl"), *work}
    best: dict[str, Record] = {}
    for path in sorted(paths):  # .ssl comes before out and reports
        with contextlib.suppress(FileNotFoundError):  # a work directory just removed
            record = read_record(path)
            if record is None:
                continue
            other = best.get(record.run["fingerprint"])
            if other is None or (record.status == "FINISHED", record.last) >= (other.status == "FINISHED", other.last):
                best[record.run["fingerprint"]] = record
    order = {"evaluate": 1, "report": 2}
    return sorted(best.values(), key=lambda r: (order.get(r.kind, 0), r.started, r.name))


def set_aside(root: Path) -> list[Path]:
    """Journals whose work directory was removed; a sync that sent them removes them."""
    return list(root.glob(".ssl/journals/*.jsonl"))


def first_tags(record: Record) -> dict[str, str]:
    """What a new run is found, grouped and compared by in MLflow."""
    from ssl_core.catalogue import BASELINES, METHODS

    stage, name, seed = record.run["stage"], record.run["name"], record.run["seed"]
    tags = {
        "ssl.fingerprint": record.run["fingerprint"],
        "stage": stage,
        "mlflow.source.name": f"dvc repro -s {stage}",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": record.tags.get("git_commit", ""),
        "mlflow.user": record.tags.get("user", ""),
    }
    if seed is not None:
        tags |= {"method": name, "seed": str(seed)}
    if name in METHODS:
        about = METHODS[name]
        tags |= {"year": str(about.year), "family": about.family, "paper": about.paper}
    elif name in BASELINES:
        tags |= {"family": "baseline"}
    return {k: v for k, v in tags.items() if v}


def headline(record: Record) -> dict[str, str]:
    """Parameters that MLflow's comparison page shows first: it takes the three that differ and come first in ASCII.

    The run of a report has those of its champion, whose scores it carries.
    """
    from ssl_core.catalogue import METHODS

    name = record.tags.get("champion", "").rpartition("-")[0] if record.kind == "report" else record.run["name"]
    year, family = METHODS[name][:2] if name in METHODS else ("", "baseline")
    return {k: str(v) for k, v in {"Family": family, "Method": name, "Year": year}.items() if v and name}


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
