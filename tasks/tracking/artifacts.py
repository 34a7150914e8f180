"""The files of a run on their way to MLflow: they go another way than its numbers, and that way may be closed alone.

A server without an artifact proxy has every client write to a folder or bucket of its own, which may not be here, or closed.
"""

from pathlib import Path
from typing import Any

from tasks.runtime.errors import Stop, explain, is_full
from tasks.runtime.redaction import redact
from tasks.tracking.records import Record

MISSING, REASON = "ssl.missing_artifacts", "ssl.missing_reason"
"""Tags of a run; those of an evaluation, which adds to the run of its training, end with ``.evaluation`` and its task."""
LONG = "long_params.json"


def send(client: Any, run: Any, record: Record, root: Path, long: dict[str, str]) -> tuple[dict[str, str], str | None]:
    """Send the files of an ended run; sending one again replaces it.

    Args:
        long: parameters too long for MLflow, whole.

    Returns:
        Tags that name what is missing and why, and the same in words if the store does not take the files now. After its
        first refusal no other file is tried.
    """
    present, missing = record.files(root) if record.end is not None else ([], [])
    unsent, reason = [path.name for path, _ in present] + [LONG] * bool(long), None
    try:
        for path, folder in present:
            client.log_artifact(run.info.run_id, str(path), folder or None)
            unsent.pop(0)
        if long:
            client.log_dict(run.info.run_id, long, LONG)
            unsent.pop(0)
    except Exception as error:
        code, message = explain(error)
        if code == Stop.code or is_full(error):
            raise
        reason = redact(message)
    names = ", ".join([*map(str, missing), *unsent])
    of = record.evaluated.removeprefix("ssl") if record.kind == "evaluate" else ""
    if not names and MISSING + of in run.data.tags:  # they have arrived by now
        for tag in (MISSING, REASON):
            client.delete_tag(run.info.run_id, tag + of)
    tags = {MISSING + of: names, REASON + of: reason or "not in the project"} if names else {}
    return tags, f"({names}): {reason}" if reason else None
