"""What the flow leaves in Prefect's UI: a progress bar per stage, the leaderboard, and where to look further."""

import csv
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

from tasks.progress import Follower

SHOWN = ("method", "seed", "knn_top1", "linear_top1", "verdict", "encoder", "epochs", "seconds")


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
        with board.open(newline="") as file:
            rows: list[dict[str, Any]] = [{k: row[k] for k in SHOWN if k in row} or row for row in csv.DictReader(file)]
        create_table_artifact(table=rows, key="leaderboard", description="One row per method and seed")
    create_markdown_artifact(markdown=_page(root, summary), key="summary", description="What this run did")


def _page(root: Path, summary: str) -> str:
    first, *rest = summary.splitlines()
    store = os.environ.get("MLFLOW_TRACKING_URI", "")
    tracking = f"[{store}]({store})" if store.startswith("http") else "`make ui` opens it"
    report = root / "reports" / "report.html"
    lines = [f"**{first}**", "", *(f"- {line}" for line in rest), "", f"- Runs in MLflow: {tracking}"]
    if report.exists():
        lines.append(f"- Report: [{report.relative_to(root)}]({report.as_uri()})")
    return "\n".join(lines)
