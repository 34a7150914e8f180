"""A training that makes no step any more: its stacks are shown, it ends, and the same command finishes it."""

from pathlib import Path

import pytest

from tests.support.project import command, duplicate, training_project

STAGE = ("tasks.pretrain", "simclr", "0")
HANGS_ONCE = """

def hanging(self, batch, honest=SimCLR.loss):
    from ctypes import CDLL, create_string_buffer
    from pathlib import Path
    if batch.progress >= 0.4 and not Path("hung").exists():
        Path("hung").touch()
        mutex, lock = create_string_buffer(64), CDLL(None).pthread_mutex_lock
        lock(mutex), lock(mutex)  # for ever, where no signal of Python's arrives
    return honest(self, batch)


SimCLR.loss = hanging
"""


@pytest.mark.fault("F17")
def test_a_training_that_hangs_is_ended_with_its_stacks_and_goes_on(tmp_path: Path) -> None:
    hangs = training_project(tmp_path / "hangs")
    with (hangs / "ssl_core/methods/simclr.py").open("a") as code:
        code.write(HANGS_ONCE)
    smooth = duplicate(hangs, tmp_path / "smooth")
    (smooth / "hung").touch()
    assert command(smooth, *STAGE, SSL_HANG_SECONDS="0").returncode == 0

    first = command(hangs, *STAGE, SSL_HANG_SECONDS="10", SSL_CHECKPOINT_SECONDS="0")
    assert first.returncode == 75, first.stderr
    assert "in hanging" in first.stderr and "Current thread" in first.stderr
    assert first.stderr.strip().splitlines()[-1].startswith("error: pretrain@simclr-0 made no step for 10 s (SSL_HANG_SECONDS)")
    assert '"code": 75' in (hangs / ".ssl/exit/pretrain@simclr-0").read_text()
    again = command(hangs, *STAGE, SSL_HANG_SECONDS="60")
    assert again.returncode == 0 and "continuing from step" in again.stderr, again.stderr
    for name in ("encoder.safetensors", "encoder.json"):
        path = Path("out/encoders/simclr-0") / name
        assert (hangs / path).read_bytes() == (smooth / path).read_bytes()
