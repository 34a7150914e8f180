"""One process per GPU, with pretended GPUs: the lock knows names only."""

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tasks.runtime import gpu, signals
from tasks.runtime.device import pick_device
from tasks.runtime.errors import EnvironmentFault, Preempted
from tasks.runtime.gpu import acquire
from tests.support.project import environment

TAKE = """
import os, sys
from tasks.runtime.gpu import acquire
names = acquire(int(sys.argv[2]), ["0", "1"], prefix=sys.argv[1])
assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(names)
print(*names, flush=True)
sys.stdin.read()
"""


def take(name: str, root: Path, count: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TAKE, name, str(count)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=root, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


@pytest.mark.fault("F10", "F46")
def test_a_third_process_waits_for_the_gpu_of_one_that_was_killed(tmp_path: Path, root: Path) -> None:
    name = str(tmp_path)  # no other test has it
    processes = [take(name, root) for _ in range(2)]
    try:
        assert sorted(p.stdout.readline().strip() for p in processes if p.stdout) == ["0", "1"]
        third = take(name, root)
        processes.append(third)
        time.sleep(1.0)
        assert third.poll() is None
        processes[1].kill()
        freed = third.stdout.readline().strip() if third.stdout else ""
        assert freed in ("0", "1")
        both = take(name, root, count=2)  # waits for the second GPU without holding the first
        processes.append(both)
        processes[0].kill()
        time.sleep(1.0)
        assert both.poll() is None
        one = take(name, root)
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
    assert acquire(1, [], str(tmp_path)) == []
    with pytest.raises(EnvironmentFault, match="processes is 2, but there are 1 GPUs"):
        acquire(2, ["0"], str(tmp_path))
    with monkeypatch.context() as changed:
        changed.setenv("LOCAL_RANK", "1")
        assert acquire(1, ["0"], str(tmp_path)) == []  # torchrun gave this rank its device
    asked = threading.Event()
    asked.set()
    monkeypatch.setattr(signals, "asked", asked)
    with pytest.raises(Preempted, match="while all GPUs were in use"):
        acquire(1, ["0"], str(tmp_path))


@pytest.mark.fault("F46")
def test_a_gpu_that_torch_cannot_use_is_no_silent_run_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an old driver, or a number in CUDA_VISIBLE_DEVICES that no GPU has; its file is pretended."""
    monkeypatch.delenv("SSL_DEVICE", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "acquire", list)
    monkeypatch.setattr(gpu, "unusable", functools.partial(gpu.unusable, tmp_path))
    assert pick_device().type == "cpu"  # no GPU at all
    (tmp_path / "nvidiactl").touch()
    assert pick_device().type == "cpu"
    (tmp_path / "nvidia0").touch()
    with pytest.raises(EnvironmentFault, match=r"there is a GPU, and torch cannot use it: .+; mend that, or SSL_DEVICE=cpu"):
        pick_device()
    for hidden in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert pick_device().type == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(EnvironmentFault):
        pick_device()
    monkeypatch.setenv("SSL_DEVICE", "cpu")
    assert pick_device().type == "cpu"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.fault("F22", "F79")
def test_the_gpu_of_another_user_s_training_is_waited_for_and_the_wait_is_said(tmp_path: Path, root: Path) -> None:
    name = str(tmp_path)
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    holder = os.fork()
    if not holder:
        os.setuid(54321)
        other.bind(f"\0{name}0")
        signal.pause()
    other.close()
    process = take(name, root, count=2)
    try:
        assert process.stderr and process.stderr.readline() == "waiting for 2 GPUs: other trainings have them\n"
        assert process.poll() is None
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        assert process.stdout and process.stdout.readline().split() == ["0", "1"]
    finally:
        process.kill()
        process.wait()
