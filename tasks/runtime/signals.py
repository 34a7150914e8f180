"""Requests to stop, SIGTERM and SIGINT: noted from the first import of a stage on, answered in time whatever it computes."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

PREEMPTED = 75  # ``errors.Preempted.code``; nothing of ours is imported here, so that this comes first
ASKED = (signal.SIGTERM, signal.SIGINT)
asked = threading.Event()
"""A signal came before there was a stage to tell."""


def watch_command() -> None:
    """Note signals from now on, if Python is about to run the package that calls this (``python -m tasks.STAGE``)."""
    if sys.argv[:1] == ["-m"]:  # so it is called while Python looks for the module to run
        for number in ASKED:
            signal.signal(number, _note)


def _note(number: int, frame: Any) -> None:
    if asked.is_set() and number == signal.SIGINT:
        os._exit(PREEMPTED)
    asked.set()


def answer(stop: threading.Event, seconds: float, over: threading.Event, end: Callable[[], None]) -> None:
    """Set ``stop`` at a signal, of before or to come; a second SIGINT interrupts. To be called in the main thread.

    Whatever runs, a call of a library that takes minutes, too: ``end`` is called that many ``seconds`` later, unless it is
    ``over`` by then.
    """

    def ask(number: int, frame: Any) -> None:
        if seen.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.set()
        stop.set()

    def wait() -> None:
        while not asked.is_set() and os.read(reader, 1)[0] not in ASKED:
            continue
        stop.set()
        if not over.wait(seconds):
            end()

    seen = threading.Event()  # not ``stop``, which the thread may set before Python calls ``ask``
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in ASKED:
        signal.signal(number, ask)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=wait, daemon=True).start()
