"""YAML that a program changes and people read: its comments stay."""

import io
from collections.abc import Callable, Mapping
from typing import Any

from tasks.runtime.errors import UsageError
from tasks.runtime.strict_yaml import first_fault


def edit(text: str, change: Callable[[Any], None]) -> str:
    """YAML after ``change`` was made to its values, with its comments.

    Raises:
        UsageError: it is none.
    """
    from ruamel.yaml import YAML, RoundTripRepresenter
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    # A class of its own: else all of this process would write so, DVC its dvc.lock too.
    yaml.Representer = type("Plain", (RoundTripRepresenter,), {})
    yaml.preserve_quotes = True
    yaml.width = 200
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.representer.add_representer(float, lambda r, v: r.represent_scalar("tag:yaml.org,2002:float", plain(v)))
    try:
        document = yaml.load(text)
    except YAMLError as error:  # stricter than the reader of the stages
        raise UsageError(f"params.yaml is not valid YAML: {first_fault(error)}") from None
    change(document)
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    return buffer.getvalue()


def plain(value: float) -> str:
    """``value`` as every YAML reader takes it for a number: 1e-06 without a dot is text to most."""
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


def written_like(old: Any, new: Any) -> Any:
    """A list on one line where the list that it replaces is on one."""
    style = getattr(old, "fa", None)
    if style is None or not isinstance(new, list):
        return new
    listed = type(old)(new)
    if style.flow_style():
        listed.fa.set_flow_style()
    return listed


def become(target: Any, values: Mapping[str, Any]) -> None:
    """Turn ``target``, a mapping of YAML with comments, into ``values``; those of what stays, stay."""
    for key in [key for key in target if key not in values]:
        del target[key]
    for key, value in values.items():
        old = target.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            become(old, value)
        elif isinstance(value, list) and isinstance(old, list) and old and value[: len(old)] == old:
            old.extend(value[len(old) :])
        elif key not in target or old != value:
            target[key] = written_like(old, value)
