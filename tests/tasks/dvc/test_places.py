"""Where outputs and DVC's cache cannot lie is said before any work, by the run and by the doctor."""

from pathlib import Path

import pytest

from tests.support.project import command, copy_project


@pytest.mark.parametrize("module", ["tasks.run", "tasks.doctor"])
def test_a_folder_of_outputs_on_another_disk_is_refused_before_the_first_stage(tmp_path: Path, module: str) -> None:
    project = copy_project(tmp_path / "p", git=True)
    (tmp_path / "scratch").mkdir()
    (project / "out").symlink_to(tmp_path / "scratch")
    done = command(project, module)
    assert done.returncode == 2 and "out is a link that leads out of the project" in done.stdout + done.stderr, done.stderr
    assert "dvc cache dir PATH" in done.stdout + done.stderr and not (project / "data/prepared").exists()


def test_an_output_that_is_such_a_link_itself_is_refused_too(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", git=True)
    (tmp_path / "scratch").mkdir()
    (project / "reports").symlink_to(tmp_path / "scratch")
    done = command(project, "tasks.run")
    assert done.returncode == 2 and "reports is a link that leads out of the project" in done.stderr, done.stderr


@pytest.mark.parametrize("module", ["tasks.run", "tasks.doctor"])
def test_a_project_without_git_is_told_how_to_get_it(tmp_path: Path, module: str) -> None:
    """As from a downloaded archive."""
    project = copy_project(tmp_path / "p")
    done = command(project, module)
    assert done.returncode == 4 and "git init makes one" in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["tasks.run", "tasks.doctor"])
def test_a_cache_that_cannot_be_written_is_named_before_the_first_stage(tmp_path: Path, module: str) -> None:
    project = copy_project(tmp_path / "p", git=True)
    (project / ".dvc/config.local").write_text("[cache]\n    dir = /proc/nope\n")
    done = command(project, module)
    assert done.returncode == 4 and "DVC's cache cannot be written" in done.stdout + done.stderr, done.stderr
    assert not (project / "data/prepared").exists()
