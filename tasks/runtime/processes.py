"""One training in several processes that share each batch: one per GPU, or per group of cores (``train.processes``).

torch's own agent, the one behind ``torchrun``, starts and watches them. The first process is the stage: it alone locks,
reads and writes checkpoints, journals and publishes. The others compute with it and write nothing.
"""

import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence

import torch

from ssl_core.engine import distributed
from tasks.runtime import gpu, signals, stage
from tasks.runtime.errors import MISTAKES, IntegrityError, Preempted, Stop, UsageError, explain, run
from tasks.runtime.stage import Body, Stage

SHUTDOWN_SECONDS = 5  # from the first signal to SIGKILL: less than whoever stops the stage waits
LOST_SECONDS = 2.0


class ProcessFailed(Stop):
    """A process of the training failed; ``code`` is its exit code, 128 + N when signal N ended it."""

    def __init__(self, number: int, code: int):
        super().__init__(
            f"process {number} of the training ended with {code}; the same command continues from the last checkpoint"
        )
        self.code = code


def are_launched() -> bool:
    """Whether this is one of the processes: started below, or with ``torchrun`` by hand."""
    return "LOCAL_RANK" in os.environ


def launch(name: str, module: str, arguments: Sequence[str], processes: int) -> None:
    """Run ``python -m MODULE ARGUMENTS`` in several processes on this machine, each with a GPU of its own if there are any.

    When one fails or this process gets a signal, all end. Raises SystemExit with the exit code of the one that failed.

    Args:
        name: of the stage, as DVC knows it.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    stage.leave_code(name, None)
    if signals.asked.is_set():
        raise Preempted(f"{name} was asked to stop before it began; the same command begins it")
    if not os.environ.get("SSL_DEVICE"):
        try:
            gpu.acquire(processes)
        except Stop as error:
            stage.leave_code(name, error)
            raise
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_SECONDS))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process sets its own number; without it the agent warns
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say what is wrong
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except SignalException:
        sys.exit(Preempted.code)  # the first process has said so
    except ChildFailedError as error:
        raise_for({rank: failure.exitcode for rank, failure in error.failures.items()}, name)


def raise_for(codes: dict[int, int], name: str) -> None:
    """End with the most telling of the exit codes by rank: who only lost its peers ends with 75, too."""
    codes = {rank: code if code >= 0 else 128 - code for rank, code in codes.items()}
    rank = min(codes, key=lambda r: (codes[r] == Preempted.code, r))
    if stage.left_code(name) == codes[rank]:
        sys.exit(codes[rank])  # and its message is there
    failed = ProcessFailed(rank, codes[rank])
    stage.leave_code(name, failed)
    raise failed


def join(processes: int, device: torch.device) -> None:
    """Meet the others; does nothing in a training of one process.

    Raises:
        UsageError: not as many were started as ``processes``.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != processes:
        raise UsageError(
            f"{started} processes were started, but train.processes is {processes}: the number is part of the result"
        )
    if processes > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def main(make: Callable[[], tuple[Stage, Body]]) -> None:
    """``stage.main``; of several processes the first runs the stage, the others its body along with it."""
    if int(os.environ.get("RANK", "0")):
        run(lambda: _follow(make))
    elif not stage.main(lambda: _leading(*make())):
        distributed.broadcast_bytes()  # it was done already: no work for the others
    if distributed.world_size() > 1:
        torch.distributed.destroy_process_group()


def _leading(this: Stage, body: Body) -> tuple[Stage, Body]:
    """The stage, with a body that first tells the others to begin."""

    def lead(this: Stage) -> None:
        distributed.broadcast_bytes(this.fingerprint.encode())
        _with_others(this, body)

    return this, lead


def _follow(make: Callable[[], tuple[Stage, Body]]) -> None:
    try:
        this, body = make()
        fingerprint = distributed.broadcast_bytes().decode()
        if not fingerprint:
            return
        if fingerprint != this.fingerprint:
            raise IntegrityError("this process has other code, parameters, data or hardware than the first one")
        this.watch_signals()
        _with_others(this, body)
    except MISTAKES as error:
        time.sleep(LOST_SECONDS)  # the first process has the same error, and says so
        sys.exit(explain(error)[0])
    except Preempted as stop:
        sys.exit(stop.code)


def _with_others(this: Stage, body: Body) -> None:
    """Run ``body``; an error in a collective operation because another process ended is no error of this one."""
    try:
        body(this)
    except RuntimeError:
        if distributed.world_size() > 1 and this.stop_requested(LOST_SECONDS):
            raise Preempted(f"another process of {this.full_name} ended; the same command continues") from None
        raise
