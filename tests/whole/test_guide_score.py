"""The guide to adding a score, followed to the letter in a copy of the project: three files, and it stands everywhere."""

import csv
import json
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

from tests.conftest import ROOT
from tests.support.project import command, environment, training_project

SMALL = {
    "run": {"methods": ["simclr"]},
    "train": {"epochs": 1},
    "evaluate": {"label_fractions": [], "linear_lambdas": 2, "bootstrap": 40},
}
RUN = """
import json
import runpy
import sys
from pathlib import Path
import pytest
from tasks.register.registration import entry
from tasks.results import load_results
from tasks.runtime import files

for command in (["tasks.pretrain", "simclr", "0"], ["tasks.evaluate", "simclr", "0"], ["tasks.report"]):
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__")
(result,), _ = load_results(Path())
made = entry(Path(), result, files.read_json(Path("data/prepared/meta.json")))
Path("entry.json").write_text(json.dumps({"card": made.card, "tags": dict(made.tags)}))
raise SystemExit(pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", "tests/ssl_core/evaluation/test_retrieval.py"]))
"""


def follow(project: Path) -> None:
    """Steps 1 to 3."""
    guide = (ROOT / "docs/adding-a-score.md").read_text()
    function, entry, field, number, test = re.findall(r"```(?:python|yaml)\n(.*?)```", guide, re.S)
    scores, params = project / "ssl_core/evaluation/scores.py", project / "params.yaml"
    text = scores.read_text()
    for place, added in (
        ("\n\n@dataclass(frozen=True, kw_only=True)\nclass Tested", textwrap.indent(field, "    ")),
        ("SCORES = (", f"{function}\n\n"),
        (")  # fmt: skip", re.search(r"# the others\n(.*)\)\n", entry, re.S)[1]),
    ):
        assert text.count(place) == 1
        text = text.replace(place, added + place)
    scores.write_text(text)
    params.write_text(re.sub(r"(?m)^(  bootstrap: .*\n)", rf"\1{number}", params.read_text()))
    (project / "tests/ssl_core/evaluation/test_retrieval.py").write_text(test)


def content(project: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {p.relative_to(project).as_posix(): p.read_bytes() for p in project.rglob("*") if p.is_file()}


def test_the_worked_example_touches_three_files_and_stands_everywhere(tmp_path: Path) -> None:
    project = training_project(tmp_path / "p", **SMALL)
    shutil.copytree(ROOT / "tests", project / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    before = content(project)
    follow(project)
    after = content(project)
    touched = sorted(name for name in after if before.get(name) != after[name])
    assert touched == ["params.yaml", "ssl_core/evaluation/scores.py", "tests/ssl_core/evaluation/test_retrieval.py"]

    result = command(project, "-c", RUN)
    assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout + result.stderr
    value = json.loads((project / "out/metrics/simclr-0.json").read_text())["retrieval"]
    assert 0 < value < 1
    (line,) = csv.DictReader((project / "reports/leaderboard.csv").open())
    assert float(line["retrieval"]) == value
    assert "| retrieval % |" in (project / "reports/leaderboard.md").read_text()
    page = (project / "reports/report.html").read_text()
    assert '<th scope="col">retrieval</th>' in page
    assert f'<td data-of="retrieval %">{100 * value:.1f}</td>' in page
    assert metrics(project / "out/journal/evaluate-simclr-0.jsonl")["retrieval"] == value
    assert metrics(project / "reports/journal.jsonl")["eval/retrieval"] == value
    entry = json.loads((project / "entry.json").read_text())
    assert f"| test images of the same class among the nearest | {value:.4f} | higher |" in entry["card"]
    assert entry["tags"]["retrieval"] == value
    ruff = shutil.which("ruff", path=environment()["PATH"]) or "ruff"
    for mode in (["check"], ["format", "--check"]):
        assert (
            subprocess.run([ruff, *mode, "--config", str(ROOT / "pyproject.toml"), *touched[1:]], cwd=project).returncode == 0
        )


def metrics(journal: Path) -> dict[str, float]:
    """What a stage tells MLflow."""
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    return {name: value for event in events if event["event"] == "metrics" for name, value in event["metrics"].items()}
