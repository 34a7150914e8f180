"""The table of results as text: for a terminal, CSV and Markdown.

``python -m tasks.leaderboard`` prints it.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.evaluation.scores import Score
from tasks.columns import COLUMNS, PRETEXT, table_scores
from tasks.results import Result, Row, champion, known, load_results, ranked
from tasks.runtime import errors
from tasks.tracking import registered

if TYPE_CHECKING:
    import pandas as pd


def safe_cell(value: Any) -> Any:
    """A CSV cell that is one line and that no spreadsheet runs as a formula: text that starts with = + - @ gets a quote."""
    if not isinstance(value, str):
        return value
    text = re.sub(r"\s+", " ", value).strip()
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def to_csv(results: Sequence[Result]) -> str:
    """One line per method and seed, in rank order, every number in full."""
    import pandas as pd

    lines = [[safe_cell(result.get(column)) for column in COLUMNS] for row in ranked(results) for result in row.results]
    return pd.DataFrame(lines, columns=list(COLUMNS), dtype=object).to_csv(index=False, lineterminator="\n")


def percent(value: float | None, spread: float | None = None) -> str:
    """0.7213 -> ``72.1``, with ``± 0.4`` if there is a spread; absent -> a dash."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def duration(seconds: float | None) -> str:
    """Seconds in the unit a person would use."""
    if seconds is None:
        return "–"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.{0 if seconds / size >= 10 else 1}f} {unit}"
    return f"{seconds / 86400:.1f} d"


def text(score: Score, row: Row) -> str:
    """A score of one method for people: the mean over its seeds; of verdicts the worst, of other words the best seed's."""
    if score.form == "text":
        return row.verdict if score.name == "verdict" else row.best.get(score.name) or "–"
    mean, spread = row.mean(score.name), row.std(score.name)
    if score.form == "share":
        return percent(mean, spread)
    return "–" if mean is None else f"{mean:,.{score.digits}f}"


def cells(row: Row) -> dict[str, str]:
    """The texts of one line of the short table; a dash where there is no number."""
    line = {"method": row.method + (" *" if row.is_baseline else "")}
    for score in table_scores():
        line[f"{score.short or score.title}{' %' if score.form == 'share' else ''}"] = text(score, row)
        if score.name == "linear_top1":
            interval = row.best.metrics.interval("linear")
            line["95 % interval"] = f"{percent(interval[0])} to {percent(interval[1])}" if interval else "–"
    speed = row.mean("images_per_second")
    return line | {"time": duration(row.mean("seconds")), "images/s": f"{speed:,.0f}" if speed else "–"}


def table(results: Sequence[Result]) -> "pd.DataFrame":
    """The short table: a line for each method, best first, without the columns that hold no number at all."""
    import pandas as pd

    found = pd.DataFrame([cells(row) for row in ranked(results)])
    return found.loc[:, (found != "–").any()]


def to_markdown(results: Sequence[Result]) -> str:
    """The short table for GitHub and for people."""
    found = table(results)
    escaped = found.map(lambda cell: html.escape(cell).replace("|", "\\|").replace("`", "\\`").replace("*", "\\*"))
    lines = [list(found), ["---"] * len(found.columns), *escaped.to_numpy()]
    return "# Leaderboard\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{footnote(results)}\n"


def to_text(results: Sequence[Result]) -> str:
    """The short table for a terminal."""
    found = table(results).set_index("method").rename_axis(index=None, columns="method")
    return found.to_string(col_space=[len(title) + 1 for title in found]) + f"\n\n{footnote(results)}"


def footnote(results: Sequence[Result]) -> str:
    """How to read the table."""
    seeds = len({r.seed for r in results})
    first, notes = "Without labels: sorted by effective rank, the higher the more directions the features use", ["* baseline"]
    if known(results, "holdout_linear_top1"):
        tested = "; kNN and linear are test scores" if known(results, "linear_top1") else ""
        first = f"Sorted by the held-out linear score, which chooses{tested}"
    if seeds > 1:
        notes.append(f"mean ± standard deviation of {seeds} seeds, interval of the best of them")
    if known(results, PRETEXT.name):
        notes.append("pretext: share right in the method's own task in the last epoch")
    return "\n".join(line for line in (f"{first}.", "; ".join(notes), supervised_note(results), *warnings(results)) if line)


def warnings(results: Sequence[Result]) -> list[str]:
    """The alarms that methods raised in their last epoch, a sentence each."""
    return [f"{r.name}: {text}." for r in results for text in r.training.warnings]


def supervised_note(results: Sequence[Result]) -> str:
    """What to know about the supervised row; empty if there is none."""
    if all(r.method != "supervised" for r in results):
        return ""
    if not known(results, "holdout_linear_top1"):
        return "The supervised encoder is an untrained one here: there are no labels."
    return (
        "The supervised encoder was trained on the held-out labels too: that flatters its held-out score, not its test scores."
    )


def show(root: Path) -> None:
    """Print the table, what is missing, where the report is and how to load the best encoder."""
    results, missing = load_results(root)
    print(to_text(results))
    if missing:
        print(f"not evaluated yet: {', '.join(missing)}")
    if (root / "reports/report.html").exists():
        print(f"report: {root / 'reports/report.html'}")
    best = champion(results)
    if best:
        print(registered.how_to_load(root, best.name))


if __name__ == "__main__":
    errors.run(lambda: show(Path()))
