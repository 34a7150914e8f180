"""One training per GPU, whoever started it: plain ``dvc repro``, a flow, two flows at once, another checkout or another user.

The lock is a name that one process of a machine can have: the address of a socket that lies in no folder. It is taken in the
stage process itself and ends with it.
"""

import errno
import os
import socket
import sys
import time
from pathlib import Path

from tasks.runtime import signals
from tasks.runtime.errors import EnvironmentFault, Preempted

POLL_SECONDS = 0.5
PREFIX = "ssl-pipeline-gpu-"
NODES, NODE = Path("/dev"), "nvidia[0-9]*"
HIDDEN = ("", "-1", "NoDevFiles", "none", "void")
"""What ``CUDA_VISIBLE_DEVICES`` is where no GPU is meant to be used: by hand, by Slurm and by NVIDIA's containers."""
_held: list[socket.socket] = []  # open for the life of the process, and with it the lock


def visible() -> list[str]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES spells them; does not initialize CUDA."""
    import torch

    count = torch.cuda.device_count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [n.strip() for n in chosen.split(",")] if chosen else [str(n) for n in range(count)]
    return names[:count]


def unusable(nodes: Path = NODES) -> str | None:
    """Why torch uses none of the GPUs that this process may open; None where there are none, or the user hides them.

    Args:
        nodes: where the devices' files are. A container or a job without a GPU lacks them, or may not open them.
    """
    import torch

    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in HIDDEN or not any(map(_opens, nodes.glob(NODE))):
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "torch finds none"


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def acquire(count: int = 1, devices: list[str] | None = None, prefix: str = PREFIX) -> list[str]:
    """Wait for ``count`` free GPUs, reserve them until this process ends, and make them the only ones CUDA will see.

    Takes all at once or none, so that two that want several each never wait for one another. Call before anything touches
    CUDA. Under ``torchrun`` each process has its device already: nothing is reserved.

    Args:
        count: how many.
        devices: names to choose from; default the visible ones.
        prefix: of the locks' names.

    Returns:
        Their names; none without a GPU.

    Raises:
        EnvironmentFault: there are GPUs, but fewer than ``count``.
        Preempted: a signal ended the wait.
    """
    if _held or "LOCAL_RANK" in os.environ or os.environ.get("SSL_DEVICE") == "cpu":
        return []
    devices = visible() if devices is None else devices
    if devices and count > len(devices):
        raise EnvironmentFault(f"train.processes is {count}, but there are {len(devices)} GPUs; SSL_DEVICE=cpu uses none")
    told = False
    while devices:
        if signals.asked.is_set():
            raise Preempted("asked to stop while all GPUs were in use; the same command begins it")
        taken = {name: held for name in devices if (held := _locked(prefix + name))}
        for name in list(taken)[count if len(taken) >= count else 0 :]:
            taken.pop(name).close()
        if taken:
            _held.extend(taken.values())
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
            return list(taken)
        if not told:
            print(f"waiting for {'a GPU' if count == 1 else f'{count} GPUs'}: other trainings have them", file=sys.stderr)
            told = True
        time.sleep(POLL_SECONDS)
    return []


def _locked(name: str) -> socket.socket | None:
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0{name}")
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return held
