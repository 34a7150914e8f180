"""The flow ``watch-data``: when images arrived in the data folder, start the pipeline.

A tick compares a digest of names, sizes and times with the last one: no file is opened. Files that are still arriving are
waited for: two ticks in a row must see the same folder.
"""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.deployments import run_deployment
from prefect.states import Completed

from tasks import files, graph

STATE = Path(".ssl") / "watch.json"


def listing_digest(folder: Path) -> str:
    """Digest of every regular file's relative path, size and modification time; links are not followed."""
    lines = []
    for directory, _, names in os.walk(folder):
        for name in names:
            path = Path(directory) / name
            try:
                facts = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(facts.st_mode):
                lines.append(f"{path.relative_to(folder)!s}\0{facts.st_size}\0{facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def verdict(digest: str, before: dict[str, str]) -> str:
    """``first`` look, ``same`` as what was last run on, still ``arriving``, or ``changed`` and settled."""
    if not before:
        return "first"
    if digest == before["run"]:
        return "same"
    return "changed" if digest == before["seen"] else "arriving"


@flow(name="watch-data", persist_result=False)
def watch(folder: str | None = None, deployment: str = "ssl-pipeline/nightly") -> Any:
    """One look at the data folder.

    Args:
        folder: where images arrive; default ``data.path`` of params.yaml.
        deployment: what to start when something changed.
    """
    path = folder or graph.read_params(Path.cwd())["data"]["path"]
    if path is None:
        return Completed(name="Nothing to watch", message="params.yaml has no data.path")
    if not Path(path).is_dir():
        raise FileNotFoundError(f"{path} is not a folder; set data.path in params.yaml")
    digest = listing_digest(Path(path))
    before = json.loads(STATE.read_text()) if STATE.exists() else {}
    seen = verdict(digest, before)
    if seen == "changed":
        started = run_deployment(deployment, timeout=0, as_subflow=False)
        get_run_logger().info("new images in %s: started %s", path, started.name)
    ran = digest if seen in ("first", "changed") else before["run"]
    files.write_json(STATE, {"seen": digest, "run": ran})
    return Completed(name=seen.capitalize(), message=f"{path}: {seen}")


if __name__ == "__main__":
    watch()
