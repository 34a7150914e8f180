"""What the flow leaves in Prefect's UI: the leaderboard, what it did and who is champion, and where to look further.

While a stage runs there is a progress bar for it. A new champion is also an event, which an automation can listen to.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.filters import FlowRunFilter
from prefect.events import emit_event
from prefect.runtime import flow_run

from tasks import transfer, ui
from tasks.columns import BESIDE_ITS_START, HEADLINES
from tasks.conclusions import sentences, worth_it
from tasks.leaderboard import BEST, title
from tasks.results import load_results, up_to_date
from tasks.runtime import files
from tasks.runtime.errors import Stop
from tasks.runtime.progress import Follower
from tasks.sync import SENT
from tasks.tracking import registered
from tasks.verdict import Verdict, judge

Champion = tuple[str, str]
"""(registered model, encoder)"""
PARENT = "pipeline"  # the run of the report
LAYOUT = "?workflowType=machine_learning"  # of MLflow's pages: the one for training, with charts and parameters
CHANGED = "ssl-pipeline.champion-changed"
SORTED_BY = ("holdout_linear_top1", "few_labels_r2")
"""The first that the leaderboard holds is what it is sorted by."""
SHOWN = ("method", "seed", *(score.name for score in HEADLINES), "encoder", "epochs", "steps", "seconds")
ABOUT_TASKS = "Linear probe on the test images of each set, and the average rank; 'data' are those that encoders are trained on"


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


def publish(root: Path, summary: str, verdict: Verdict | None, before: Champion | None) -> None:
    """The leaderboard as a table, and a page with the summary and the places to look; the progress bars go.

    Args:
        verdict: of the results, if there are any.
        before: the champion when the flow began.
    """
    board = root / "reports" / "leaderboard.csv"
    if board.exists():
        create_table_artifact(table=(shown := leaderboard(board))[0], key="leaderboard", description=shown[1])
    transfer = root / "reports" / "transfer.csv"
    if transfer.exists():
        create_table_artifact(table=tasks(transfer), key="tasks", description=ABOUT_TASKS)
    create_markdown_artifact(markdown=page(root, summary, verdict), key="summary", description="What this run did")
    announce(root, before)
    _remove_bars(str(flow_run.id))


def leaderboard(board: Path) -> tuple[list[dict[str, str]], str]:
    """The rows as Prefect shows them, baselines with a star, and what they are sorted by."""
    import pandas as pd

    table = pd.read_csv(board)
    first = next((column for column in SORTED_BY if column in table and table[column].notna().any()), None)
    beside = [column for column in BESIDE_ITS_START if column in table and table[column].notna().any()]
    columns = ["method", "seed", *([first] if first else []), *SHOWN, *beside]
    shown = table[[column for column in dict.fromkeys(columns) if column in table]].map(_short)
    if "baseline" in table:
        shown["method"] += table["baseline"].eq("yes").map({True: " *", False: ""})
    order = f", sorted by the mean {first} of a method, which chooses" if first else ""
    return shown.to_dict("records"), f"One row per method and seed{order}; * baseline"


def tasks(transfer: Path) -> list[dict[str, str]]:
    """A row for each method and baseline: the average rank, and the score on each set of images."""
    import pandas as pd

    rows: list[dict[str, str]] = pd.read_csv(transfer).map(_short).to_dict("records")
    return rows


def judged(root: Path, out_of_date: Collection[str] = ()) -> Verdict | None:
    """What may be said of the results of stages that are up to date; None where there are none, or they cannot be read, which
    the stages say."""
    try:
        results = up_to_date(load_results(root)[0], out_of_date)
    except Stop:
        return None
    return judge(results) if results else None


def said(verdict: Verdict | None) -> list[str]:
    """What to know before an encoder is taken: whether its training was worth it, what is against it, and which comes first."""
    return [*worth_it(verdict), *sentences(verdict)[: 2 if verdict.in_doubt else 1]] if verdict else []


def champion(root: Path) -> Champion | None:
    """(registered model, encoder) of the alias ``champion``; None where nothing is registered."""
    wanted = registered.load(root)
    return (wanted.model, wanted.aliases[registered.CHAMPION]) if wanted and registered.CHAMPION in wanted.aliases else None


def announce(root: Path, earlier: Champion | None) -> None:
    """Emit an event if the champion is another one than at the end of the last flow here, or when the first one began."""
    now, path = champion(root), root / ".ssl" / "champion.json"
    before = files.read_json(path) if path.exists() else earlier and list(earlier)
    if now is None or list(now) == before:
        return
    resource = {"prefect.resource.id": f"ssl-pipeline.model.{now[0]}", "prefect.resource.name": now[0]}
    emit_event(CHANGED, resource, payload={"model": now[0], "champion": now[1], "before": before and before[1]})
    files.write_json(path, list(now))


def _remove_bars(flow_run_id: str) -> None:
    """Those of stages that have ended; the UI would keep them for ever."""
    mine = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
    with get_client(sync_client=True) as client:
        for artifact in client.read_artifacts(flow_run_filter=mine):
            if artifact.type == "progress" and artifact.id:
                client.delete_artifact(artifact.id)


def _short(cell: Any) -> str:
    """A number with as many digits as a reader wants; nothing where there is none."""
    return str(cell) if not isinstance(cell, float) else "" if cell != cell else f"{cell:.4g}"


def page(root: Path, summary: str, verdict: Verdict | None = None) -> str:
    """The summary as Markdown: what was done, what may be said of it, and links to the runs in MLflow and to the report."""
    first, *rest = summary.splitlines()
    lines = [f"**{first}**", "", *(f"{line}\n" for line in said(verdict)), *(f"- {line}" for line in rest)]
    runs, report = _runs(root), root / "reports" / "report.html"
    wanted = registered.load(root)
    model, aliases = (wanted.model, wanted.aliases) if wanted else ("", {})
    champions = {alias: name for alias, name in aliases.items() if alias.startswith(registered.CHAMPION)}
    several = transfer.load(root) if verdict else None
    judged_by = {registered.CHAMPION: verdict}
    judged_by |= {f"{registered.CHAMPION}-{task.name}": task.verdict for task in several.tasks} if several else {}
    hedges = {alias: f" ({hedge})" for alias, v in judged_by.items() if v and v.champion and (hedge := title(v)) != BEST}
    lines += [
        f"- {a.replace('-', ' of ', 1).capitalize()}{hedges.get(a, '')}: **{n}**, `models:/{model}@{a}`"
        for a, n in champions.items()
    ]
    if runs:
        links = ", ".join(_link(name, address + LAYOUT) for name, address in runs.items())
        lines.append(f"- Runs in MLflow (of a local store after `make ui`): {links}")
    if report.exists():
        shown = [_link("in MLflow", f"{runs[PARENT]}/artifacts/report/{report.name}{LAYOUT}")] if PARENT in runs else []
        lines.append(f"- Report: {', '.join([*shown, _link(str(report), report.as_uri())])}")
    return "\n".join(lines)


def _runs(root: Path) -> dict[str, str]:
    """Where MLflow shows each published run, by name."""
    if not (root / SENT).exists():
        return {}
    sent = files.read_json(root / SENT)
    remote = sent["uri"].replace("***@", "").partition("?")[0] if sent["uri"].startswith("http") else ""
    server = remote.rstrip("/") or f"http://{ui.HOST}:{os.environ.get('MLFLOW_PORT', ui.MLFLOW_PORT)}"
    return {name: f"{server}/#/experiments/{sent['experiment']}/runs/{run}" for name, run in sent["runs"].items()}


def _link(text: str, target: str) -> str:
    return f"[{text}]({target})"
