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

from tasks.errors import EnvironmentFault
from tasks.locks import try_lock

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
    devices: list[str] | None = None, stopping: Callable[[], bool] = lambda: False, directory: Path | None = None
) -> str | None:
    """Wait for a free GPU, reserve it until this process ends, and make it the only one CUDA will see.

    Call before anything touches CUDA. Under ``torchrun`` each rank has its device already: nothing is reserved.

    Args:
        devices: names to choose from; default the visible ones.
        stopping: polled while waiting.
        directory: where the lock files are.

    Returns:
        The device's name, or None without a GPU or when ``stopping`` ended the wait.
    """
    if _held or "LOCAL_RANK" in os.environ or os.environ.get("SSL_DEVICE") == "cpu":
        return None
    devices = visible() if devices is None else devices
    files = {name: (_directory(directory) / f"{name}.lock").open("a") for name in devices}
    taken = None
    while files and taken is None and not stopping():
        taken = next((name for name, file in files.items() if try_lock(file)), None)
        if taken is None:
            time.sleep(POLL_SECONDS)
    if taken is not None:
        _held.append(files.pop(taken))
        os.environ["CUDA_VISIBLE_DEVICES"] = taken
    for file in files.values():
        file.close()
    return taken


def _directory(directory: Path | None) -> Path:
    """The directory of the lock files; refused when another user made it first."""
    path = directory or Path(tempfile.gettempdir()) / f"ssl-pipeline-gpu-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise EnvironmentFault(f"{path} belongs to somebody else; set TMPDIR to a directory of your own")
    return path
