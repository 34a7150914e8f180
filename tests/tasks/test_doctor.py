"""``python -m tasks.doctor`` after a crash: a real project with everything that can be left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.dvc import lock_files
from tasks.runtime import files
from tasks.runtime.locks import try_lock
from tests.conftest import ROOT
from tests.support import tiny_graph as tiny
from tests.support.project import environment


def doctor(project: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    env = env or environment(PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "tasks.doctor"]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tiny.make(tmp_path / "p")
    assert tiny.dvc(project, "repro", "prepare").returncode == 0
    return project


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.fault("F2", "F10")
def test_it_repairs_what_a_crash_left_and_touches_nothing_in_use(project: Path) -> None:
    dead = dead_pid()
    gone = [project / "out" / f".encoder.{dead}.ab12.tmp", project / ".ssl" / f".state.{dead}.cd34.tmp"]
    kept = project / ".ssl" / f".state.{os.getpid()}.ef56.tmp"
    for path in (*gone, kept):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    work = project / ".ssl" / "work"
    names = ["prepare/0123456789abcdef", "prepare/in-use", "pretrain@byol-0/a", "pretrain@byol-0/b", "pretrain@byol-0/c"]
    for i, name in enumerate(names):
        (work / name).mkdir(parents=True, exist_ok=True)
        os.utime(work / name, (i, i))
    with lock_files.rwlock(project) as path:
        path.write_text(json.dumps({"write": {"x": {"pid": dead, "cmd": "dvc repro"}}, "read": {}}))
    with (work / "prepare/in-use/.lock").open("a") as lock:
        assert try_lock(lock)
        result = doctor(project)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"process {dead}" in result.stdout and not any(p.exists() for p in gone) and kept.exists()
    assert sorted(str(p.relative_to(work)) for p in work.glob("*/*")) == [
        "prepare/in-use",
        "pretrain@byol-0/b",
        "pretrain@byol-0/c",
    ]
    kept.unlink()
    again = doctor(project).stdout.splitlines()
    assert [line for line in again if not line.endswith(": ok")] == ["stages: removed old work .ssl/work/prepare/in-use"]


def test_it_names_damage_and_says_what_to_do(project: Path) -> None:
    files.write_directory(project / "out/encoders/byol-0", lambda d: (d / "encoder.bin").write_bytes(b"12345678"))
    sealed = project / "out/encoders/byol-0/encoder.bin"
    sealed.write_bytes(b"12345679")  # one bit, the same size
    lock = project / "dvc.lock"
    lock.write_text(f"<<<<<<< HEAD\n{lock.read_text()}")
    result = doctor(project)
    assert result.returncode == 2
    assert "git checkout dvc.lock" in result.stdout and "encoder.bin does not match its manifest" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_it_says_where_to_run_it(tmp_path: Path) -> None:
    result = doctor(tmp_path)
    assert result.returncode == 2 and "run from the project's root" in result.stderr
