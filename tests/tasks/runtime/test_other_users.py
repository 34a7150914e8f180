"""Two users of one machine: what belongs to the other one is named, and nothing of theirs is taken for one's own."""

import os
import subprocess
from pathlib import Path

import pytest

from tasks.dvc.runner import dvc
from tasks.runtime import image_folders
from tasks.runtime.errors import EnvironmentFault, UsageError

OTHER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@needs_root
@pytest.mark.fault("F22", "F69")
def test_a_checkout_of_another_user_keeps_git_s_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.machines import _git

    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # whose git trusts no folder
    project = tmp_path / "p"
    (project / ".dvc").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "-C", str(project), *who, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    for path in (project, *project.rglob("*")):
        os.chown(path, OTHER, OTHER)
    with pytest.raises(EnvironmentFault, match=r"git rev-parse: detected dubious ownership in repository at .*/p'"):
        _git(project, "rev-parse", "HEAD")
    fault = dvc(project, "exp", "save", "--name", "x")
    assert fault and "not owned by current user" in str(fault) and "troubles" not in str(fault)


@needs_root
def test_images_that_change_their_owner_are_the_same_images(tmp_path: Path) -> None:
    from tasks.runtime import files

    (tmp_path / "0.png").write_bytes(b"x")
    before = files.listing_digest(tmp_path)
    os.chown(tmp_path / "0.png", OTHER, OTHER)
    assert files.listing_digest(tmp_path) == before


def test_a_tilde_in_params_is_named_with_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    with pytest.raises(UsageError, match=r"~/pictures has a ~, which DVC does not know; write /home/ada/pictures"):
        image_folders.images_path("~/pictures")
