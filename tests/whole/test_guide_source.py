"""The guide to adding a data source, followed to the letter in a copy of the project."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from tasks.runtime import dataset
from tests.conftest import ROOT, textured_images
from tests.support.project import command, copy_project, environment, run_tests, set_params

MODULE, PARAMS, TEST = "tasks/prepare/sources/npz.py", "params.yaml", "tests/tasks/prepare/test_npz.py"


def project_with_tests(target: Path) -> Path:
    """A copy of the project that git knows whole."""
    copy_project(target, git=True)
    for part in ("tests/__init__.py", "tests/conftest.py", "tests/tasks/__init__.py", "pyproject.toml"):
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / part, target / part)
    (target / TEST).parent.mkdir()
    (target / "tests/tasks/prepare/__init__.py").touch()
    subprocess.run(["git", "add", "-A"], cwd=target, check=True)
    return target


def follow(project: Path, images: Path) -> None:
    """Steps 1 to 3, with the example's path put where ``images`` is."""
    code, block, test = re.findall(r"```(?:python|yaml)\n(.*?)```", (ROOT / "docs/adding-a-data-source.md").read_text(), re.S)
    (project / MODULE).write_text(code)
    params = project / PARAMS
    for key, value in re.findall(r"^  (\w+): (\S+)$", block, re.M):
        value = str(images) if key == "path" else value
        params.write_text(re.sub(rf"(?m)^(  {key}: )(sample|data/sample)", rf"\g<1>{value}", params.read_text()))
    (project / TEST).write_text(test)


def changed(project: Path) -> set[str]:
    """The files that an author touched."""
    listed = subprocess.run(
        ["git", "ls-files", "--modified", "--others", "--exclude-standard"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(listed.stdout.split())


def test_the_worked_example_touches_three_files_and_prepares_its_images(tmp_path: Path) -> None:
    project = project_with_tests(tmp_path / "p")
    pixels, labels = textured_images(24, 1, 16)[:, 0], np.arange(24) % 2
    np.savez(tmp_path / "cells.npz", images=pixels, labels=labels, classes=["round", "long"])
    follow(project, tmp_path / "cells.npz")
    assert changed(project) == {MODULE, PARAMS, TEST}

    set_params(project, {"data": {"image_size": 16}})
    done = command(project, "dvc", "repro", "prepare")
    assert done.returncode == 0, done.stdout + done.stderr
    data = dataset.load(project / "data/prepared")
    assert data.meta["name"] == "cells" and data.meta["classes"] == ["round", "long"]
    assert len(data.train_images) + len(data.test_images) == 24 and np.bincount(data.test_labels).tolist() == [3, 1]
    stored = {image.tobytes(): label for image, label in zip(data.train_images, data.train_labels, strict=True)}
    expected = {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    assert stored.items() <= expected.items()

    result = run_tests(project, TEST)
    assert result.returncode == 0 and "7 passed" in result.stdout, result.stdout + result.stderr
    ruff = shutil.which("ruff", path=environment()["PATH"]) or "ruff"
    for check in (["check"], ["format", "--check"]):
        style = subprocess.run([ruff, *check, MODULE, TEST], cwd=project, capture_output=True, text=True)
        assert style.returncode == 0, style.stdout
