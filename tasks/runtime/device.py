"""Where a stage computes, and what about the machine shapes the bits of its result."""

import os
import platform
from typing import Any

import torch

from tasks.runtime import gpu
from tasks.runtime.errors import EnvironmentFault

LOCAL_RANK = int(os.environ.get("LOCAL_RANK", "0"))
"""Which of several processes of a training on this machine this is: the index of its GPU."""


def pick_device() -> torch.device:
    """A GPU that no other stage holds if there are any, else the CPU. ``SSL_DEVICE`` (cpu, cuda, cuda:1) decides otherwise.

    Raises:
        EnvironmentFault: ``SSL_DEVICE`` names something this machine lacks, or there is a GPU that torch cannot use, as with
            an old driver: never a silent run on the CPU.
    """
    wanted = os.environ.get("SSL_DEVICE")
    if wanted:
        try:
            device = torch.device(wanted)
            if device.type == "cuda" and device.index is None:
                device = torch.device("cuda", LOCAL_RANK)
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise EnvironmentFault(f"SSL_DEVICE={wanted} cannot be used: {str(error).splitlines()[0]}") from None
        return device
    gpu.acquire()
    if torch.cuda.is_available():
        return torch.device("cuda", LOCAL_RANK)
    if reason := gpu.unusable():
        raise EnvironmentFault(f"there is a GPU, and torch cannot use it: {reason}; mend that, or SSL_DEVICE=cpu uses none")
    return torch.device("cpu")


def machine(device: torch.device) -> dict[str, Any]:
    """Versions and hardware that change the last bits of a training; part of the work directory's fingerprint."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "python": platform.python_version(), "device": f"{device.type} {name}"}
