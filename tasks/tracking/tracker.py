"""MLflow as a mirror of the journals: what they say is there exactly once, however often and from wherever it is sent.

One run per fingerprint, found by its tag; one row per metric and step, with the journal's own time; an evaluation adds to
the run of the training it belongs to; a report is the parent of the runs it compares. A journal without an end whose work
directory nobody holds is a killed run. MLflow is imported when a ``Tracker`` is made, so that stages do not pay for it.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.runtime import settings
from tasks.runtime.errors import KEPT, EnvironmentFault, TrackerDown, UsageError, is_full, no_space, root_cause
from tasks.runtime.redaction import redact
from tasks.tracking import artifacts, journal, logged_models, own_store, patience, view
from tasks.tracking.logged_models import METRICS_PER_BATCH
from tasks.tracking.records import (
    LONGEST_PARAM,
    LONGEST_TAG,
    SHOWN_BY_MLFLOW,
    Record,
    clean,
    first_tags,
    headline,
    own_tags,
    read_record,
    records,
    text,
    training,
)

PARAMS_PER_BATCH = 100  # MLflow's own limit
STANDING = "standing"
"""Tag of a training that is worse than its start; a report's is followed by the name of the training."""


class Tracker:
    """A connection to the tracking store. Every method raises ``TrackerDown`` when the store cannot be used."""

    def __init__(self, root: Path, reading: bool = False):
        """Connect; ``reading`` makes nothing, neither a store nor an experiment nor a file in ``root``."""
        settings.apply()
        self.root = root
        self.uri = os.environ["MLFLOW_TRACKING_URI"]
        self.problems: list[str] = []  # what MLflow refuses
        self.damage: list[str] = []  # what is wrong with journals, as of the last ``sync`` of all
        self._sent: dict[str, set[tuple[str, int]]] = {}  # run id -> (metric, step) that are there
        self._done: dict[str, str] = {}  # fingerprint -> digest of the journal that is there
        self.published: dict[str, str] = {}  # name -> run id of what ``sync`` found in out and reports
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise EnvironmentFault(f"MLflow is not installed here; run this where it is{KEPT}") from None
        self._refusal = MlflowException
        for name in ("alembic", "mlflow", "urllib3"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with self.errors() if reading else self._guard():
            self._check_file(reading)
            self.client = patience.Patient(MlflowClient())
            self.experiment = "" if reading else self._open()

    def sync(self, only: Path | None = None) -> int:
        """Send what is not there yet, of all journals or of ``only`` one; returns the number of journals that are complete.

        What MLflow refuses for good is listed in ``problems``, what is damaged in ``damage``.
        """
        complete = 0
        with self._guard():
            self.damage.clear()
            read = records(self.root, self.damage) if only is None else list(filter(None, [read_record(only)]))
            for record in read:
                try:
                    complete += self._send_evaluation(record) if record.adds else self._send_run(record)
                except self._refusal as error:
                    if error.get_http_status_code() not in (400, 404, 409):
                        raise
                    self.problems.append(redact(f"{record.path}: {str(error).splitlines()[0]}"))
            reports = [r for r in read if r.kind == "report" and r.status == "FINISHED"]
            if reports:
                self._adopt(max(reports, key=lambda r: r.last))
        return complete

    def run_id(self, fingerprint: str) -> str | None:
        """The run of a fingerprint, if it is there."""
        with self._guard():
            run = self._find(fingerprint)
        return run.info.run_id if run and run.info.lifecycle_stage == "active" else None

    def restore(self, fingerprint: str) -> bool:
        """Take back that a run was deleted: its encoder is to be registered, and a version needs its run."""
        with self._guard():
            run = self._find(fingerprint)
            if run is None or run.info.lifecycle_stage == "active":
                return False
            self.client.restore_run(run.info.run_id)
            return True

    def system_metrics(self, path: Path) -> Any:
        """Start a thread that writes this machine's CPU, memory, disk and GPU use to the run of a journal."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        record = read_record(path)
        run_id = self.run_id(record.run["fingerprint"]) if record else None
        if run_id is None:
            return None
        monitor = SystemMetricsMonitor(run_id, resume_logging=True)
        monitor.start()
        return monitor

    # -------------------------------------------------------------- opening

    def _check_file(self, reading: bool) -> None:
        """Fail at once where MLflow would try for two minutes; a store that was moved learns where it is."""
        file = own_store.file_of(self.uri)
        if file is None:
            return own_store.reach(self.uri)
        if reading and not file.exists():
            raise UsageError(f"there is no store {file}; run make run, or name another one")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("ab").close()
        except OSError as error:
            raise TrackerDown(f"MLflow's store {file} cannot be written: {error.strerror}") from error
        own_store.follow(file)

    def _open(self) -> str:
        """Id of the experiment."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", settings.EXPERIMENT)
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            remote = self.uri.startswith(("http://", "https://", "databricks"))
            place = None if remote else (settings.project_root() / "mlruns" / "artifacts").as_uri()
            try:
                return str(self.client.create_experiment(name, artifact_location=place, tags={view.TAG: view.state()}))
            except self._refusal:  # somebody else was faster
                experiment = self.client.get_experiment_by_name(name)
        if experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        if experiment.tags.get(view.TAG) != view.state():
            with contextlib.suppress(self._refusal):  # whoever may send runs need not be allowed to change experiments
                self.client.set_experiment_tag(experiment.experiment_id, view.TAG, view.state())
        return str(experiment.experiment_id)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the failures of a store into ``TrackerDown`` with one line, of MLflow's words and not urllib3's."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (self._refusal, SQLAlchemyError) as error:
            if is_full(error):
                raise TrackerDown(no_space(redact(self.uri))) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(" failed with exception")[0][:300]
            reason += root_cause(error)
            raise TrackerDown(redact(f"MLflow at {self.uri} cannot be used now{KEPT}: {reason}")) from error

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """``errors``, one process at a time."""
        with self.errors(), own_store.alone(self.uri):
            yield

    # -------------------------------------------------------------- sending

    def _send_run(self, record: Record) -> bool:
        fingerprint = record.run["fingerprint"]
        if self._done.get(fingerprint) == record.digest:
            return True
        run = self._find(fingerprint) or self._create(record)
        if run.info.lifecycle_stage == "deleted":  # by its user, who does not want it back
            return True
        if self.root / ".ssl" not in record.path.parents:
            self.published[record.name] = run.info.run_id
        ended = record.status != "RUNNING"
        if run.data.tags.get("ssl.journal") != record.digest:
            self._send_rows(run, record)
            arrived = self._send_facts(run, record)
            self._close(run, record)
            if not arrived:
                return False
            if ended:
                self.client.set_tag(run.info.run_id, "ssl.journal", record.digest)
        if ended:
            self._done[fingerprint] = record.digest
        return ended

    def _find(self, fingerprint: str) -> Any:
        """The run of a fingerprint; a second one, left by a request that was answered too late, is deleted."""
        from mlflow.entities import ViewType

        runs = self.client.search_runs([self.experiment], f"tags.`ssl.fingerprint` = '{fingerprint}'", ViewType.ALL)
        active = sorted((r for r in runs if r.info.lifecycle_stage == "active"), key=lambda r: r.info.run_id)
        for extra in active[1:]:
            self.client.delete_run(extra.info.run_id)
        return (active or list(runs) or [None])[0]

    def _create(self, record: Record) -> Any:
        # Sent once: a repeated request whose first answer was lost would make a second run.
        with _environment("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"):
            run = self.client.create_run(self.experiment, record.started, first_tags(record), record.name)
        self._sent[run.info.run_id] = set()
        return run

    def _send_rows(self, run: Any, record: Record) -> None:
        from mlflow.entities import Metric

        run_id = run.info.run_id
        if run_id not in self._sent:
            history = {k: self.client.get_metric_history(run_id, k) for k in run.data.metrics}
            self._sent[run_id] = {(k, m.step) for k, rows in history.items() for m in rows}
        sent = self._sent[run_id]
        new = [Metric(name, value, time, step) for time, step, name, value in record.rows if (name, step) not in sent]
        new.sort(key=lambda metric: metric.key != view.CHOOSES)  # a comparison draws the first one that all runs have
        for batch in _batches(new, METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=batch)
            sent |= {(m.key, m.step) for m in batch}

    def _send_facts(self, run: Any, record: Record) -> bool:
        """All but the rows; whether the files arrived, too."""
        from mlflow.entities import Param

        run_id = run.info.run_id
        params = headline(record) | {clean(k): v for k, v in journal.flat(record.run["params"]).items()}
        new = [Param(k, text(v, LONGEST_PARAM)) for k, v in params.items() if k not in run.data.params]
        for batch in _batches(new, PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=batch)
        end = record.end or {}
        facts = {"encoder_sha256": end.get("encoder_sha256"), "reason": end.get("reason")}
        shown = {k: v for k, v in record.tags.items() if k not in SHOWN_BY_MLFLOW}
        self._set_tags(run, shown | {f"ssl.{k}": v for k, v in facts.items() if v})
        logged_models.send_data(self.client, run_id, record.run["data"], "training")
        return self._send_artifacts(run, record)

    def _set_tags(self, run: Any, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        cleaned = {clean(k): text(v, LONGEST_TAG) for k, v in tags.items()}
        new = [RunTag(k, v) for k, v in cleaned.items() if run.data.tags.get(k) != v]
        for batch in _batches(new, PARAMS_PER_BATCH):
            self.client.log_batch(run.info.run_id, tags=batch)

    def _send_artifacts(self, run: Any, record: Record) -> bool:
        """Whether the store took the files; if not, the numbers stay, and the next ``sync`` tries again."""
        tags, unsent = artifacts.send(self.client, run, record, self.root)
        self._set_tags(run, tags)
        if unsent:
            self.problems.append(f"the files of {record.name} {unsent}; a later sync sends them")
        return unsent is None

    def _close(self, run: Any, record: Record) -> None:
        if record.status == "RUNNING":
            if run.info.status != "RUNNING":  # killed before, and now going on
                self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            self.client.set_terminated(run.info.run_id, record.status, record.last)
            if record.end is None:
                self._set_tags(run, {"ssl.reason": "the process ended without a word (killed, or the machine stopped)"})

    def _adopt(self, report: Record) -> None:
        """Put the runs a report compares under it."""
        parent = self._find(report.run["fingerprint"])
        for name in report.run["children"]:
            record = training(self.root, name)
            child = self._find(record.run["fingerprint"]) if record else None
            if child and child.info.lifecycle_stage == "active":
                standing = report.tags.get(f"{STANDING}.{name}")
                self._set_tags(child, {"mlflow.parentRunId": parent.info.run_id} | ({STANDING: standing} if standing else {}))
                if STANDING in child.data.tags and not standing:  # of an earlier report
                    self.client.delete_tag(child.info.run_id, STANDING)

    def _send_evaluation(self, record: Record) -> bool:
        """Numbers of a published evaluation, in the row of the training it evaluated."""
        fingerprint, end = record.run["fingerprint"], record.end
        if record.path.parent != self.root / "out" / "journal" or end is None or self._done.get(fingerprint) == record.digest:
            return record.status != "RUNNING"
        trained = training(self.root, record.name)
        if trained is None or trained.end is None or trained.end["encoder_sha256"] != end["encoder_sha256"]:
            return False
        run = self._find(trained.run["fingerprint"])
        if run is None or run.info.lifecycle_stage == "deleted":
            return run is not None
        last, _, stamp = run.data.tags.get(record.evaluated, "").partition(" ")
        if last != fingerprint:
            # MLflow shows the row with the latest time, so an older result that is valid again must look younger.
            when = max(record.last, int(stamp or 0) + 1)
            data = record.run["data"]  # of a task; the pool's are those of the training
            logged_models.send_data(self.client, run.info.run_id, data, "evaluation")
            rows = [(when, *row[1:]) for row in record.rows]
            logged_models.send(self.client, self.experiment, run, trained, rows, data or trained.run["data"])
            tags, repeated = own_tags(record, trained.tags | run.data.tags)
            self._set_tags(run, tags)
            for name in repeated & run.data.tags.keys():  # of an evaluation elsewhere
                self.client.delete_tag(run.info.run_id, name)
            if not self._send_artifacts(run, record):
                return False
            self.client.set_tag(run.info.run_id, record.evaluated, f"{fingerprint} {when}")
        self._done[fingerprint] = record.digest
        return True


def _batches(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    old = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if old is None:
            del os.environ[name]
        else:
            os.environ[name] = old
