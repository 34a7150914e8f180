"""The guide to adding a method, followed to the letter in a copy of the project."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.conftest import ROOT
from tests.support.project import TINY, command, copy_project, environment, run_tests, set_params

SMALL = {
    "run": {"methods": ["random_init"]},
    "data": {"max_train": 100, "max_test": 40},
    "evaluate": {"label_fractions": [], "linear_lambdas": 2, "bootstrap": 40},
}


def repro(project: Path, target: str) -> set[str]:
    """The names of the stages that ``dvc repro`` ran."""
    result = command(project, "dvc", "repro", target)
    assert result.returncode == 0, result.stdout + result.stderr
    return set(re.findall(r"Running stage '(\S+)'", result.stdout))


def follow(project: Path) -> str:
    """Steps 1 and 3; the block of step 2."""
    guide = (ROOT / "docs/adding-a-method.md").read_text()
    code, block, test = re.findall(r"```(?:python|yaml)\n(.*?)```", guide, re.S)
    (project / "ssl_core/methods/spread.py").write_text(code)
    (project / "tests/ssl_core/methods/test_spread.py").write_text(test)
    return str(block)


def commit(project: Path) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "as shipped, and run once"], cwd=project, check=True)


def changed(project: Path) -> set[str]:
    """The files of the project that are not as its last commit has them, but for what DVC and the stages write."""
    arguments = ["git", "status", "--porcelain", "--untracked-files=all"]
    lines = subprocess.run(arguments, cwd=project, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line[3:] for line in lines if not line[3:].startswith(("dvc.lock", "out/", "reports/"))}


def test_the_worked_example_runs_only_its_own_stages_and_passes_all_that_is_asked_of_a_method(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", git=True)
    for part in ("tests", "benchmarks", "README.md", "pyproject.toml"):
        subprocess.run(["cp", "-r", str(ROOT / part), str(project)], check=True)
    params = project / "params.yaml"
    shipped = params.read_text()
    set_params(project, TINY)
    set_params(project, SMALL)
    assert {"pretrain@random_init-0", "evaluate@random_init-0"} <= repro(project, "evaluate@random_init-0")
    commit(project)

    block = follow(project)
    assert list(re.findall(r"^\w+", params.read_text(), re.M))[-1] == "method"
    params.write_text(params.read_text() + block)
    set_params(project, {"run": {"methods": ["random_init", "spread"]}})
    ran = repro(project, "report")  # without the registry, which has tests of its own
    assert {s for s in ran if "@" in s} == {"pretrain@spread-0", "evaluate@spread-0"}
    assert "prepare" not in ran and "report" in ran
    assert "spread" in (project / "reports/leaderboard.csv").read_text()

    params.write_text(shipped.replace("  - pcl\n", "  - pcl\n  - spread\n") + block)
    files = {"ssl_core/methods/spread.py", "tests/ssl_core/methods/test_spread.py", "params.yaml"}
    assert changed(project) == files, "a method is three files"
    renewed = command(project, "tests.golden", "spread")
    assert renewed.returncode == 0, renewed.stderr
    assert changed(project) == files | {"tests/golden.json", "README.md"}, "what the command writes"
    tests = [
        "tests/ssl_core/engine/test_contract.py",
        "tests/ssl_core/test_catalogue.py",
        "tests/ssl_core/methods/test_spread.py",
        "tests/whole/test_golden.py",
        "tests/whole/test_architecture.py",
    ]
    wanted = ["-k", "spread or test_catalogue or test_architecture"]
    result = run_tests(project, *tests, *wanted)
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout + result.stderr
    python = sorted(file for file in files if file.endswith(".py"))
    style = subprocess.run([shutil.which("ruff", path=environment()["PATH"]) or "ruff", "check", *python], cwd=project)
    assert style.returncode == 0
