"""The guard of trainings that start from weights: what they start from must be a row of the table, frozen.

Everything is read off params.yaml as it stands: a command that only plans has no time to load the methods.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ssl_core.catalogue import BASELINES, LABELLED, METHODS
from ssl_core.networks import network
from tasks.runtime.errors import UsageError

ROW = "start"
"""The row that is added where no other one is the start."""
UNTRAINED = ("raw_pixels", "random_init")
"""The rows of what nobody trained; any other frozen row is an encoder of others, and has weights."""


def section(values: Mapping[str, Any], method: str, name: str) -> dict[str, Any]:
    """``encoder`` or ``train`` with what a method has of its own."""
    return {**_mapping(values.get(name)), **own(values, method, name)}


def own(values: Mapping[str, Any], method: str, name: str) -> dict[str, Any]:
    """What a method has of its own of ``encoder`` or ``train``."""
    return _mapping(_mapping(_mapping(values.get("method")).get(method)).get(name))


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def lacking(values: Mapping[str, Any]) -> list[str]:
    """The methods of ``run.methods`` that start from weights which no row is, in their order."""
    names = [name for name in _mapping(values.get("run")).get("methods") or () if isinstance(name, str)]
    starts = {name: _start(values, name) for name in names}
    rows = {starts[name] for name in names if name in BASELINES and _is_frozen(values, name)}
    trained = [name for name in names if name in METHODS and not _is_frozen(values, name)]
    return [name for name in trained if starts[name] is not None and starts[name] not in rows]


def rows_of(values: Mapping[str, Any], methods: Iterable[str]) -> list[str]:
    """The rows of ``run.methods`` that are what one of ``methods`` starts from."""
    starts = {_start(values, name) for name in methods} - {None}
    rows = [name for name in _mapping(values.get("run")).get("methods") or () if name in BASELINES and _is_frozen(values, name)]
    return [name for name in rows if _start(values, name) in starts]


def _is_frozen(values: Mapping[str, Any], name: str) -> bool:
    return bool(section(values, name, "train").get("epochs") == 0)


def _start(values: Mapping[str, Any], name: str) -> tuple[Any, ...] | None:
    """The weights and the network that they are put into; None without weights."""
    encoder = section(values, name, "encoder")
    return (encoder["weights"], network(encoder)) if encoder.get("weights") else None


def check(values: Mapping[str, Any]) -> None:
    """Refuse to train what nothing would be compared with.

    Raises:
        UsageError: a method starts from weights that no row is, or a row that is an encoder of others has none.
    """
    if names := lacking(values):
        raise UsageError(
            f"{names[0]} starts from weights, and no row of run.methods is these weights untrained: make run adds the row"
            f" {ROW}; by hand, write it into run.methods, and method.{ROW}.encoder as {names[0]} has it"
        )
    if is_idle(values):
        raise UsageError(
            f"run.methods: {ROW} is the weights that training starts from, and nothing starts from them; take it out"
        )
    check_weights(values)


def check_weights(values: Mapping[str, Any]) -> None:
    """Refuse a row of an encoder of others without weights: it would be one more untrained network.

    Raises:
        UsageError: there is such a row.
    """
    names = [name for name in _mapping(values.get("run")).get("methods") or () if isinstance(name, str) and name in BASELINES]
    rows = [name for name in names if name not in (ROW, *UNTRAINED, *LABELLED) and _is_frozen(values, name)]
    if empty := [name for name in rows if _start(values, name) is None]:
        raise UsageError(
            f"method.{empty[0]}: encoder.weights is null, and this row is what others trained; name weights, or take it out of"
            " run.methods"
        )


def is_idle(values: Mapping[str, Any]) -> bool:
    """Whether the row is listed, and no method starts from what it is."""
    names, start = _mapping(values.get("run")).get("methods") or (), _start(values, ROW)
    trained = [name for name in names if isinstance(name, str) and name in METHODS and not _is_frozen(values, name)]
    return ROW in names and (start is None or all(_start(values, name) != start for name in trained))
