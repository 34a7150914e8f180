"""``make`` on a machine where the environment cannot be made: it gives Python's own reason and guesses none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

WITHOUT_ENSUREPIP = """#!/bin/sh
test "$1" = -c && exit 0
echo "The virtual environment was not created successfully because ensurepip is not available: apt install python3.11-venv"
exit 1
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.lock"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def refused(project: Path, *settings: str) -> list[str]:
    """What ``make setup`` says when it fails, typed by a user: not as part of the ``make`` that runs these tests."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "setup", *settings],
        cwd=project,
        env=outside,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 2, done.stdout
    said = done.stdout.splitlines()
    return [line for line in said if not line.startswith("make: ")]


def test_a_link_to_nowhere_is_named(project: Path) -> None:
    (project / ".venv").symlink_to("nowhere")
    reason, error = refused(project)
    assert "File exists" in reason and ".venv" in reason
    assert error == "error: python3 could not make .venv, for the reason above"


def test_a_place_that_takes_no_file_is_named(project: Path) -> None:
    reason, error = refused(project, "VENV=/proc/venv")
    assert "/proc/venv" in reason and error.startswith("error: python3 could not make /proc/venv")


def test_a_python_without_ensurepip_says_itself_what_to_install(project: Path) -> None:
    python = project / "python"
    python.write_text(WITHOUT_ENSUREPIP)
    python.chmod(0o755)
    reason, error = refused(project, f"PYTHON={python}")
    assert "apt install python3.11-venv" in reason and error.startswith(f"error: {python} could not make .venv")


def test_a_python_that_is_not_there_or_too_old_is_named(project: Path) -> None:
    assert refused(project, "PYTHON=pythonx")[-1].startswith("error: pythonx not found; install Python 3.11")
    assert refused(project, "PYTHON=false")[-1].startswith("error: Python 3.11 to 3.14 is needed")
