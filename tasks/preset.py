"""``make preset P=NAME``: write the values of ``presets/NAME.yaml`` into params.yaml, keeping its comments."""

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.runtime import files, params
from tasks.runtime.errors import UsageError, run

PRESETS = Path("presets")


def merge(target: Any, values: Mapping[str, Any], where: str = "") -> None:
    """Set every leaf of ``values`` in ``target``; mappings are merged, everything else is replaced."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), Mapping):
            merge(target[key], value, f"{where}{key}.")
        else:
            target[key] = value


def plain(value: float) -> str:
    """``value`` as every YAML reader takes it for a number: 1e-06 without a dot is text to most."""
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


def main() -> None:
    """Merge, check, write."""
    from ruamel.yaml import YAML

    names = sorted(p.stem for p in PRESETS.glob("*.yaml"))
    if len(sys.argv) != 2 or sys.argv[1] not in names:
        raise UsageError(f"usage: make preset P=NAME, with NAME one of {', '.join(names)}")
    source = PRESETS / f"{sys.argv[1]}.yaml"
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.representer.add_representer(float, lambda r, v: r.represent_scalar("tag:yaml.org,2002:float", plain(v)))
    document = yaml.load(params.PARAMS.read_text())
    merge(document, params.read(source))
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    params.check(params.parse(buffer.getvalue(), params.PARAMS))
    files.write_text(params.PARAMS, buffer.getvalue())
    print(f"params.yaml now holds {source}; git diff params.yaml shows what changed, git checkout params.yaml undoes it")


if __name__ == "__main__":
    run(main)
