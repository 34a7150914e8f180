"""How many processor cores this process may use."""

import contextlib
import os
from pathlib import Path

CONTAINER_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # microseconds per period, or "max"; docs.kernel.org, cgroup v2


def cores(limit: Path = CONTAINER_LIMIT) -> int:
    """Those of its affinity (taskset, Slurm), at most what its container is allowed (Docker, Kubernetes); at least 1."""
    count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = limit.read_text(encoding="utf-8").split()
        count = min(count, max(1, int(quota) // int(period)))
    return count
