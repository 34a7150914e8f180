"""Typed, strict configuration: plain mappings in, frozen dataclasses out."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

T = TypeVar("T")


class Rule(NamedTuple):
    """What a value must fulfill, for the second place of ``Annotated``; a number without one: finite and at least 0."""

    words: str
    holds: Callable[[Any], bool]


AT_LEAST_0 = Rule("a number of at least 0", lambda v: 0 <= v < math.inf)
Positive = Annotated[float, Rule("a number above 0", lambda v: 0 < v < math.inf)]
Share = Annotated[float, Rule("from 0 to 1", lambda v: 0 <= v <= 1)]
Fraction = Annotated[float, Rule("above 0 and at most 1", lambda v: 0 < v <= 1)]
BelowOne = Annotated[float, Rule("at least 0 and below 1", lambda v: 0 <= v < 1)]
Count = Annotated[int, Rule("a whole number of at least 1", lambda v: v >= 1)]
ASCENDING = Rule("two numbers, the smaller one first", lambda v: v[0] <= v[1])


WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
"""What a YAML value of each type is called."""


class ConfigError(ValueError):
    """A wrong key, value or type in the parameters; the message names it and says what would be right."""


class MissingKey(ConfigError):
    """A key is not there at all, as in a file of an older version."""

    def __init__(self, key: str):
        super().__init__(f"{key} is missing")


def typed(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass ``cls`` from ``values``; every field without a default must be there and nothing else.

    Args:
        where: the path of ``values`` in params.yaml, for messages (``train``, ``method.simclr``).

    Raises:
        ConfigError: unknown or missing key, or a value of the wrong type or out of its bounds.
    """
    converted = converted_fields(cls, values, where)
    needed = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]  # type: ignore[arg-type]
    missing = [k for k in needed if k not in values]
    if missing:
        raise MissingKey(f"{where}.{missing[0]}")
    return cls(**converted)


def converted_fields(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of the dataclass ``cls`` that ``values`` has, as ``typed`` takes them.

    Raises:
        ConfigError: unknown key, or a value of the wrong type or out of its bounds.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}; it must be a mapping")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    unknown = [k for k in values if k not in fields]
    if unknown:
        raise ConfigError(unknown_name(f"{where}.{unknown[0]}", str(unknown[0]), fields))
    return {k: _convert(hint, values[k], f"{where}.{k}") for k, hint in fields.items() if k in values}


def unknown_name(what: str, name: str, known: typing.Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    known = list(known)
    return f"{what} is unknown" + (nearest(name, known) or f"; known: {', '.join(known)}")


def nearest(name: str, known: typing.Iterable[str], count: int = 1) -> str:
    """The end of a message about a name that does not exist: the ``count`` nearest ones that do; empty where none is near."""
    folded = {other.casefold(): other for other in known}
    near = [repr(folded[other]) for other in difflib.get_close_matches(name.casefold(), list(folded), count, cutoff=0.5)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        kind, rule = typing.get_args(hint)
        if typing.get_origin(kind) is not tuple:
            return _convert_scalar(kind, rule, value, where)
        values = _convert(kind, value, where)
        if not rule.holds(values):
            raise ConfigError(f"{where} is {list(values)}; it must be {rule.words}")
        return values
    if origin in (Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        for arm in typing.get_args(hint):
            if arm is not type(None):
                try:
                    return _convert(arm, value, where)
                except ConfigError as error:
                    last = error
        raise last
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed or isinstance(value, bool) not in {isinstance(a, bool) for a in allowed}:
            names = [str(name) for name in allowed]
            raise ConfigError(f"{where} is {value!r}; it must be one of {', '.join(names)}{nearest(str(value), names)}")
        return value
    if origin is tuple:
        return _convert_tuple(typing.get_args(hint), value, where)
    if origin is dict:
        return _convert_dict(typing.get_args(hint)[1], value, where)
    if isinstance(hint, type) and issubclass(hint, tuple):  # a NamedTuple
        return hint(*_convert_tuple(tuple(typing.get_type_hints(hint).values()), value, where))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; it must be a mapping")
        return typed(hint, value, where)  # type: ignore[arg-type]
    return _convert_scalar(hint, AT_LEAST_0, value, where)


def _convert_dict(hint: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; it must be a mapping")
    return {_convert(str, key, f"a key of {where}"): _convert(hint, item, f"{where}.{key}") for key, item in value.items()}


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {value!r}; it must be a list")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(args):
        raise ConfigError(f"{where} has {len(value)} values; it must have {len(args)}")
    return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))


def _convert_scalar(hint: Any, rule: Rule, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        if hint in (int, float) and not rule.holds(value):
            raise ConfigError(f"{where} is {value}; it must be {rule.words}")
        return value
    note = ""
    if hint is float and isinstance(value, str):
        note = " (YAML reads 1e-3 as text; write 1.0e-3)"
    elif hint is str and isinstance(value, bool):
        note = " (YAML reads yes, no, on and off as booleans; put it in quotes)"
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    raise ConfigError(f"{where} is {shown}; it must be {WORDS[hint]}{note}")
