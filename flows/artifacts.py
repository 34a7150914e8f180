"""What the flow leaves in Prefect's UI: a progress bar per stage, the leaderboard, and where to look further."""

import os
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks import ui
from tasks.columns import HEADLINES
from tasks.runtime import files
from tasks.runtime.progress import Follower
from tasks.sync import SENT

PARENT = "pipeline"  # the run of the report
SHOWN = ("method", "seed", *(score.name for score in HEADLINES), "encoder", "epochs", "steps", "seconds")


class ProgressBar:
    """Mirrors the ``progress.json`` that a stage keeps in its work directory."""

    def __init__(self, name: str, root: Path):
        self.name, self.follower = name, Follower(root, name)
        self._artifact: UUID | None = None
        self._lost = False

    def update(self) -> None:
        """Show the newest state, if there is one. A stage never fails because its progress cannot be shown.

        Prefect's client tries for a minute; a server that is away for longer costs that minute once.
        """
        try:
            if not self._lost:
                self._show()
        except Exception as error:
            self._lost = True
            get_run_logger().debug("progress of %s: %s", self.name, error)

    def _show(self) -> None:
        value = self.follower.news()
        if value is None:
            return
        percent = round(100.0 * value["done"] / max(1, value["total"]), 1)
        if self._artifact is None:
            key = "progress-" + "".join(c if c.isalnum() else "-" for c in self.name.lower())
            artifact = create_progress_artifact(progress=percent, key=key, description=f"{self.name}: {value['label']}")
            self._artifact = artifact if isinstance(artifact, UUID) else None
        else:
            update_progress_artifact(artifact_id=self._artifact, progress=percent)


def publish(root: Path, summary: str) -> None:
    """The leaderboard as a table, and a page with the summary and the places to look."""
    board = root / "reports" / "leaderboard.csv"
    if board.exists():
        import pandas as pd

        table = pd.read_csv(board)
        shown = table[[column for column in SHOWN if column in table]].map(_short)
        create_table_artifact(table=shown.to_dict("records"), key="leaderboard", description="One row per method and seed")
    create_markdown_artifact(markdown=page(root, summary), key="summary", description="What this run did")


def _short(cell: Any) -> str:
    """A number with as many digits as a reader wants; nothing where there is none."""
    return str(cell) if not isinstance(cell, float) else "" if cell != cell else f"{cell:.4g}"


def page(root: Path, summary: str) -> str:
    """The summary as Markdown, with links to the runs in MLflow and to the report."""
    first, *rest = summary.splitlines()
    lines = [f"**{first}**", "", *(f"- {line}" for line in rest)]
    runs, report = _runs(root), root / "reports" / "report.html"
    lines += (
        [f"- Runs in MLflow (of a local store after `make ui`): {', '.join(map(_link, runs, runs.values()))}"] if runs else []
    )
    if report.exists():
        shown = [_link("in MLflow", f"{runs[PARENT]}/artifacts/report/{report.name}")] if PARENT in runs else []
        lines.append(f"- Report: {', '.join([*shown, _link(str(report), report.as_uri())])}")
    return "\n".join(lines)


def _runs(root: Path) -> dict[str, str]:
    """Where MLflow shows each published run, by name."""
    if not (root / SENT).exists():
        return {}
    sent = files.read_json(root / SENT)
    remote = sent["uri"].replace("***@", "") if sent["uri"].startswith("http") else ""
    server = remote.rstrip("/") or f"http://{ui.HOST}:{os.environ.get('MLFLOW_PORT', ui.MLFLOW_PORT)}"
    return {name: f"{server}/#/experiments/{sent['experiment']}/runs/{run}" for name, run in sent["runs"].items()}


def _link(text: str, target: str) -> str:
    return f"[{text}]({target})"
