"""Every method, in float32 and bfloat16: killed at each step and at random moments, gone on with elsewhere, the same bytes.

Each start is a process of its own, killed with kill -9, with the checkpoints of the stage; the next one finds them in a copy of
the directory at another path.
"""

import hashlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssl_core.engine.train import Position
from tasks.runtime import checkpoint, files
from tests.ssl_core.engine.test_contract import TRAINED, build

STEPS = 8  # of two epochs
KILLS = 5
Die = Callable[[int], bool]


def train(shipped: dict[str, Any], name: str, precision: str, place: Path, die: Die) -> None:
    """Go on from the newest checkpoint; ``result`` holds a hash of all that the training has made."""
    _, trainer = build(shipped, name, precision=precision)
    required = {f"method.{key}": value for key, value in trainer.method.state_dict().items()}
    found = checkpoint.load(place / "checkpoints", required)
    if found:
        trainer.load(*found)

    def on_step(position: Position) -> None:
        checkpoint.save(
            place / "checkpoints", trainer.step, trainer.tensors(), trainer.scalars() | {"seconds": 0, "journal": 0}
        )
        if die(position.step):
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.run(on_step)
    digest = hashlib.sha256(files.to_json(trainer.history).encode())
    for key, value in sorted(trainer.tensors().items()):
        digest.update(key.encode() + value.numpy().tobytes())
    files.write_text(place / "result", digest.hexdigest())


def forked(work: Callable[[], None]) -> int:
    """Start ``work`` in a process of its own; its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.alarm(300)
        work()
        code = 0
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def moved(place: Path) -> Path:
    """A copy at another path; the old one is gone."""
    copy = place.with_name(f"{place.name}-")
    shutil.copytree(place, copy)
    shutil.rmtree(place)
    return copy


@pytest.mark.stress
@pytest.mark.fault("R2", "R3", "R4", "R5")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", TRAINED)
def test_killed_at_every_step_and_at_any_moment_it_ends_with_the_same_bytes(
    shipped: dict[str, Any], tmp_path: Path, name: str, precision: str
) -> None:
    def run(place: Path, die: Die = lambda step: False) -> int:
        place.mkdir(exist_ok=True)
        return forked(lambda: train(shipped, name, precision, place, die))

    started = time.monotonic()
    whole = tmp_path / "whole"
    assert ended(run(whole)) == 0
    seconds = time.monotonic() - started

    place = tmp_path / "at each step"
    for step in range(1, STEPS):
        assert ended(run(place, lambda done, step=step: done >= step)) == -signal.SIGKILL
        assert checkpoint_steps(place)[-1] == step
        place = moved(place)
    assert ended(run(place)) == 0
    assert (place / "result").read_bytes() == (whole / "result").read_bytes()

    place, chance, killed = tmp_path / "at random", random.Random(f"{name} {precision}"), 0
    for _ in range(chance.randint(1, KILLS)):
        pid = run(place)
        time.sleep(chance.uniform(0.2, 0.9) * seconds)
        os.kill(pid, signal.SIGKILL)
        killed += ended(pid) == -signal.SIGKILL
        place = moved(place)
    assert ended(run(place)) == 0
    print(f" {name} {precision}: {killed} kills at random in {checkpoint_steps(place)[-1]} steps")
    assert (place / "result").read_bytes() == (whole / "result").read_bytes()


def checkpoint_steps(place: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in place.glob("checkpoints/step-*"))
