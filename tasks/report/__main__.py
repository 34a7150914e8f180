"""The command of the stage: ``python -m tasks.report``."""

import time
from pathlib import Path

from tasks import starts, transfer, tuned
from tasks.columns import FEW_LABELS, HEADLINES
from tasks.conclusions import sentences, worth_it
from tasks.report import page, small
from tasks.results import load_results
from tasks.runtime import dataset, files
from tasks.runtime.stage import Stage, main
from tasks.runtime.stage_name import StageName
from tasks.tracking.journal import Journal
from tasks.verdict import judge


def body(run: Stage) -> None:
    """The stage: the report, and the journal that makes it the parent of the runs it compares."""
    started, root = time.monotonic(), Path()
    results, missing = load_results(root)
    verdict, several = judge(results), transfer.load(root)
    data, best = dataset.load(root / dataset.PREPARED), verdict.champion
    with Journal(run.work / "journal.jsonl", position=0) as log:
        facts = {"name": data.meta["name"], "sha256": data.sha256}
        said = "\n\n".join([*worth_it(verdict), *sentences(verdict)])
        tags = {"dataset": data.meta["name"], "data_sha256": data.sha256, "champion": best.name if best else "none"}
        tags |= {"description": said} if said else {}
        beside = verdict.standings.values()
        tags |= {f"standing.{name}": starts.WORSE for standing in beside for name in standing.below_start}
        names = [result.name for result in results if result.kept]
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
        texts = page.documents(root, verdict, missing)
        tables = small.plots(root, verdict)
        for folder, names, shown in (("reports", texts, "report"), ("out/plots", tables, "plots")):
            for name in names:
                log.artifact(Path(folder) / name, shown)
        if best:
            # Of the champion: what all runs have, so that MLflow can compare this one with them.
            scores = {f"eval/{score.name}": best.get(score.name) for score in HEADLINES if score.form != "text"}
            log.metrics(0, {name: value for name, value in scores.items() if value is not None})
        log.metrics(0, {f"{FEW_LABELS.name}/{result.name}": result.few.explained for result in results if result.few})
        if several:
            log.metrics(0, {f"{transfer.RANK}/{method}": rank for method, rank in several.ranks})
        log.metrics(0, {f"over_start/{name}": gain for standing in beside for name, gain in standing.gains.items()})
        log.end("FINISHED", cost={"report_seconds": time.monotonic() - started})
        page.publish(texts | {"journal.jsonl": log.path.read_text(encoding="utf-8")}, run.out("reports"))
    for name, numbers in small.scores(verdict, tuned.load(root), several).items():
        files.write_json(run.out("out/scores") / f"{name}.json", numbers)
    for name, table in tables.items():
        files.write_text(run.out("out/plots") / name, table)


if __name__ == "__main__":
    main(lambda: (Stage(StageName("report")), body))
