"""The flow ``watch-data``: when images arrived in the data folder, start the pipeline.

A tick compares a digest of names, sizes and times with the last one: no file is opened. Files that are still arriving are
waited for: two ticks in a row must see the same folder. A run that failed is started again, twice at most: what was
wrong may have been the tracker or a disk. After that the images wait for others, or for the next schedule.
"""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_client, get_run_logger
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from flows import own_server
from tasks.dvc import graph
from tasks.runtime import files, params
from tasks.runtime.errors import run
from tasks.runtime.image_folders import all_paths, images_path

STATE = Path(".ssl") / "watch.json"
AGAIN = 2
"""Times that a run is started again for the same images."""


def news(digest: str, before: dict[str, str]) -> str:
    """What a look shows: ``first`` look, ``same`` as what was last run on, still ``arriving``, or ``changed`` and settled."""
    if not before:
        return "first"
    if digest == before["run"]:
        return "same"
    return "changed" if digest == before["seen"] else "arriving"


def has_failed(run: str) -> bool:
    """Whether a flow run has ended without success, and nobody stopped it."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(run)).state
        except ObjectNotFound:
            return False
    return state is not None and (state.is_failed() or state.is_crashed())


@flow(name="watch-data", persist_result=False)
def watch(folder: str | None = None, deployment: str = "ssl-pipeline/nightly") -> Any:
    """One look at the data folder.

    Args:
        folder: where images arrive; default: the folders in ``data.path`` and ``data.more`` of params.yaml.
        deployment: what to start when something changed.
    """
    data = params.data_config(graph.read_params(Path.cwd()))
    if folder is None and data.source in ("sample", "torchvision"):
        return Completed(name="Nothing to watch", message=f"no images arrive in data.source: {data.source}")
    paths = [images_path(folder)] if folder else all_paths(data)
    path, digest = paths[0], " ".join(map(files.listing_digest, paths))
    before = json.loads(STATE.read_text(encoding="utf-8")) if STATE.exists() else {}
    seen, now = news(digest, before), {"seen": digest, "run": before.get("run", digest)}
    left = before.get("left", 0)
    if seen == "same" and left and has_failed(before["started"]):
        seen, left = "again", left - 1
    elif seen == "changed":
        now["run"], left = digest, AGAIN
    if seen in ("changed", "again"):
        begun = run_deployment(deployment, timeout=0, as_subflow=False)
        why = "new images in" if seen == "changed" else "the run failed that was started for"
        get_run_logger().info("%s %s: started %s", why, path, begun.name)
        now["started"] = str(begun.id)
    files.write_json(STATE, {"started": before.get("started"), "left": left} | now)
    return Completed(name=seen.capitalize(), message=f"{path}: {seen}")


def main() -> None:
    """One look, by hand."""
    own_server.prepare()
    watch()


if __name__ == "__main__":
    run(main)
