"""What a line of a journal may hold. A line that a disk or a hand has damaged is named and left out; the others count."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tasks.runtime.errors import UsageError
from tasks.runtime.stage_name import StageName

LARGEST = 2**63
"""What times and steps are below: databases hold no more."""
Rule = Callable[[Any], bool]


def parse(line: bytes) -> dict[str, Any]:
    """The event of a line of a journal.

    Raises:
        ValueError: it is none; the message says what is wrong.
    """
    if not line.endswith(b"\n"):
        raise ValueError("it is not complete")
    try:
        event = json.loads(line, parse_constant=_no_number)
        json.dumps(event, ensure_ascii=False).encode()  # half of a pair of surrogates is no text
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or event["event"] not in RULES:
        raise ValueError(f"its event is none of {', '.join(RULES)}")
    _check(event, {"time": _is_index} | RULES[event["event"]])
    return event


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _check(values: Mapping[str, Any], rules: Mapping[str, Rule], where: str = "") -> None:
    for key, holds in rules.items():
        if key not in values:
            raise ValueError(f"{where}{key} is missing")
        if not holds(values[key]):
            raise ValueError(f"{where}{key} is {str(values[key])[:60]!r}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_number(value: Any) -> bool:
    """A finite number, or the word for one that is not."""
    if isinstance(value, str):
        return value in ("nan", "inf", "-inf")
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_cost(value: Any) -> bool:
    return isinstance(value, dict) and all(
        not isinstance(v, (int, float)) or abs(v) <= sys.float_info.max for v in value.values()
    )


def _is_status(value: Any) -> bool:
    return isinstance(value, str) and value in ("FINISHED", "FAILED", "KILLED")


def _is_data(value: Any) -> bool:
    return isinstance(value, dict) and (not value or all(isinstance(value.get(k), str) for k in ("name", "sha256")))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_stage(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(StageName.parse(value))
    except (ValueError, UsageError):
        return False


def _is_run(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    _check(value, RUN, "run.")
    return True


RUN: dict[str, Rule] = {
    "fingerprint": _is_text,
    "stage": _is_stage,
    "name": _is_text,
    "seed": lambda value: value is None or _is_index(value),
    "tags": _is_mapping,
    "params": _is_mapping,
    "data": _is_data,
    "children": _are_names,
}
RULES: dict[str, dict[str, Rule]] = {
    "start": {"run": _is_run},
    "metrics": {"step": _is_index, "metrics": _are_numbers},
    "tags": {"tags": _is_mapping},
    "artifact": {"path": _is_text, "folder": _is_text},
    "end": {"status": _is_status, "cost": _is_cost, "encoder_sha256": _is_text_or_none, "reason": _is_text_or_none},
}
"""What each kind of event must hold; see ``journal``."""
