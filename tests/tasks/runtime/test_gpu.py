"""One process per GPU, with pretended GPUs: the lock knows names only."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.runtime.errors import EnvironmentFault
from tasks.runtime.gpu import acquire
from tests.support.project import environment

TAKE = """
import os, sys
from pathlib import Path
from tasks.runtime.gpu import acquire
names = acquire(int(sys.argv[2]), ["0", "1"], directory=Path(sys.argv[1]))
assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(names)
print(*names, flush=True)
sys.stdin.read()
"""


def take(directory: Path, root: Path, count: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TAKE, str(directory), str(count)]
    return subprocess.Popen(
        command, cwd=root, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.fault("F10", "F46")
def test_a_third_process_waits_for_the_gpu_of_one_that_was_killed(tmp_path: Path, root: Path) -> None:
    processes = [take(tmp_path / "locks", root) for _ in range(2)]
    try:
        assert sorted(p.stdout.readline().strip() for p in processes if p.stdout) == ["0", "1"]
        third = take(tmp_path / "locks", root)
        processes.append(third)
        time.sleep(1.0)
        assert third.poll() is None
        processes[1].kill()
        freed = third.stdout.readline().strip() if third.stdout else ""
        assert freed in ("0", "1")
        both = take(tmp_path / "locks", root, count=2)  # waits for the second GPU without holding the first
        processes.append(both)
        processes[0].kill()
        time.sleep(1.0)
        assert both.poll() is None
        one = take(tmp_path / "locks", root)
        processes.append(one)
        assert one.stdout and one.stdout.readline().strip() in ("0", "1")
        third.kill()
        one.kill()
        assert both.stdout and both.stdout.readline().split() == ["0", "1"]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_without_a_gpu_or_told_to_stop_nothing_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert acquire(1, [], directory=tmp_path / "locks") == []
    assert acquire(1, ["0"], stopping=lambda: True, directory=tmp_path / "locks") == []
    with pytest.raises(EnvironmentFault, match="processes is 2, but there are 1 GPUs"):
        acquire(2, ["0"], directory=tmp_path / "locks")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert acquire(1, ["0"], directory=tmp_path / "locks") == []  # torchrun gave this rank its device


@pytest.mark.fault("F79")
def test_a_lock_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentFault):
        acquire(1, ["0"], directory=tmp_path / "locks")
