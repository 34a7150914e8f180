"""Evidence that every method learns: the whole pipeline on 20,000 images of CIFAR-10, three seeds, into ``docs/evidence.md``.

``python -m benchmarks.evidence --images cifar10.tar.xz`` (a tar or zip with ``train/CLASS/*`` and ``test/CLASS/*``). It works
in a clone of this project's last commit: it first measures the shares that give every method the same time, then runs. 63
trainings and their evaluations take an hour and a half of one core with ``--seconds 45``. It can be interrupted: the same
command continues, with the shares it has. ``--even`` afterwards corrects those whose trainings took another time, and runs
these again. Another commit, or shares measured anew: another ``--work``.
"""

import argparse
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import label_free_study as study
from benchmarks.measure import machine
from ssl_core.catalogue import METHODS, load_class
from ssl_core.evaluation.comparison import Difference
from tasks import worth
from tasks.budget import three_digits
from tasks.leaderboard import percent
from tasks.results import load_results, ranked
from tasks.runtime import dataset, edited_yaml, files, params
from tasks.runtime.words import markdown
from tasks.verdict import judge

PRESET = Path("presets/evidence.yaml")
TABLE = Path("docs/evidence.md")
MEASURED = Path("budget.txt")
"""In the workspace: what each method's images cost, once the shares stand in its params.yaml."""
APART = 0.08
"""From which on a training's time is called another."""


def module(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m COMMAND`` in the workspace; its words go to the terminal, or come back."""
    wanted = subprocess.PIPE if command[0] == "tasks.budget" else None
    return subprocess.run([sys.executable, "-m", *command], cwd=directory, check=True, text=True, stdout=wanted)


def workspace(directory: Path, images: Path, seconds: float) -> None:
    """A clone of the project's committed state with the preset's parameters, the user's images, and equal times."""
    if (directory / MEASURED).exists():
        return
    if not (directory / ".git").is_dir():
        subprocess.run(["git", "clone", "--quiet", ".", str(directory)], check=True)
    text = PRESET.read_text().replace("path: cifar10.tar.xz", f"path: {images.resolve()}")
    files.write_text(directory / PRESET, text)
    module(directory, "tasks.preset", PRESET.stem)
    said = module(directory, "tasks.budget", "--seconds", f"{seconds:g}").stdout.splitlines()
    measured = "\n".join(line for line in said if " us an image " in line)
    files.write_text(directory / MEASURED, measured)
    print(measured)


def even_out(directory: Path) -> None:
    """Correct the shares of methods whose trainings took another time than most, by what they took; a run repeats those.

    What a few steps say of a cost is off where the machine did other work, or where steps late in a training cost more.
    """
    results, _ = load_results(directory)
    rows = [row for row in ranked(results) if row.mean("steps")]
    took = {row.method: seconds for row in rows if (seconds := row.mean("seconds"))}
    middle, said = statistics.median(took.values()), []

    def change(document: Any) -> None:
        for name, seconds in took.items():
            own = document["method"][name]["train"]
            if abs(seconds / middle - 1) > APART:
                before, own["epoch_share"] = own["epoch_share"], three_digits(own["epoch_share"] * middle / seconds)
                said.append(f"{name:12} took {seconds:.0f} s at share {before:g}: {own['epoch_share']:g} instead")

    path = directory / params.PARAMS
    params.write(edited_yaml.edit(params.text(path), change), path)
    files.write_text(directory / MEASURED, "\n".join([(directory / MEASURED).read_text(), *said]))
    print("\n".join(said))


def page(directory: Path, seconds: float) -> str:
    """The leaderboard with what it was made from."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=directory, capture_output=True, text=True, check=True)
    notes = (TABLE.parent / "evidence-notes.md").read_text()
    made = (
        f"Made by `python -m benchmarks.evidence --images cifar10.tar.xz --seconds {seconds:g}`; trainings and evaluations are "
        f"of commit {commit.stdout.strip()} with `{PRESET}` and the shares that `python -m tasks.budget` measured."
    )
    measured = (directory / MEASURED).read_text().rstrip()
    if " instead" in measured:
        made += " The same command with `--even` then corrected those at the end of the list."
    shares = ["", "```", measured, "```", ""]
    own = [f"- {METHODS[name].title}: {views}." for name in METHODS if (views := load_class(name).own_views)]
    views = ["", "Views of their own, which their papers ask for, instead of the common random crops:", "", *own, ""]
    board = (directory / "reports/leaderboard.md").read_text()
    return "\n".join(
        [notes.rstrip(), "", made, *shares, *machine(), *views, board, above_untrained(directory), without_labels(directory)]
    )


def above_untrained(directory: Path) -> str:
    """What each method adds to the untrained network, which the leaderboard compares with the best method only."""
    results, _ = load_results(directory)
    found = judge(results, next(result for result in results if result.method == "random_init"))
    table = [["method", "linear", "clear", "kNN", "clear"]]
    for row in found.rows:
        if row.method in METHODS:
            linear, knn = (opposite(found.standings[row.method].ahead[kind]) for kind in ("linear", "knn"))
            table.append([row.method, *cells(linear), *cells(knn)])
    said = (
        "Points above `random_init` on the same test images, with 95 % intervals over seeds and images. MAE trains a ViT"
        " (its own untrained values are above), CPC the same network with group normalization (untrained, that alone has some"
        " 4 points more by kNN and 2 less by linear probe: decision 9), the others the network that is `random_init`."
    )
    return f"# Above the untrained network\n\n{said}\n\n{markdown(table)}\n"


SHOWN = ("effective rank", "retrieval, mild", "retrieval, strong", "LiDAR")
"""Criteria that need no label: the health column's, the two that led in docs/label-free.md, and a published one."""


def without_labels(directory: Path) -> str:
    """What could be known of each method without labels, beside its score, and how badly it would have chosen."""
    results, _ = load_results(directory)
    images, ids = study.sample(dataset.load(directory / dataset.PREPARED))
    found: dict[str, list[dict[str, float]]] = {}
    truth: dict[str, list[float]] = {}
    for result in results:
        if result.method in METHODS:
            rank = float(result.metrics.health.effective_rank)
            path = directory / f"out/encoders/{result.method}-{result.seed}"
            found.setdefault(result.method, []).append(study.measured(path, images, ids, rank))
            truth.setdefault(result.method, []).append(float(result.metrics.score("linear_top1")))
    scores = [statistics.fmean(truth[name]) for name in found]
    columns = {key: [statistics.fmean(each[key] for each in found[name]) for name in found] for key in SHOWN}
    table = [["method", "linear", *SHOWN]]
    for number, name in enumerate(found):
        values = (f"{column[number]:.{1 if column[number] > 1 else 3}f}" for column in columns.values())
        table.append([name, percent(scores[number]), *values])
    outcomes = [study.outcome(column, scores) for column in columns.values()]
    table.append(["rank correlation with linear", "", *(f"{o.spearman:+.2f}" for o in outcomes)])
    table.append(["points lost by choosing with it", "", *(f"{100 * o.regret:.1f}" for o in outcomes)])
    said = (
        f"Criteria of {len(images):,} training images without their labels: of the last layer, on the same views for all"
        " ([label-free.md](label-free.md) says what they are, and why none of them names a champion). Means of the seeds."
    )
    return f"# Without labels\n\n{said}\n\n{markdown(table)}\n"


def opposite(found: Difference) -> Difference:
    """The second minus the first."""
    return replace(found, mean=-found.mean, low=-found.high, high=-found.low)


def cells(found: Difference) -> list[str]:
    """A difference, and whether chance is an unlikely reason for it."""
    return [worth.points(found), "yes" if found.is_clear else "no"]


def main() -> int:
    """Clone, run, write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="archive of CIFAR-10 as image files")
    parser.add_argument("--work", type=Path, default=Path(".ssl/evidence"), help="where to work (kept, to continue)")
    parser.add_argument("-j", "--jobs", type=int, help="stages at a time; default: as many as the cores carry")
    parser.add_argument("--seconds", type=float, default=90.0, help="of each training on one core")
    parser.add_argument("--even", action="store_true", help="of a run that ended: correct the shares by what trainings took")
    options = parser.parse_args()
    if options.even:
        even_out(options.work)
    workspace(options.work, options.images, options.seconds)
    jobs = [] if options.jobs is None else ["--jobs", str(options.jobs)]
    code = subprocess.run([sys.executable, "-m", "tasks.run", *jobs], cwd=options.work).returncode
    if not code:
        files.write_text(TABLE, page(options.work, options.seconds))
        print(f"written: {TABLE}")
    return code


if __name__ == "__main__":
    sys.exit(main())
