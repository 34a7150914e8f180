"""The guide to adding a stage, followed to the letter in a copy of the project."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from tasks.dvc import graph
from tasks.dvc.schedule import Schedule
from tasks.runtime import files
from tests.conftest import ROOT
from tests.support.project import command, copy_project, run_tests, set_params

NAME = "hubness@random_init-0"


def tree(project: Path) -> dict[str, bytes]:
    """The project's files and what is in them."""
    paths = (p for p in project.rglob("*") if p.is_file() and ".git" not in p.parts and "__pycache__" not in p.parts)
    return {p.relative_to(project).as_posix(): p.read_bytes() for p in paths}


def follow(project: Path) -> set[str]:
    """Steps 1 to 4; the files that they touched."""
    before = tree(project)
    guide = (ROOT / "docs/adding-a-stage.md").read_text()
    for path, kind, text in re.findall(r"^\d\. `([^`]+)`.*?```(python|yaml)\n(.*?)```", guide, re.S | re.M):
        target = project / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text if kind == "python" else target.read_text().rstrip() + "\n" + text)
    return {path for path, content in tree(project).items() if before.get(path) != content}


def test_the_worked_example_touches_four_files_and_is_a_stage_like_the_others(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", git=True)
    for part in ("tests", "benchmarks", "pyproject.toml"):
        subprocess.run(["cp", "-r", str(ROOT / part), str(project)], check=True)
    touched = follow(project)
    new = {"tasks/hubness/__init__.py", "tasks/hubness/__main__.py", "tests/tasks/test_hubness.py"}
    assert touched == new | {"dvc.yaml"}

    set_params(project, {"run": {"methods": ["random_init"]}})
    features = np.random.default_rng(0).normal(size=(2, 40, 8)).astype(np.float16)
    files.save_tensors(project / "out/features/random_init-0.safetensors", {"train": features[0], "test": features[1]})
    ran = command(project, "dvc", "repro", "-s", NAME)
    assert ran.returncode == 0 and f"Running stage '{NAME}'" in ran.stdout, ran.stdout + ran.stderr
    found = files.read_json(project / "out/hubness/random_init-0.json")
    assert found["k"] == 10 and 0 < found["skewness"] < 2

    plan = {stage.name: stage for stage in graph.plan(project)}
    assert plan[NAME].after == {"evaluate@random_init-0"} and plan[NAME].parts.method == "random_init"
    assert Schedule(list(plan.values()), targets=["hubness"]).chosen[-1] == NAME

    tests = ["tests/tasks/test_hubness.py", "tests/whole/test_architecture.py", "-k", "hubness or tree"]
    result = run_tests(project, *tests)
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout + result.stderr
    for check in (["check"], ["format", "--check"]):
        assert subprocess.run([sys.executable, "-m", "ruff", *check, *sorted(new)], cwd=project).returncode == 0
