"""Few images: what is larger in params.yaml than they allow (a batch, a queue, clusters) is lowered for the training."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ssl_core.catalogue import LABELLED, load_class
from tasks.runtime.dataset import Dataset
from tasks.runtime.params import MethodParams


def fit_to(chosen: MethodParams, data: Dataset) -> MethodParams:
    """``fit`` to the training images of ``data`` that the method learns from."""
    rows = data.learned_from(chosen.name in LABELLED)
    return fit(chosen, len(data.train_images) if rows is None else len(rows))


def fit(chosen: MethodParams, num_images: int) -> MethodParams:
    """``chosen`` with the largest values not above those of params.yaml that ``num_images`` training images allow."""
    method, train = load_class(chosen.name), chosen.train
    largest = method.largest_batch(chosen.config, num_images) // train.processes * train.processes
    if train.batch_size > largest:
        train = replace(train, batch_size=max(largest, train.processes))
    return replace(chosen, train=train, config=method.fitted(chosen.config, train.batch_size, num_images))


def lowered(asked: MethodParams, used: MethodParams) -> Mapping[str, tuple[Any, Any]]:
    """(Asked for, used) by the key in the method's block, of what ``fit`` changed."""
    pairs = [("train.", asked.train, used.train), ("", asked.config, used.config)]
    return {
        prefix + field.name: (before, after)
        for prefix, old, new in pairs
        for field in fields(old)
        if (before := getattr(old, field.name)) != (after := getattr(new, field.name))
    }


def in_words(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """``train.batch_size 48 instead of 128, queue 48 instead of 1024``."""
    return ", ".join(f"{key} {_shown(after)} instead of {_shown(before)}" for key, (before, after) in changes.items())


def _shown(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, tuple) else str(value)
