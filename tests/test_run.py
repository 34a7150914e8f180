"""``make run`` from outside: a mistake costs seconds and has its exit code."""

from pathlib import Path

from tests.project import command, copy_project, set_params


def test_a_failed_stage_gives_its_exit_code_and_its_message(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", git=True)
    (tmp_path / "images.tar").write_text("no archive")
    set_params(project, {"data": {"source": "archive", "path": str(tmp_path / "images.tar")}})
    result = command(project, "tasks.run")
    assert result.returncode == 3, result.stdout + result.stderr
    assert "images.tar is not a tar" in result.stdout and "Traceback" not in result.stdout + result.stderr
    assert not (project / "out").exists() and not (project / "data/prepared").exists()


def test_a_typing_error_is_found_before_anything_runs(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", git=True)
    set_params(project, {"method": {"byol": {"momentun": 0.9}}})
    result = command(project, "tasks.run")
    assert result.returncode == 2
    assert "did you mean 'momentum'" in result.stderr and len(result.stderr.strip().splitlines()) == 1
