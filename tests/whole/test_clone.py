"""A run is committed as documented, cloned, and goes on in the clone: the registry there is filled without training."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.register.registration import register
from tasks.runtime import files
from tasks.tracking import registered
from tasks.tracking.journal import Journal
from tests.conftest import ROOT
from tests.support import registered as made
from tests.support.project import command, commit, copy_project, environment

METHODS = {"simclr": made.METHODS["simclr"]}
COMMIT = ("git add dvc.lock params.yaml out labels data/more", "git commit -q -m 'A run'", "dvc push -q")
"""As docs/results.md has them."""
LOAD = "import torch\nassert encoder(torch.zeros(2, 1, 28, 28)).shape == (2, 16)"


def shell(project: Path, line: str) -> str:
    person = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(line, shell=True, cwd=project, env=environment(**person), capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stages have run, as dvc.lock says, with a DVC remote."""
    root = copy_project(tmp_path / "origin")
    for name in (".dvc/.gitignore", "data/.gitignore"):
        shutil.copyfile(ROOT / name, root / name)
    commit(root, "start")
    made.write_project(root, METHODS)
    made_by_report = ("reports/report.html", "out/plots/loss.csv", "out/scores/simclr-0.json")
    for part in ("out/history/simclr-0.csv", "out/predictions/simclr-0.csv", *made_by_report):
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        files.write_text(root / part, "epoch,loss,actual,predicted\n1,2,a,b\n")
    files.save_tensors(root / "out/predictions/simclr-0.safetensors", {})
    with Journal(root / "out/journal/evaluate-simclr-0.jsonl", position=0) as journal:
        journal.start(fingerprint="e" * 64, stage="evaluate@simclr-0", name="simclr", seed=0, tags={}, params={})
    made.enter(root, monkeypatch)
    register(root, made.exporter).wanted.write(root / registered.REGISTRATION)
    shell(root, f"dvc remote add -q -d store {tmp_path / 'remote'} && git commit -q -a -m 'A remote'")
    shell(root, "dvc commit -q -f")
    return root


def test_a_clone_has_all_that_was_committed_and_registers_without_training(origin: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs/results.md").read_text()
    for line in COMMIT:
        assert line.replace("-q ", "").replace(" -q", "") in text
        shell(origin, line)
    assert shell(origin, "git status --short") == ""
    tracked = shell(origin, "git ls-files dvc.lock params.yaml out").split()
    assert {"dvc.lock", "out/registry.json", "out/metrics/simclr-0.json"} <= set(tracked)
    assert not [name for name in tracked if str(tmp_path) in (origin / name).read_text()]

    clone = tmp_path / "clone"
    shell(tmp_path, f"git clone -q {origin} {clone}")
    shell(clone, "dvc pull -q")
    assert not (clone / "mlruns").exists()
    code = "from tasks.encoder import load\nencoder = load('out/encoders/simclr-0')"
    subprocess.run([sys.executable, "-c", f"import sys; sys.modules['mlflow'] = None\n{code}\n{LOAD}"], cwd=clone, check=True)
    done = command(clone, "tasks.run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lacks simclr-0; registering again, without training" in done.stdout and "Nothing has changed." not in done.stdout
    assert " stages: " not in done.stdout  # none of which ran
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    assert len(lines) == 3 and lines[2].startswith("#")
    subprocess.run([sys.executable, "-c", "\n".join([*lines, LOAD])], cwd=tmp_path, env=environment(), check=True)
    assert shell(clone, "git status --short") == ""

    moved = clone.rename(tmp_path / "moved")
    done = command(moved, "tasks.run")
    assert done.returncode == 0 and "was moved or copied" in done.stdout and "registering" not in done.stdout
    assert f'"{moved}"' in done.stdout and shell(moved, "git status --short") == ""
    done = command(moved, "tasks.doctor")
    assert done.returncode == 0 and "registry: ok" in done.stdout
    assert "Nothing has changed." in command(moved, "tasks.run").stdout
