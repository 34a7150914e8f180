"""What was found: one ``Result`` for each method and seed, read from metrics and journals, and what is chosen by them."""

import csv
import hashlib
import re
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_core.catalogue import BASELINES, LABELLED
from tasks import few_labels, metrics
from tasks.columns import COLUMNS
from tasks.judged import Judged
from tasks.metrics import VERDICTS, Metrics, prediction_columns
from tasks.runtime import dataset, params, recorded
from tasks.runtime.errors import IntegrityError
from tasks.runtime.files import MANIFEST, MEND, read_json, sha256
from tasks.trainings import Training, read_training

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Result:
    """One encoder: what its evaluation found and how it was made."""

    metrics: Metrics
    training: Training = field(default_factory=Training)
    right: Mapping[str, np.ndarray] = field(default_factory=dict)
    """For ``linear`` and ``knn``: (M,) bool, which of the labelled test images its predictions get right."""
    judged: Judged = field(default_factory=Judged)
    """The same of held-out images, and of probes on few labels."""
    task: str | None = None
    """The task on whose images it was scored; None: those it was trained on."""
    kept: bool = True
    """Whether it has files of its own; of untrained encoders only the one of the stage's seed has."""
    few: few_labels.Few | None = None
    """What a few labelled images say of it, where the data have no labels."""

    @property
    def method(self) -> str:
        """The method or baseline it was trained by."""
        return self.metrics.method

    @property
    def seed(self) -> int:
        """Of its training."""
        return self.metrics.seed

    @property
    def name(self) -> str:
        """The name of its files: ``simclr-0``."""
        return f"{self.method}-{self.seed}"

    @property
    def stage(self) -> str:
        """The stage that scored it, as dvc.yaml calls it."""
        return f"evaluate_task@{self.task}-{self.name}" if self.task else f"evaluate@{self.name}"

    @property
    def file(self) -> str:
        """Where its scores, predictions and features are, in the folder of each: ``simclr-0`` or ``TASK/simclr-0``."""
        return _file(self.name, self.task)

    @property
    def is_baseline(self) -> bool:
        """Whether it is a row to compare with and not a method."""
        return self.method in BASELINES

    @property
    def is_collapsed(self) -> bool:
        """Whether its features are alike for all images."""
        return self.metrics.verdict == "collapsed"

    def groups(self, split: str, images: int) -> "Tensor | None":
        """(images,) equal for judged images of a split, ``held_out`` or ``test``, that belong together; None where none do."""
        found = self.judged.groups.get(split)
        if found is None or len(found) != images:
            return None
        import torch

        return torch.from_numpy(found)

    def get(self, column: str) -> Any:
        """A number or text by the name of its column in the table, or None where it does not exist (no labels, no training)."""
        return COLUMNS[column](self)


@dataclass(frozen=True)
class Row:
    """One method over its seeds."""

    method: str
    results: tuple[Result, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether it is a row to compare with and not a method."""
        return self.method in BASELINES

    @property
    def is_free(self) -> bool:
        """Whether it is a baseline that needs neither training nor labels: what a method has to be better than."""
        return self.is_baseline and self.method not in LABELLED

    @property
    def place(self) -> float:
        """What rows are sorted by: the mean over the seeds."""
        return round(statistics.fmean(place(r) for r in self.results), 9)  # equal means of other scores are equal

    @property
    def best(self) -> Result:
        """The seed with the best held-out score: the one people take home and pictures show."""
        return max((r for r in self.results if r.kept), key=lambda r: (place(r), -r.seed))

    @property
    def verdict(self) -> str:
        """The worst verdict of its seeds."""
        return max((r.metrics.verdict for r in self.results), key=VERDICTS.index)

    def values(self, column: str) -> list[float]:
        """The column's values over the seeds, without the absent ones."""
        return [v for r in self.results if (v := r.get(column)) is not None]

    def mean(self, column: str) -> float | None:
        """Mean over the seeds."""
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def std(self, column: str) -> float | None:
        """Standard deviation over the seeds (n - 1), None for a single seed."""
        values = self.values(column)
        return statistics.stdev(values) if len(values) > 1 else None


def trained(results: Iterable[Result]) -> dict[str, str]:
    """The names of the encoders that methods trained, by the hash of their weights."""
    return {r.metrics.encoder_sha256: r.name for r in results if not r.is_baseline}


def free_rows(rows: Sequence[Row], trained: Collection[str]) -> list[Row]:
    """The rows that need neither training nor labels, without one that is an encoder trained here: others were started from the
    registry's champion, and that is of this very run."""
    return [row for row in rows if row.is_free and row.best.metrics.encoder_sha256 not in trained]


def merit(result: Result) -> float | None:
    """What encoders are chosen by: held-out linear accuracy, or how well a few labels are predicted; never the test split."""
    return result.few.explained if result.few else result.get("holdout_linear_top1")


def place(result: Result) -> float:
    """``merit``, alike for all where nothing has a label; a collapsed encoder comes after every other one."""
    return (-1e9 if result.is_collapsed else 0.0) + (merit(result) or 0.0)


def load_results(root: Path) -> tuple[list[Result], list[str]]:
    """``load_scores`` that choose: on the images that encoders are trained on or, if these have no labels, the first task's."""
    found = load_scores(root)
    tasks = params.run_config(params.load(root / params.PARAMS)).tasks
    first = load_scores(root, tasks[0]) if tasks and not known(found[0], "holdout_linear_top1") else found
    return first if first[0] else found


def up_to_date(results: Sequence[Result], out_of_date: Collection[str]) -> list[Result]:
    """Those whose stage is not among ``out_of_date``; further untrained encoders go with the row that they stand behind."""
    gone = {r.method for r in results if r.kept and r.stage in out_of_date}
    return [r for r in results if r.stage not in out_of_date and (r.kept or r.method not in gone)]


def load_scores(root: Path, task: str | None = None) -> tuple[list[Result], list[str]]:
    """Read the results of the methods (baselines included) and seeds listed in params.yaml under ``run``.

    Args:
        task: on whose images the encoders were scored; None: on those they were trained on.

    Returns:
        The results, of a task perhaps none, and the names (``simclr-0``) of those that are listed but not evaluated yet.

    Raises:
        IntegrityError: nothing is evaluated yet on the images that encoders are trained on, or a file is damaged.
    """
    run = params.run_config(params.load(root / params.PARAMS))
    names = [(method, seed) for method in run.methods for seed in run.seeds]
    recorded.check_all((path for method, seed in names for path in _files(root, f"{method}-{seed}", task)), root)
    read = [r for method, seed in names for r in _read(root, method, seed, task)]
    if not read and task is None:
        raise IntegrityError("out/metrics holds no results of the methods in params.yaml; run make run or dvc repro first")
    found = {r.name for r in read if r.kept}
    read = read if task or known(read, "holdout_linear_top1") else few_labels.beside(root, read)
    once = {r.name: r for r in sorted(read, key=lambda r: r.kept)}  # a kept one in place of the same that is not
    missing = [name for method, seed in names if (name := f"{method}-{seed}") not in found]
    return sorted(once.values(), key=lambda r: not r.kept), missing


def _file(name: str, task: str | None) -> str:
    return f"{task}/{name}" if task else name


def _files(root: Path, name: str, task: str | None) -> tuple[Path, Path, Path, Path]:
    """Metrics, journal and predictions of ``METHOD-SEED``: of test images, and the others."""
    guesses = (root / f"out/predictions/{_file(name, task)}.{kind}" for kind in ("csv", "safetensors"))
    return root / f"out/metrics/{_file(name, task)}.json", root / f"out/journal/{name}.jsonl", *guesses


def _read(root: Path, method: str, seed: int, task: str | None) -> list[Result]:
    """What the evaluation of one encoder left: nothing yet, its result, or that and those of further untrained encoders."""
    name = f"{method}-{seed}"
    path, *_, guesses = _files(root, name, task)
    if not path.exists():
        return []
    predictions, training = read_predictions(root, _file(name, task)), read_training(root, name)
    found = []
    for each in metrics.load(path):
        own = not found
        columns = zip(("linear", "knn"), prediction_columns(None if own else each.seed), strict=True)
        right = {kind: predictions["actual"] == predictions[c] for kind, c in columns if c in predictions}
        found.append(Result(each, training, right, Judged.read(guesses, None if own else each.seed), task, kept=own))
    if found[0].name != name:
        raise IntegrityError(f"{path} holds the metrics of {found[0].name}; run dvc repro evaluate@{name}")
    return found


def read_predictions(root: Path, name: str) -> dict[str, np.ndarray]:
    """Columns of the predictions of ``[TASK/]METHOD-SEED``, each (M,) names of classes; empty where there are none."""
    path = root / f"out/predictions/{name}.csv"
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise IntegrityError(f"{path}: {error}; {MEND}") from None
    if any(len(line) != len(header) for line in lines) or (lines and "actual" not in header):
        raise IntegrityError(f"{path}: a line is incomplete; run dvc repro evaluate, which makes it again")
    return {column: np.array([line[i] for line in lines]) for i, column in enumerate(header)} if lines else {}


def ranked(results: Sequence[Result]) -> list[Row]:
    """Rows by method, best mean held-out score first; baselines stand among the methods they are to be compared with.

    Of rows with the same score a baseline comes first, then the one with the better held-out kNN, then the first by name.
    """
    seeds = sorted(results, key=lambda r: r.seed)
    rows = [Row(name, tuple(r for r in seeds if r.method == name)) for name in dict.fromkeys(r.method for r in results)]
    return sorted(rows, key=precedence if any(merit(r) is not None for r in results) else lambda row: -row.place)


def precedence(row: Row) -> tuple[Any, ...]:
    """What rows that have labels are sorted by, and chosen by."""
    return -row.place, not row.is_baseline, -(row.mean("holdout_knn_top1") or 0.0), row.method


def known(results: Sequence[Result], column: str) -> bool:
    """Whether any result has a value of the column."""
    return any(r.get(column) is not None for r in results)


def registered_model(root: Path) -> str:
    """The registered model of the prepared data. A given name (``data.name``, the embedded data's) stays when images come; a
    folder's own may be that of another folder too, so the hash of the data goes with it."""
    data, prepared = params.load(root / params.PARAMS)["data"], root / dataset.PREPARED
    given = data["name"] or data["source"] == "sample"
    return model_name(read_json(prepared / "meta.json")["name"], "" if given else sha256(prepared / MANIFEST))


def model_name(data: str, data_sha256: str = "") -> str:
    """``ssl-NAME-HASH`` of the data, or ``ssl-NAME``; a name that cannot be kept as it is (``c++``) gets its own hash."""
    kept = re.sub(r"[^\w.-]+", "-", data).strip("-")[:100]
    own = hashlib.sha256(data.encode(errors="surrogatepass")).hexdigest()[:6] if kept != data else ""
    return "-".join(part for part in ("ssl", kept, data_sha256[:8] or own) if part)
