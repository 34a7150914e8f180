"""Is training worth it, and from where? Anew and on from ImageNet weights against not training at all, into ``docs/worth.md``.

``python -m benchmarks.worth --cifar10 cifar10.tar.xz --tiles magnetic-tiles.tar.xz`` (``--cifar10``: a tar or zip with
``train/CLASS/*`` and ``test/CLASS/*``; ``--tiles``: one with ``*/CLASS/*``; the embedded images are always taken). It works in
clones of this project's last commit, one for each set of images: SimCLR is trained twice, with the same seconds of one core and
three seeds, and the verdicts are those that ``make run`` prints. Trainings that took another time than planned, for other work
came between or the forecast was wrong, are done again with as many images as fit. It can be interrupted: the same command
continues. The page is written after each set of images.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import machine
from tasks import starts, worth
from tasks.leaderboard import percent
from tasks.results import Result, Row, load_results
from tasks.runtime import files
from tasks.runtime.words import markdown
from tasks.verdict import judge

PAGE = Path("docs/worth.md")
METHOD, SEEDS, SIDE = "simclr", (0, 1, 2), 64
ROWS = ("raw_pixels", "pretrained")
EQUAL, ATTEMPTS = 0.1, 3
"""Share of the planned time that trainings may be off, and how often they are done until they are not."""
NETWORK = {"name": "timm/tf_efficientnet_lite0", "weights": "package", "input_size": SIDE}
CONTINUED = {"lr": 0.1, "warmup": 0.2, "frozen_blocks": 4, "frozen_norm": True, "average": 0.9}
WAYS: Mapping[str, Mapping[str, Any]] = {
    "anew": {},
    "from ImageNet weights": {"encoder": {**NETWORK, "continued": CONTINUED}, "train": {"batch_size": 64}},
}
EMBEDDED = {"max_train": 4000, "max_test": 2000}
CIFAR10 = {"source": "archive", "name": "CIFAR-10", "image_size": 32, "channels": 3, "max_train": 4000, "max_test": 2000}
TILES = {"source": "archive", "name": "magnetic tiles", "image_size": 64, "channels": 1}


def module(directory: Path, *command: str) -> str:
    """Run ``python -m COMMAND`` in a workspace; what it prints, unless it is the run itself, which talks to the terminal."""
    wanted = None if command[0] == "tasks.run" else subprocess.PIPE
    done = subprocess.run([sys.executable, "-m", *command], cwd=directory, check=True, text=True, stdout=wanted)
    return done.stdout or ""


def configure(directory: Path, data: Mapping[str, Any], way: str, images: int | None = None) -> None:
    """Write the parameters of one way into the workspace."""
    own, budget = WAYS[way], {"epoch_share": 1.0} | ({"images": images} if images else {})
    values: dict[str, Any] = {
        "run": {"methods": [METHOD, *ROWS], "seeds": list(SEEDS)},
        "data": dict(data),
        "method": {METHOD: {**own, "train": budget | own.get("train", {})}, "pretrained": {"encoder": NETWORK}},
    }
    files.write_text(directory / "presets/worth.yaml", yaml.safe_dump(values))
    module(directory, "tasks.preset", "worth")


def train(directory: Path, data: Mapping[str, Any], way: str, seconds: float, jobs: int | None) -> None:
    """Prepare, measure what an image costs, and run with as many images as fit into ``seconds`` of one core."""
    configure(directory, data, way)
    module(directory, "tasks.prepare")
    images = seconds / json.loads(module(directory, "tasks.budget", "--measure", METHOD))["per_image"]
    for _ in range(ATTEMPTS):
        configure(directory, data, way, max(1, round(images)))
        module(directory, "tasks.run", "evaluate", *([] if jobs is None else ["--jobs", str(jobs)]))
        took = mean_seconds(load_results(directory)[0])
        if abs(took / seconds - 1) <= EQUAL:
            return
        images *= seconds / took
    sys.exit(f"error: {way}, the trainings took {took:.0f} s instead of {seconds:g}; is there other work on the machine?")


def mean_seconds(results: Sequence[Result]) -> float:
    """Of a training, over the seeds."""
    return statistics.mean(r.training.seconds or 0.0 for r in results if r.method == METHOD)


def collect(directory: Path) -> dict[str, Any]:
    """Scores of every row, the verdict, and how each training stands beside its start."""
    results, _ = load_results(directory)
    verdict = judge(results)
    trained = [result for result in results if result.method == METHOD]
    return {
        "scores": {row.method: score(row) for row in verdict.rows},
        "images": trained[0].training.recipe["images"],
        "steps": trained[0].training.steps,
        "seconds": mean_seconds(results),
        "answer": worth.answer(verdict.budgets),
        "worse": sum(starts.standing(result, results) is not None for result in trained),
        "budgets": [
            {
                "labels": budget.labels,
                "over": worth.noun(budget.over),
                "answer": str(budget.answer),
                "held out": worth.points(budget.held_out),
                "test": worth.points(budget.test) if budget.test else "–",
                "check": budget.check,
                "clear": budget.held_out.is_clear,
            }
            for budget in verdict.budgets
        ],
    }


def score(row: Row) -> str:
    """Mean and spread over the seeds of the linear probe on the test images; a row without a seed of its own has no spread."""
    spread = row.std("linear_top1")
    return percent(row.mean("linear_top1"), spread or None)


def page(found: Mapping[str, Mapping[str, Any]], work: Path, seconds: float) -> str:
    """What ``docs/worth.md`` holds, of what was collected by data set and way."""
    shown = next(work.glob("*/.git")).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=shown, capture_output=True, text=True, check=True)
    scores = [
        (
            name,
            of["anew"]["scores"],
            [f"{w['scores'][METHOD]} ({w['steps']:,} steps, {w['seconds']:.0f} s)" for w in of.values()],
            of,
        )
        for name, of in found.items()
    ]
    table = [["images", *ROWS, *(f"{METHOD} {way}" for way in WAYS), "worse than its start"]]
    table += [[n, *(s[r] for r in ROWS), *own, f"{of[[*WAYS][1]]['worse']} of {len(SEEDS)}"] for n, s, own, of in scores]
    every = [(name, way, b) for name, of in found.items() for way, w in of.items() for b in w["budgets"]]
    keys = ("labels", "over", "held out", "answer", "test", "check")
    verdicts = [["images", "training", "labels", "against", "held-out points", "verdict", "test points", "the test says"]]
    verdicts += [[name, way, *(b[key] for key in keys)] for name, way, b in every]
    notes = (PAGE.parent / "worth-notes.md").read_text().rstrip()
    command = f"python -m benchmarks.worth --cifar10 cifar10.tar.xz --tiles magnetic-tiles.tar.xz --seconds {seconds:g}"
    made = f"Made by `{command}` at commit {commit.stdout.strip()}."
    said = [f"- {name}, {way}: {w['answer']}" for name, of in found.items() for way, w in of.items()]
    first = (
        "Linear probe on the test images in percent, mean and deviation of three seeds; the seconds are those of a training."
    )
    parts = [notes, "\n".join([made, *machine()]), "## Scores", first, markdown(table), "## Verdicts"]
    parts += ["\n".join(said), markdown(verdicts), agreement([b for *_, b in every])]
    return "\n\n".join(parts) + "\n"


def agreement(budgets: list[dict[str, Any]]) -> str:
    """How often the test said what the held-out labels had said, of the verdicts that were clear."""
    clear = [b for b in budgets if b["clear"]]
    said = Counter(b["check"].partition(":")[0] for b in clear)
    words = ", ".join(f"{kind} in {count}" for kind, count in said.most_common())
    first = f"Of {len(budgets)} verdicts {len(clear)} were clear on the held-out labels."
    return f"{first} Of these the test says: {words or 'nothing'}."


def main() -> None:
    """Clone, train, collect, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worth", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cifar10", type=Path, help="archive of CIFAR-10 as image files")
    parser.add_argument("--tiles", type=Path, help="archive of the magnetic tiles")
    parser.add_argument("--work", type=Path, default=Path(".ssl/worth"), help="where to work (kept, to continue)")
    parser.add_argument("-j", "--jobs", type=int, help="stages at a time; default: as many as the cores carry")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each training on one core")
    options = parser.parse_args()
    archives = {"CIFAR-10": (CIFAR10, options.cifar10), "magnetic tiles": (TILES, options.tiles)}
    sets = {"embedded": EMBEDDED} | {
        name: {**data, "path": str(path.resolve())} for name, (data, path) in archives.items() if path
    }
    found: dict[str, dict[str, Any]] = {}
    for name, data in sets.items():
        directory = options.work / name.replace(" ", "-")
        if not (directory / ".git").is_dir():
            subprocess.run(["git", "clone", "--quiet", ".", str(directory)], check=True)
        for way in WAYS:
            kept = directory / f".ssl/{way.replace(' ', '-')}.json"
            if not kept.exists():
                train(directory, data, way, options.seconds, options.jobs)
                files.write_json(kept, collect(directory))
            found.setdefault(name, {})[way] = files.read_json(kept)
        files.write_text(PAGE, page(found, options.work, options.seconds))
        print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
