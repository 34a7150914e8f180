"""What many tests share: the shipped parameters, tiny images, and a method built from them."""

import copy
import gc
import logging
import os
import signal
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from xdist.scheduler import LoadFileScheduling

import tasks
from tasks.runtime.cores import cores

ROOT = Path(__file__).resolve().parent.parent
# A script's background job (``make test &``) ignores Ctrl-C, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The first gradient decides for the whole process: after an export, which pretends that there is a GPU, it would start a thread
# for that GPU, and a process forked from this one could compute none.
torch.ones((), requires_grad=True).backward()  # type: ignore[no-untyped-call]
gc.disable()  # until all is imported: looking through half a million objects that stay takes three seconds of each worker


def pytest_unconfigure() -> None:
    """Prefect says goodbye to its servers after the streams are closed: no traceback about that below the result."""
    logging.raiseExceptions = False


TOGETHER = {
    "tests/flows/test_deployments.py": "a Prefect server and workers",
    "tests/flows/test_machines.py": "a Prefect server and workers",
    "tests/flows/": "a Prefect server",
    "tests/tasks/register/": "a registered project",
    "tests/tasks/test_embed.py": "a registered project",
    "tests/tasks/tracking/": "an empty store of MLflow",
}
"""Tests that share what takes long to make; one worker runs them all."""
MOST_WORKERS = 12
"""Each takes a gigabyte, and what must stay together leaves no work for more."""
COMMANDS = ("tests.support.project", "tests.support.tiny_graph", "tests.support.registered")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests start commands are marked ``slow``. They come first, so that no worker is left with one at the end."""
    for item in items:
        names = {getattr(value, "__module__", None) or getattr(value, "__name__", None) for value in vars(item.module).values()}  # type: ignore[attr-defined]
        if names.intersection(COMMANDS):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (not item.nodeid.startswith(tuple(TOGETHER)), item.get_closest_marker("slow") is None))


def pytest_collection_finish() -> None:
    """From here on, garbage is looked for among what tests make, as often as a command does."""
    gc.freeze()
    gc.set_threshold(*tasks.GARBAGE)
    gc.enable()


class ByFile(LoadFileScheduling):
    """The tests of a file go to one worker, and so do those that share something."""

    def _split_scope(self, nodeid: str) -> str:
        shared = (what for start, what in TOGETHER.items() if nodeid.startswith(start))
        return next(shared, super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Called by pytest-xdist."""
    return ByFile(config, log)


def pytest_xdist_auto_num_workers() -> int:
    """Called by pytest-xdist: three workers on two cores. While one waits for a server or a signal, the others compute."""
    return max(1, min(cores() * 3 // 2, MOST_WORKERS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """One thread again, whatever the test before has left: threads of several workers wait for each other's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def shipped() -> dict[str, Any]:
    """params.yaml as shipped; copy before changing it (``shipped_copy``)."""
    from tasks.runtime import params

    return params.load(ROOT / "params.yaml")


@pytest.fixture
def shipped_copy(shipped: dict[str, Any]) -> dict[str, Any]:
    """params.yaml as shipped, free to change."""
    return copy.deepcopy(shipped)


def textured_images(n: int, channels: int, size: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """(n, C, size, size) uint8 of smooth random blobs: unlike noise, they have edges, shapes and an up and a down."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 6, 6, generator=generator)
    ramp = torch.linspace(0, 0.5, size)[None, None, :, None]
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return ((0.7 * fine + ramp).clamp(0, 1) * 255).to(torch.uint8).numpy()
