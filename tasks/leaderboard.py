"""The table of results as text: for a terminal, CSV and Markdown.

``python -m tasks.leaderboard`` prints it.
"""

import argparse
import html
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.evaluation.scores import Score
from tasks import starts, transfer, tuned
from tasks.cautions import guesses, learned_nothing, seed_note, verdict_text
from tasks.columns import BESIDE_ITS_START, COLUMNS, FEW_LABELS, HEALTH, PRETEXT, VERDICT, safe_cell, table_scores
from tasks.conclusions import sentences, worth_it
from tasks.results import Result, Row, known, load_results, up_to_date
from tasks.runtime import errors
from tasks.runtime.words import duration, few, markdown
from tasks.tracking import loading
from tasks.verdict import Standing, Verdict, judge

if TYPE_CHECKING:
    import pandas as pd


def to_csv(verdict: Verdict, several: transfer.Transfer | None = None) -> str:
    """One line per method and seed, in rank order, every number in full; with the scores on further sets of images."""
    import pandas as pd

    lines = [
        [safe_cell(result.get(column)) for column in COLUMNS]
        + beside_the_best(verdict.standings[row.method])
        + beside_its_start(verdict.standings[row.method], result)
        + [verdict_text(row, verdict.standings[row.method])]
        + list(several.columns(result).values() if several else ())
        for row in verdict.rows
        for result in row.results
    ]
    own = [HEALTH if column == VERDICT else column for column in COLUMNS]
    columns = [*own, *BESIDE_THE_BEST, *BESIDE_ITS_START, VERDICT]
    columns += several.columns(verdict.rows[0].best) if several else ()
    return pd.DataFrame(lines, columns=columns, dtype=object).to_csv(index=False, lineterminator="\n")


BESIDE_THE_BEST = ("tied_with_best", "behind_best", "behind_best_low", "behind_best_high", "behind_best_p")
"""Of all seeds of a method together: whether it cannot be told from the best method, by linear probe or by a few labels, and
by how much the best is ahead, with the 95 % interval and the p of the paired comparison. Empty for the best itself."""


def beside_the_best(standing: Standing) -> list[Any]:
    """The values of ``BESIDE_THE_BEST``."""
    ahead = standing.behind
    return ["yes" if standing.ties else "", ahead.mean, ahead.low, ahead.high, ahead.p] if ahead else [""] + [None] * 4


def beside_its_start(standing: Standing, result: Result) -> list[Any]:
    """The values of ``BESIDE_ITS_START``."""
    return [standing.gains.get(result.name), starts.WORSE if result.name in standing.below_start else ""]


def percent(value: float | None, spread: float | None = None) -> str:
    """0.7213 -> ``72.1``, with ``± 0.4`` if there is a spread: not where all seeds are the same; absent -> a dash."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + ("" if not spread else f" ± {100 * spread:.1f}")


def text(score: Score, row: Row) -> str:
    """A score of one method for people: the mean over its seeds; of verdicts the worst, of other words the best seed's."""
    if score.form == "text":
        return row.verdict if score.name == "verdict" else row.best.get(score.name) or "–"
    mean, spread = row.mean(score.name), row.std(score.name)
    if score.form == "share":
        return percent(mean, spread)
    return "–" if mean is None else f"{mean:,.{score.digits}f}"


def cells(row: Row, standing: Standing) -> dict[str, str]:
    """The texts of one line of the short table; a dash where there is no number."""
    line = {"method": row.method + (" *" if row.is_baseline else "")}
    for score in table_scores():
        if score.name == "verdict":
            line["verdict"] = verdict_text(row, standing)
            continue
        judged = score.name in ("linear_top1", FEW_LABELS.name) and row.mean(score.name) is not None
        tie = " =" if judged and standing.ties else ""
        line[f"{score.short or score.title}{' %' if score.form == 'share' else ''}"] = text(score, row) + tie
        if score.name == "linear_top1":
            interval = standing.intervals.get("linear")
            line["interval"] = f"{percent(interval[0])}–{percent(interval[1])}" if interval else "–"
    epochs, steps = row.best.training.epochs, row.best.training.steps
    line |= {"epochs": f"{epochs:,}" if epochs else "–", "steps": f"{steps:,}" if steps else "–"}
    return line | {"time": duration(row.mean("seconds"))}


def table(verdict: Verdict) -> "pd.DataFrame":
    """The short table: a line for each method, best first, without the columns that hold no number at all."""
    import pandas as pd

    found = pd.DataFrame([cells(row, verdict.standings[row.method]) for row in verdict.rows])
    return found.loc[:, (found != "–").any()]


def to_markdown(verdict: Verdict) -> str:
    """The short table for GitHub and for people."""
    found = table(verdict)
    escaped = found.map(lambda cell: html.escape(cell).replace("|", "\\|").replace("`", "\\`").replace("*", "\\*"))
    shown = markdown([list(found), *escaped.to_numpy()])
    said = "\n".join(f"- {html.escape(sentence, quote=False)}" for sentence in [*worth_it(verdict), *sentences(verdict)])
    notes = "\n".join(f"- {line.replace('* baseline', '`*` baseline')}" for line in footnote(verdict).splitlines())
    return "\n\n".join(part for part in ("# Leaderboard", said, shown, notes) if part) + "\n"


def to_text(verdict: Verdict) -> str:
    """The short table for a terminal."""
    found = table(verdict).set_index("method").rename_axis(index=None, columns="method")
    return found.to_string(col_space=[len(title) for title in found]) + f"\n\n{footnote(verdict)}"


def footnote(verdict: Verdict) -> str:
    """How to read the table."""
    results = [result for row in verdict.rows for result in row.results]
    by_few = known(results, FEW_LABELS.name)
    first, notes = "Without labels to choose by: not sorted, for no indicator tells which encoder is best", ["* baseline"]
    if by_few:
        first = "Sorted by how much of the few labels a regression on the other ones predicts (leave-one-out R2), which chooses"
    if known(results, "holdout_linear_top1"):
        tested = "; kNN and linear are test scores" if known(results, "linear_top1") else ""
        first = f"Sorted by the held-out linear score, which chooses{tested}"
    if any(standing.ties for standing in verdict.standings.values()):
        how = "by these labels" if by_few else "by linear probe (paired test on the same images)"
        notes.append(f"= not told from the best method {how}")
    several = spread(verdict.rows)
    if several:
        notes.append(several)
    if any(standing.intervals for standing in verdict.standings.values()):
        notes.append(f"95 % interval over {'seeds and ' if several else ''}test images")
    if any(standing.answer for standing in verdict.standings.values()):
        which = "these" if by_few else "held-out"
        test = "" if by_few or not known(results, "linear_top1") else ", and worth it only where the test agrees"
        how_many = "" if by_few else " with all labels"
        notes.append(f"verdict{how_many}: against the best baseline that needs no training, by {which} labels{test}")
    notes += sorted({f"scores are of {r.metrics.protocol['judged']}" for r in results if "judged" in r.metrics.protocol})
    if known(results, PRETEXT.name):
        chances = {r.method: r.get("pretext_chance") for r in results if r.get("pretext_chance") is not None}
        guessing = f" (guessing: {', '.join(f'{m} {percent(chance)} %' for m, chance in chances.items())})" if chances else ""
        notes.append(f"pretext: share right in the method's own task in the last epoch{guessing}")
    lines = (f"{first}.", "; ".join(notes), seed_note(verdict.rows), edge_note(results), supervised_note(results))
    return "\n".join(line for line in (*lines, *warnings(results)) if line)


def spread(rows: Sequence[Row]) -> str:
    """What a ± in the table is; empty where there is none."""
    seeds, several = len({r.seed for row in rows for r in row.results if r.kept}), [r for r in rows if len(r.results) > 1]
    if not several:
        return ""
    more = {r.method: len(r.results) for r in rows if seeds > 1 and len(r.results) > seeds}
    of = f"{seeds} seeds" if seeds > 1 else f"the {len(several[0].results)} seeds of {several[0].method}"
    return f"mean ± standard deviation of {of}{''.join(f' ({m}: {n})' for m, n in more.items())}"


def edge_note(results: Sequence[Result]) -> str:
    """Choices whose grid should be wider; empty if there are none."""
    edges = [f"{' and '.join(edge)} of {r.name}" for r in results if (edge := r.metrics.protocol.get("edge_of_grid"))]
    return f"At the edge of the grid, even widened: {', '.join(edges)}." if edges else ""


def warnings(results: Sequence[Result]) -> list[str]:
    """The alarms that methods raised in their last epoch, and those that learned nothing, a sentence each."""
    return [f"{r.name}: {text}." for r in results for text in r.training.warnings] + learned_nothing(results)


def supervised_note(results: Sequence[Result]) -> str:
    """What to know about the supervised row; empty if there is none."""
    if all(r.method != "supervised" for r in results):
        return ""
    if known(results, "epochs") and not any(r.training.epochs for r in results if r.method == "supervised"):
        return "The supervised encoder is an untrained one here: there are no labels of the images that it would be trained on."
    if not known(results, "holdout_linear_top1"):
        return "The supervised encoder was trained with the labels that the images have, which are too few to score by."
    return (
        "The supervised encoder was trained with all the labels, the held-out ones too: that flatters its held-out score and"
        " its scores with few labels, not those on the test with all of them."
    )


def show(root: Path, out_of_date: Collection[str] = (), anyway: bool = False, heading: str = "") -> None:
    """Print the table, what it says, what is missing, where the report is, how to load the best encoder, and last whether
    training was worth it.

    Args:
        out_of_date: stages whose outputs are of other parameters or images than those of now: no row is made of them.
        anyway: show all rows where none is up to date, as in an earlier commit that was checked out, after a line that says so.
        heading: what stands above, where there is anything to show.
    """
    results, missing = load_results(root)
    current = up_to_date(results, out_of_date)
    if anyway and results and not current:
        print(
            "No row below is up to date: images, parameters or code are others now, or files are missing; make run mends that."
        )
        current, out_of_date = results, {"register"}.intersection(out_of_date)
    old = sorted({r.name for r in results if r.kept} - {r.name for r in current})
    if old:
        print(f"Not in this table, for they are out of date: {few(old)}; make run brings them up to date.")
    if not current:
        return
    if heading:
        print(heading)
    results = current
    verdict = judge(results)
    print("\n".join([to_text(verdict), "", *sentences(verdict)]).rstrip())
    if missing:
        print(f"not evaluated yet: {', '.join(missing)}")
    if (root / "reports/report.html").exists():
        print(f"report: {root / 'reports/report.html'}")
    stands = "register" not in out_of_date
    if verdict.champion:
        print(loading.how_to_load(root, verdict.champion.name, title(verdict), current=stands))
    elif example := example_encoder(verdict):
        by_method = "each encoder by the name of its method, for instance"
        print(loading.how_to_load(root, example.name, by_method, example.method, current=stands))
    if verdict.instead:
        print(loading.how_to_load_folder(root, verdict.instead.name, instead_title(verdict)))
    elif not verdict.champion:
        for row in verdict.shelf:
            print(loading.how_to_load_folder(root, row.best.name, starts.where_from(row.best)))
    others = sorted(name for name in out_of_date if name.startswith(("evaluate_task", "finetune")))
    if others:
        print(f"In no table below, for they are not up to date: {few(others)}; make run makes them, or says why it cannot.")
    several = transfer.load(root, out_of_date)
    if several and several.tasks:
        print(f"\n{transfer.to_text(several)}\n")
    for tuning in tuned.load_all(root, out_of_date):
        print(f"{tuned.to_text(tuning)}\n")
    for line in worth_it(verdict):
        print(line)


def example_encoder(verdict: Verdict) -> Result | None:
    """An encoder to show how one loads where none is champion, one that learned if there is any; None where all have
    collapsed."""
    sound = [row.best for row in verdict.rows if not row.is_baseline and not row.best.is_collapsed]
    return min(sound, key=guesses, default=None)


def instead_title(verdict: Verdict) -> str:
    """What the encoder is called that was there before and is to be used instead of the best method's."""
    ahead = verdict.standings[verdict.instead.method].behind if verdict.instead else None
    return (
        f"{starts.where_from(verdict.instead)}, and {'better' if ahead and ahead.is_clear and ahead.mean < 0 else 'no worse'}"
    )


BEST = "best encoder"
"""What the champion is called where nothing is to be said against it."""


def title(verdict: Verdict) -> str:
    """What the champion is called above the lines that load it."""
    if not verdict.in_doubt:
        return BEST
    if verdict.champion is None or not verdict.champion.is_baseline:
        return "best of the methods, not to be used yet"
    return "what training started from" + (", and not the one to use" if verdict.instead else "")


def main() -> None:
    """The command: what the results say that are up to date; all of them, where none is."""
    argparse.ArgumentParser(prog="python -m tasks.leaderboard", description="The table of results.").parse_args()
    from tasks.dvc import graph  # DVC, which the report does not need
    from tasks.dvc.schedule import Schedule

    out_of_date: Collection[str] = ()
    if Path(".dvc").is_dir():
        out_of_date = Schedule(graph.plan(Path.cwd())).out_of_date
    show(Path(), out_of_date, anyway=True)


if __name__ == "__main__":
    errors.run(main)
