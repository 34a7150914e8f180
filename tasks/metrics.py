"""The metrics of one encoder, as ``evaluate`` writes them and every table reads them."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from ssl_core.config import ConfigError, Rule, typed
from ssl_core.evaluation.scores import SCORES
from tasks.runtime.errors import IntegrityError
from tasks.runtime.files import read_json

Verdict = Literal["healthy", "dimensional collapse", "collapsed"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
"""Best first."""
Number = Annotated[float, Rule("a finite number", math.isfinite)]


@dataclass(frozen=True)
class Health:
    """The label-free indicators of an encoder, on training images; see ``ssl_core/engine/health.py``."""

    feature_std: Number
    effective_rank: Number
    alignment: Number
    uniformity: Number

    @classmethod
    def of(cls, measured: Mapping[str, float]) -> Self:
        """The indicators among everything that was measured in an epoch."""
        return cls(**{field.name: measured[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class FewLabels:
    """A linear probe that sees only a share of the training labels, over several random choices of them."""

    share: float
    """As it was asked for."""
    mean: float
    """Test accuracy."""
    std: float
    seen: float | None
    """Share that it was: each class needs an image. None where the numbers of labels are not known."""


@dataclass(frozen=True)
class About:
    """Which encoder was evaluated, and what is known of it without any label."""

    method: str
    seed: int
    encoder: str
    """Name of the architecture."""
    encoder_sha256: str
    """Of the weights."""
    layer: str
    """The linear probe's: its features are kept, its output is handed out."""
    verdict: Verdict
    health: Health
    random_health: Health
    """Of the same encoder before its training."""


@dataclass(frozen=True)
class Metrics(About):
    """What the evaluation of one encoder found: the content of ``out/metrics/METHOD-SEED.json``."""

    protocol: Mapping[str, Any]
    """The choices that were made, and what has to be alike for numbers to be comparable."""
    found: Mapping[str, Any]
    """Scores by the names in ``ssl_core/evaluation/scores.py``, an ``NAME_interval`` for some, ``few_label``, and details such
    as the accuracy of each class. What could not be measured is absent."""

    def score(self, name: str) -> Any:
        """The number or text of a declared score; None where it could not be measured.

        Health is that of the delivered layer where it was measured there, not that of the last one, which the verdict judges.
        """
        return {**vars(self.health), **vars(self), **self.found, **self.protocol}.get(name)

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % interval of ``linear`` or ``knn``."""
        low, high = self.found.get(f"{name}_interval") or (None, None)
        return None if low is None or high is None else (low, high)

    def few_labels(self) -> list[FewLabels]:
        """Fewest labels first; empty where no such probe was made."""
        few = [
            FewLabels(float(share), about["mean"], about["std"], self.seen(share))
            for share, about in self.found.get("few_label", {}).items()
        ]
        return sorted(few, key=lambda probe: probe.share)

    def labels_of(self, share: str) -> int | None:
        """How many training labels the probes on a share of them (``0.01``) saw; None where that is not known."""
        numbers = self.found.get("few_label", {}).get(share, {})
        return numbers.get("labels", self.protocol.get("few_labels", {}).get(share))  # type: ignore[no-any-return]

    def seen(self, share: str) -> float | None:
        """Which part of the training labels that was: each class needs an image."""
        labels, every = self.labels_of(share), self.protocol.get("train_labels")
        return labels / every if labels and every else None

    def to_json(self) -> dict[str, Any]:
        """The facts and the scores side by side."""
        values = asdict(self)
        return {**values.pop("found"), **values}


OTHERS = "other_seeds"
"""Where the file of an untrained encoder holds those of other seeds, which are scored beside it and not kept."""


def class_in_predictions(name: str) -> str:
    """What ``out/predictions`` calls a class: DVC's page of plots shows these names as they are, so no markup."""
    return name.replace("<", "‹").replace(">", "›")


def prediction_columns(seed: int | None) -> tuple[str, str]:
    """Columns of linear probe and kNN in ``out/predictions/METHOD-SEED.csv``; with a seed, those of one of ``OTHERS``."""
    return ("predicted", "knn") if seed is None else (f"predicted-{seed}", f"knn-{seed}")


def to_json(metrics: Metrics, others: Sequence[Metrics] = ()) -> dict[str, Any]:
    """What the file holds."""
    return metrics.to_json() | ({OTHERS: [other.to_json() for other in others]} if others else {})


def load(path: Path) -> list[Metrics]:
    """Read a metrics file: the encoder's, then those of further seeds of an untrained one.

    Raises:
        IntegrityError: the file is absent, is damaged or lacks something. The message names the file and says what is wrong.
    """
    values = read_json(path)
    try:
        others = values.pop(OTHERS, []) if isinstance(values, dict) else []
        if not isinstance(others, list):
            raise ConfigError(f"metrics.{OTHERS} is no list")
        return [_parsed(each) for each in (values, *others)]
    except ConfigError as error:
        raise IntegrityError(f"{path}: {error}; run dvc repro evaluate, which makes it again") from None


def _parsed(values: Any) -> Metrics:
    """The metrics in a mapping.

    Raises:
        ConfigError: something is missing or of another type.
    """
    names = [field.name for field in fields(About)]
    if not isinstance(values, dict):
        raise ConfigError("it holds no mapping")
    about = typed(About, {name: values[name] for name in names if name in values}, "metrics")
    protocol = values.get("protocol")
    if not isinstance(protocol, dict):
        raise ConfigError("metrics.protocol is missing")
    found = {key: value for key, value in values.items() if key not in (*names, "protocol")}
    _check({**protocol, **found})
    return Metrics(**vars(about), protocol=protocol, found=found)


def _check(values: Mapping[str, Any]) -> None:
    """Whatever a table shows is of the type that it is shown as.

    Raises:
        ConfigError: something is not.
    """
    for score in SCORES:
        fits = {"text": _is_text, "share": _is_share}.get(score.form, _is_number)
        if score.name in values and not fits(values[score.name]):
            raise ConfigError(f"metrics.{score.name} is {values[score.name]!r}; it must be a {score.form}")
        pair = values.get(f"{score.interval}_interval", [0, 0])
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))):
            raise ConfigError(f"metrics.{score.interval}_interval is {pair!r}; it must be two numbers")
    few = values.get("few_label", {})
    if not isinstance(few, dict) or not all(
        isinstance(f, dict)
        and _is_share(f.get("mean"))
        and _is_number(f.get("std"))
        and _is_number(f.get("labels", 0))
        and _is_part(share)
        for share, f in few.items()
    ):
        raise ConfigError(f"metrics.few_label is {few!r}; it must hold mean, std and labels of each share of the labels")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_part(share: str) -> bool:
    """Whether a key is a share of the labels, as ``0.01`` or ``5e-05``."""
    try:
        return 0 < float(share) <= 1
    except ValueError:
        return False


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
