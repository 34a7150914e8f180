"""One training per GPU, whoever started it: plain ``dvc repro``, a flow, two flows at once or another checkout.

The lock is taken in the stage process itself and ends with it. It lives in a directory of this user on this machine.
"""

import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tasks.runtime.errors import EnvironmentFault
from tasks.runtime.locks import try_lock

POLL_SECONDS = 0.5
_held: list[IO[str]] = []  # open for the life of the process, and with it the lock


def visible() -> list[str]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES spells them; does not initialize CUDA."""
    import torch

    count = torch.cuda.device_count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [n.strip() for n in chosen.split(",")] if chosen else [str(n) for n in range(count)]
    return names[:count]


def acquire(
    count: int = 1,
    devices: list[str] | None = None,
    stopping: Callable[[], bool] = lambda: False,
    directory: Path | None = None,
) -> list[str]:
    """Wait for ``count`` free GPUs, reserve them until this process ends, and make them the only ones CUDA will see.

    Takes all at once or none, so that two that want several each never wait for one another. Call before anything touches
    CUDA. Under ``torchrun`` each process has its device already: nothing is reserved.

    Args:
        count: how many.
        devices: names to choose from; default the visible ones.
        stopping: polled while waiting.
        directory: where the lock files are.

    Returns:
        Their names; none without a GPU or when ``stopping`` ended the wait.

    Raises:
        EnvironmentFault: there are GPUs, but fewer than ``count``.
    """
    if _held or "LOCAL_RANK" in os.environ or os.environ.get("SSL_DEVICE") == "cpu":
        return []
    devices = visible() if devices is None else devices
    if devices and count > len(devices):
        raise EnvironmentFault(f"train.processes is {count}, but there are {len(devices)} GPUs; SSL_DEVICE=cpu uses none")
    while devices and not stopping():
        taken = {name: file for name in devices if (file := _locked(_directory(directory) / f"{name}.lock"))}
        for name in list(taken)[count if len(taken) >= count else 0 :]:
            taken.pop(name).close()
        if taken:
            _held.extend(taken.values())
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
            return list(taken)
        time.sleep(POLL_SECONDS)
    return []


def _locked(path: Path) -> IO[str] | None:
    file = path.open("a")
    if try_lock(file):
        return file
    file.close()
    return None


def _directory(directory: Path | None) -> Path:
    """The directory of the lock files; refused when another user made it first."""
    path = directory or Path(tempfile.gettempdir()) / f"ssl-pipeline-gpu-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise EnvironmentFault(f"{path} belongs to somebody else; set TMPDIR to a directory of your own")
    return path
