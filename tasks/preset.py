"""``make preset P=NAME``: write the values of ``presets/NAME.yaml`` into params.yaml, keeping its comments.

The last line of params.yaml then says which preset that was and what it replaced. The next preset takes that back first, so
that nothing of an earlier choice stays; ``P=none`` only takes it back. What the user changed since is the user's, and stays.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core.config import ConfigError, unknown_name
from tasks.runtime import params, settings
from tasks.runtime.declared import lookup
from tasks.runtime.edited_yaml import edit, written_like
from tasks.runtime.errors import UsageError, run
from tasks.runtime.start_rows import ROW

PRESETS = Path("presets")
NONE = "none"
SAMPLE, SAMPLE_PATH = "sample", "data/sample"
"""The embedded images, as shipped."""
MARK = "# The line that make preset takes back (P=none): "

Changes = dict[str, list[Any]]
"""By dotted key: the value that was set and the one before; only the first where there was none. Of a list with an item a line
its text before is the third: items that are commented out are no value, and come back too."""


def merge(target: Any, values: Mapping[str, Any], where: str = "") -> Changes:
    """Set every leaf of ``values`` in ``target``; mappings are merged, everything else is replaced.

    Returns:
        What changed.
    """
    changes: Changes = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), Mapping):
            changes |= merge(target[key], value, f"{where}{key}.")
        elif key not in target or target[key] != value:
            changes[f"{where}{key}"] = [value, target[key]] if key in target else [value]
            target[key] = written_like(target.get(key), value)
    return changes


def take_back(target: Any, changes: Changes) -> list[str]:
    """Undo ``changes`` in ``target``; returns a line for each value that is another one by now, and so stays."""
    kept = []
    for key, (value, *before) in changes.items():
        *sections, last = key.split(".")
        section = target
        for name in sections:
            section = section.get(name) if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping) or last not in section:
            kept.append(f"{key} (which is gone)")
        elif section[last] != value and section[last] != _with_start(value):
            kept.append(f"{key}: {_shown(section[last])}")
        elif before:
            section[last] = written_like(section[last], before[0])  # type: ignore[index]
        else:
            del section[last]  # type: ignore[attr-defined]
    return kept


def _with_start(value: Any) -> Any:
    """A list of methods to which a run has added the row for what they start from."""
    return [*value, ROW] if isinstance(value, list) else value


def split(text: str) -> tuple[str, Changes]:
    """params.yaml without its mark, and what the mark says.

    Raises:
        UsageError: the mark was edited.
    """
    lines = text.splitlines(keepends=True)
    marks = [line for line in lines if line.startswith(MARK)]
    try:
        changes: Changes = json.loads(marks[-1].removeprefix(MARK).partition(" ")[2]) if marks else {}
    except ValueError:
        raise UsageError(
            f"params.yaml: the line {MARK.strip()!r} is damaged; remove it to keep all values as they are"
        ) from None
    return "".join(line for line in lines if not line.startswith(MARK)), changes


def items(text: str, key: str) -> str:
    """The lines of the list at ``SECTION.NAME`` that has an item a line, those that are commented out included; else empty."""
    section, _, name = key.partition(".")
    found = re.search(rf"^{section}:.*\n(?:[ #].*\n|\n)*?  {name}:.*\n((?: *(?:# *)?- .*\n)+)", text, re.MULTILINE)
    return found[1] if found else ""


def where_they_are(values: Mapping[str, Any], present: Mapping[str, Any]) -> Mapping[str, Any]:
    """``values`` with the present ``data.path``, the user's, where the images come from the source of ``values`` already."""
    new, now = values.get("data", {}), present.get("data")
    if "path" not in new or not isinstance(now, dict) or any(new[k] != now.get(k) for k in ("source", "name") if k in new):
        return values
    return {**values, "data": {**new, "path": now.get("path")}}


def apply(text: str, name: str, values: Mapping[str, Any]) -> tuple[str, Changes, list[str]]:
    """params.yaml with the preset ``name`` instead of an earlier one; what it replaced, and what of the earlier one stays."""
    content, earlier = split(text)
    kept: list[str] = []
    changes: Changes = {}
    content = edit(content, lambda document: kept.extend(take_back(document, earlier)))
    for present in (text, content):
        values = where_they_are(values, params.parse(present, params.PARAMS))
    for key, (_, *before) in earlier.items():
        now = items(content, key)
        if len(before) == 2 and now and not any(line.startswith(key) for line in kept):
            content = content.replace(now, before[1], 1)
    shown = content
    content = edit(content, lambda document: changes.update(merge(document, values)))
    for key, change in changes.items():
        if isinstance(change[-1], list) and items(shown, key):
            change.append(items(shown, key))
    mark = f"{MARK}{name} {json.dumps(changes)}\n" if changes else ""
    return content + mark, changes, [line for line in kept if line.partition(":")[0] not in changes]


def taken_back(before: Mapping[str, Any], now: Mapping[str, Any], earlier: Changes, changes: Changes) -> dict[str, Any]:
    """By dotted key: the values that the earlier preset had set, and that are again what they were before it."""
    keys = [key for key in earlier if key not in changes and lookup(now, key) != lookup(before, key)]
    return {key: lookup(now, key) for key in keys}


def apart(now: Mapping[str, Any], back: Mapping[str, Any]) -> list[str]:
    """Of source and path the preset's one was taken back and the user's other one stays: a line that says so."""
    source, path = lookup(now, "data.source"), lookup(now, "data.path")
    fits = (source == SAMPLE) == (path == SAMPLE_PATH) or source == "torchvision"  # which needs no path
    if fits or not {"data.source", "data.path"} & set(back):
        return []
    said = f"warning: data.source is {source} now, and data.path is {path}: they may not fit; write into params.yaml what"
    return [f"{said} belongs together"]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def main() -> None:
    """Take back, merge, check, write."""
    settings.need_project()
    names = [NONE, *sorted(p.stem for p in PRESETS.glob("*.yaml"))]
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        raise UsageError(f"usage: make preset P=NAME, with NAME one of {', '.join(names)}")
    name = sys.argv[1]
    if name not in names:
        raise UsageError(unknown_name(f"preset {name!r}", name, names))
    values = {} if name == NONE else params.read(PRESETS / f"{name}.yaml")
    present = params.text()
    before = params.parse(present, params.PARAMS)
    text, changes, kept = apply(present, name, values)
    now = params.parse(text, params.PARAMS)
    try:
        params.check(now)
    except ConfigError as error:
        raise ConfigError(f"{error}; so it would be with this preset, and params.yaml stays as it was") from None
    params.write(text)
    back = taken_back(before, now, split(present)[1], changes)
    if back:
        print(f"taken back: {'; '.join(f'{key}: {_shown(value)}' for key, value in back.items())}")
    for key, (value, *was) in changes.items():
        if key.startswith("data."):
            print(f"{key} is {_shown(value)}, was {_shown(was[0])}")
    if others := [key for key in changes if not key.startswith("data.")]:
        print(f"also set: {', '.join(others)}")
    if kept:
        print(f"changed since the last preset, and kept: {'; '.join(kept)}")
    for line in apart(now, back):
        print(line)
    print(f"params.yaml now holds {'no preset' if name == NONE else f'the preset {name}; make preset P=none takes it back'}")


if __name__ == "__main__":
    run(main)
