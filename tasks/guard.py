"""Before a run: the row for what trainings start from comes into params.yaml by itself, and goes when nothing starts there."""

from pathlib import Path
from typing import Any

from tasks import preset
from tasks.runtime import files, params
from tasks.runtime.errors import UsageError
from tasks.runtime.start_rows import ROW, is_idle, lacking, own


def is_wanted(root: Path) -> bool:
    """Whether ``complete`` has anything to change."""
    values = params.load(root / params.PARAMS)
    return bool(lacking(values)) or is_idle(values)


def complete(root: Path) -> list[str]:
    """Add the row ``start`` where a method starts from weights that no row is; returns a line for each change, mostly none.

    Raises:
        UsageError: methods start from several such weights; one row cannot be all of them.
    """
    if not is_wanted(root):
        return []
    path = root / params.PARAMS
    values = params.load(path)
    names = lacking(values)
    first = own(values, names[0], "encoder") if names else {}
    first.pop("continued", None)

    def change(document: Any) -> None:
        methods = document["run"]["methods"]
        if not document["method"].get(ROW):
            document["method"][ROW] = {}
        row = document["method"][ROW]
        row.setdefault("train", {})["epochs"] = 0
        if ROW in methods and not names:
            methods.remove(ROW)
        elif ROW not in methods:
            methods.append(ROW)
        row.pop("encoder", None)
        if first:
            row["encoder"] = first

    text = preset.edit(path.read_text(encoding="utf-8-sig"), change)
    if left := lacking(params.parse(text, path)):
        raise UsageError(
            f"{names[0]} and {left[0]} start from different weights, and the row {ROW} can only be one of them: give the other"
            " a row of its own (docs/weights.md)"
        )
    files.write_text(path, text)
    if not names:
        return [f"params.yaml: nothing starts from weights any more; the row {ROW} was taken out of run.methods"]
    return [f"params.yaml: the row {ROW} is what {', '.join(names)} starts from; a training that gains nothing is told by it"]
