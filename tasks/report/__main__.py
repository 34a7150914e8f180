"""The command of the stage: ``python -m tasks.report``."""

import time
from pathlib import Path

from tasks.report import page
from tasks.results import champion, load_results
from tasks.runtime import dataset
from tasks.runtime.stage import Stage, main
from tasks.runtime.stage_name import StageName
from tasks.tracking.journal import Journal

HEADLINE = ("holdout_linear_top1", "linear_top1", "knn_top1", "effective_rank")
"""The champion's numbers that the report's run carries in MLflow: a comparison of all runs shows what all have."""


def body(run: Stage) -> None:
    """The stage: the report, and the journal that makes it the parent of the runs it compares."""
    started, root = time.monotonic(), Path()
    results, missing = load_results(root)
    data, best = dataset.load(root / dataset.PREPARED), champion(results)
    with Journal(run.work / "journal.jsonl", position=0) as log:
        facts = {"name": data.meta["name"], "sha256": data.sha256}
        tags = {"dataset": data.meta["name"], "data_sha256": data.sha256, "champion": best.name if best else "none"}
        names = [result.name for result in results]
        log.start(
            fingerprint=run.fingerprint,
            stage=run.full_name,
            name="pipeline",
            seed=None,
            tags=tags,
            params={},
            data=facts,
            children=names,
        )
        texts = page.documents(root, results, missing)
        for name in texts:
            log.artifact(Path("reports") / name, "report")
        if best:
            scores = {f"eval/{column}": value for column in HEADLINE if (value := best.get(column)) is not None}
            log.metrics(0, scores)
        log.end("FINISHED", cost={"report_seconds": time.monotonic() - started})
        page.publish(texts | {"journal.jsonl": log.path.read_text()}, run.out("reports"))


if __name__ == "__main__":
    main(lambda: (Stage(StageName("report")), body))
