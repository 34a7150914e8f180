"""The files of a run on their way to MLflow: they go another way than its numbers, and that way may be closed alone.

A server without an artifact proxy has every client write to a folder or bucket of its own, which may not be here, or closed.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.runtime.errors import Stop, explain, is_full
from tasks.runtime.redaction import redact
from tasks.tracking import patience
from tasks.tracking.records import Record

MISSING, REASON = "ssl.missing_artifacts", "ssl.missing_reason"
"""Tags of a run; those of what adds to the run of a training end with ``.evaluation`` and its task, or ``.finetune``."""
PARAMS, PREDICTIONS, CONFUSION = "params.yaml", "predictions", "confusion.csv"


def send(client: Any, run: Any, record: Record, root: Path) -> tuple[dict[str, str], str | None]:
    """Send the files of an ended run, and what is made of its journal and its files; sending one again replaces it.

    Returns:
        Tags that name what is missing and why, and the same in words if the store does not take the files now. After its
        first refusal no other file is tried.
    """
    present, missing = record.files(root) if record.end is not None else ([], [])
    texts, reason = dict(made(record, present)), None
    unsent = [path.name for path, _ in present] + list(texts)
    try:
        for path, folder in present:
            client.log_artifact(run.info.run_id, str(path), folder or None)
            unsent.pop(0)
        for name, text in texts.items():
            (client.log_text if isinstance(text, str) else client.log_dict)(run.info.run_id, text, name)
            unsent.pop(0)
    except Exception as error:
        code, message = explain(error)
        if code == Stop.code or is_full(error) or patience.spent():
            raise
        reason = redact(message)
    names = ", ".join([*map(str, missing), *unsent])
    of = record.evaluated.removeprefix("ssl") if record.adds else ""
    if not names and MISSING + of in run.data.tags:  # they have arrived by now
        for tag in (MISSING, REASON):
            client.delete_tag(run.info.run_id, tag + of)
    tags = {MISSING + of: names, REASON + of: reason or "not in the project"} if names else {}
    return tags, f"({names}): {reason}" if reason else None


def made(record: Record, present: Sequence[tuple[Path, str]]) -> Iterator[tuple[str, Any]]:
    """(Name, text or mapping): all parameters of a training, uncut, and the confusion matrix of each file of predictions."""
    params = record.run["params"]
    if record.kind == "pretrain" and record.end is not None and params:
        own = {"method": {record.run["name"]: params["method"]}} if "method" in params else {}
        yield PARAMS, _redacted(params | own)
    for path, folder in present:
        if folder.partition("/")[0] == PREDICTIONS and path.suffix == ".csv" and (table := confusion(path)):
            yield f"{folder}/{CONFUSION}", table


def _redacted(value: Any) -> Any:
    """``value`` with every text in it redacted."""
    if isinstance(value, dict):
        return {name: _redacted(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    return redact(value) if isinstance(value, str) else value


def confusion(predictions: Path) -> str:
    """CSV of how often the linear probe takes images of each class (rows) for each (columns); empty without predictions."""
    with predictions.open(newline="", encoding="utf-8") as file:
        images = list(csv.reader(file))[1:]
    counts = Counter((image[0], image[1]) for image in images)
    classes = sorted({name for pair in counts for name in pair})
    out = io.StringIO()
    rows = [[actual, *(counts[actual, predicted] for predicted in classes)] for actual in classes]
    csv.writer(out, lineterminator="\n").writerows([["actual", *classes], *rows] if rows else [])
    return out.getvalue()
