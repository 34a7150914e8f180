"""How an encoder was made, what that cost, and whether a longer training would help."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.runtime.errors import IntegrityError
from tasks.runtime.files import MEND, read_sealed_json
from tasks.runtime.words import counted, duration, signed
from tasks.tracking import journal

ENOUGH_STEPS = 1500
"""Optimizer steps below which a training is called short: with about as many, the best methods pass raw pixels on the
embedded images."""
MANY_EPOCHS = 200
"""Passes over so few images after which more of them are a better advice than more passes."""

FULL_SCHEDULE = 200
"""Epochs of the schedule the literature compares small-image methods on; what a long run would cost is quoted for it."""


@dataclass(frozen=True)
class Training:
    """How an encoder was made and what that cost. None: not known here, or there was no training."""

    epochs: int | None = None
    steps: int | None = None
    steps_per_epoch: int | None = None
    epochs_asked: int | None = None
    """``train.epochs``, of which a method may have its share."""
    dim: int | None = None
    """Of its features."""
    parameters: int | None = None
    watched: int | None = None
    """Images that kNN was watched on."""
    knn_rise: float | None = None
    """By how much kNN on the watched images rose over the last doubling of the epochs."""
    pretext_accuracy: float | None = None
    """Share right in the method's own task in the last epoch."""
    pretext_chance: float | None = None
    """The share that guessing gets right there."""
    warnings: tuple[str, ...] = ()
    """The alarms that were still raised in the last epoch, a sentence each."""
    seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """``train``, as in params.yaml, with what the method has of its own."""
    augment: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    """``encoder``, likewise."""

    @property
    def chance(self) -> float:
        """A rise of kNN that may be chance: 1.96 sqrt(0.2 / images), where two states disagree on every fifth watched image."""
        images = self.watched or self.recipe.get("health_images")
        return 1.96 * float(0.2 / images) ** 0.5 if images else 0.03

    @property
    def full_schedule_seconds(self) -> float | None:
        """What ``FULL_SCHEDULE`` epochs would take."""
        if not self.seconds or not self.steps or not self.steps_per_epoch:
            return None
        return self.seconds / self.steps * self.steps_per_epoch * FULL_SCHEDULE


def read_training(root: Path, name: str) -> Training:
    """How the encoder ``METHOD-SEED`` was made, as far as its files are here."""
    directory = root / f"out/encoders/{name}"
    facts = _encoder_facts(directory) if directory.exists() else {}
    cost = read_cost(root, name)
    return Training(
        epochs=facts.get("epochs"),
        steps=(facts.get("health") or {}).get("step"),
        steps_per_epoch=facts.get("steps_per_epoch"),
        epochs_asked=(facts.get("train") or {}).get("epochs"),
        dim=facts.get("dim"),
        parameters=cost.get("parameters", facts.get("parameters")),
        watched=facts.get("watched"),
        knn_rise=facts.get("knn_rise"),
        pretext_accuracy=(facts.get("health") or {}).get("accuracy"),
        pretext_chance=(facts.get("health") or {}).get("chance"),
        warnings=tuple(facts.get("warnings", ())),
        seconds=cost.get("seconds"),
        images_per_second=cost.get("images_per_second"),
        peak_memory_bytes=cost.get("peak_memory_bytes"),
        recipe=facts.get("train") or {},
        augment=facts.get("augment") or {},
        network=(facts.get("encoder") or {}).get("config") or {},
    )


def _encoder_facts(directory: Path) -> dict[str, Any]:
    """Those facts of a trained encoder that tables show.

    Raises:
        IntegrityError: ``encoder.json`` is damaged.
    """
    numbers, blocks = ("epochs", "steps_per_epoch", "dim", "parameters", "watched"), ("health", "train", "augment", "encoder")
    kinds = dict.fromkeys(numbers, int) | dict.fromkeys(blocks, dict) | {"warnings": list, "knn_rise": float}
    facts = read_sealed_json(directory, "encoder.json")
    if not isinstance(facts, dict):
        raise IntegrityError(f"{directory}/encoder.json holds no mapping; {MEND}")
    for name, kind in kinds.items():
        if not isinstance(facts.get(name), (kind, type(None))):
            raise IntegrityError(f"{directory}/encoder.json: {name} is {facts[name]!r}; {MEND}")
    return {name: facts[name] for name in kinds if facts.get(name) is not None}


def read_cost(root: Path, name: str) -> dict[str, Any]:
    """What a training cost, from the last ``end`` of its journal; empty where there is none (a cached result of elsewhere)."""
    path = root / f"out/journal/{name}.jsonl"
    ends = [event for event in journal.read(path) if event["event"] == "end"] if path.exists() else []
    return dict(ends[-1].get("cost") or {}) if ends else {}


def _rounded_up(value: float) -> float:
    """To two digits, so that it is enough."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(round(value / digit, 6)) * digit


def advice(method: str, made: Training) -> str:
    """What to do about an encoder that is not worth its training."""
    number, asked = ("epochs", made.epochs_asked) if made.epochs_asked else ("images", made.recipe.get("images"))
    if not made.steps or not made.epochs or not asked:
        return f"Train longer: raise train.{number}."
    wanted = _rounded_up(asked * max(2.0, ENOUGH_STEPS / made.steps))
    epochs, steps = counted(made.epochs, "epoch", "epochs"), counted(made.steps, "step", "steps")
    trained = f"{method} trained {epochs}, {steps}"
    rises = made.knn_rise is not None and made.knn_rise > made.chance
    if made.steps >= ENOUGH_STEPS and made.epochs >= MANY_EPOCHS and not rises:
        return f"{trained}: more of the same will hardly help with so few images; add images, which need no labels."
    longer = f"set train.{number} to about {wanted:,.0f}"
    if made.seconds:
        longer += f", about {duration(made.seconds * wanted / asked)} at the pace it had"
    if made.knn_rise is None:
        return f"{trained}: {longer}, if its curve in the report still rises."
    if rises:
        return f"{trained}, and its kNN still rises ({signed(made.knn_rise)} points over the last doubling): {longer}."
    if made.steps < ENOUGH_STEPS:
        return f"{trained}, which is short: {longer}."
    return (
        f"{trained}, and its kNN no longer rises ({signed(made.knn_rise)} points over the last doubling): more of the same will"
        " hardly help; add images, which need no labels, or try other methods."
    )


def still_rising(methods: Mapping[str, Sequence[Training]]) -> str:
    """Which methods' kNN still rose over the last doubling of their epochs, by more than chance; empty if none was watched."""
    rising, flat, chance = [], [], 0.0
    for method, seeds in methods.items():
        rises = [made.knn_rise for made in seeds if made.knn_rise is not None]
        if rises:
            rise, chance = sum(rises) / len(rises), max(chance, seeds[0].chance)
            (rising if rise > seeds[0].chance else flat).append(f"{method} {signed(rise)}")
    parts = [f"still rising: {', '.join(rising)}"] * bool(rising) + [f"flat: {', '.join(flat)}"] * bool(flat)
    less = f"Points over the last doubling of epochs (less than {100 * chance:.1f} may be chance)"
    return f"{less}; {'; '.join(parts)}." if parts else ""
