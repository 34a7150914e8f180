"""Decodes many image files at once in child processes; a file that kills its decoder is named, and nothing hangs."""

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from tasks.prepare import decoding
from tasks.runtime.cores import cores
from tasks.runtime.errors import EnvironmentFault

BATCH_FILES, BATCH_BYTES = 64, 8 << 20


@dataclass(frozen=True)
class Job:
    """One file to decode: where its pixels go, its name, its bytes (or why there are none), and which tile of it."""

    row: int
    name: str
    data: bytes | decoding.BadImage
    part: decoding.Part | None = None


@dataclass(frozen=True)
class Done:
    """The answer to a job: ``pixels`` (S * S * C values in H, W, C order) and ``facts``, or ``bad``."""

    row: int
    pixels: bytes = b""
    facts: decoding.Facts | None = None
    bad: str = ""


def decode_all(
    jobs: Iterator[Job],
    size: int,
    channels: int,
    workers: int | None = None,
    depth: int = decoding.DEPTH,
    bits: int = 8,
    fit: str = "crop",
) -> Iterator[Done]:
    """Decode ``jobs`` in any order; they are pulled as fast as they are decoded, so memory stays bounded.

    Args:
        depth, bits, fit: as ``decoding.decode`` takes them.

    Raises:
        EnvironmentFault: the workers do not start.
        Exception: whatever ``jobs`` raises.
    """
    batches = _Shared(_batches(jobs))
    answers: queue.Queue[list[Done] | BaseException | None] = queue.Queue(maxsize=4)
    stopped = threading.Event()
    count = workers or cores()
    command = [sys.executable, "-I", decoding.__file__, *map(str, (size, channels, depth, bits, fit))]
    threads = [threading.Thread(target=_drive, args=(batches, answers, stopped, command), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        left = count
        while left:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                left -= 1
                continue
            yield from answer
    finally:
        stopped.set()
        while any(t.is_alive() for t in threads):  # let blocked producers see the flag
            try:
                answers.get(timeout=0.05)
            except queue.Empty:
                continue


class _Shared:
    """An iterator several threads may pull from."""

    def __init__(self, batches: Iterator[list[Job]]):
        self._batches, self._lock = batches, threading.Lock()

    def next(self) -> list[Job] | None:
        with self._lock:
            return next(self._batches, None)


def _batches(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    batch: list[Job] = []
    size = 0
    for job in jobs:
        batch.append(job)
        size += len(job.data) if isinstance(job.data, bytes) else 0
        if len(batch) == BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _drive(
    batches: _Shared,
    answers: "queue.Queue[list[Done] | BaseException | None]",
    stopped: threading.Event,
    command: list[str],
) -> None:
    """One thread: pass batches to its own child process until there are no more."""
    worker = _Worker(command)
    try:
        while not stopped.is_set() and (batch := batches.next()) is not None:
            answers.put([Done(job.row, bad=str(job.data)) for job in batch if not isinstance(job.data, bytes)])
            answers.put(worker.decode([job for job in batch if isinstance(job.data, bytes)]))
        answers.put(None)
    except BaseException as error:
        answers.put(error)
    finally:
        worker.close()


class _Worker:
    """A child process, started when first needed and again when it died."""

    def __init__(self, command: list[str]):
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert self._process.stdout
            try:
                decoding.receive(self._process.stdout)
            except EOFError:
                raise EnvironmentFault(
                    f"the image decoder does not start (exit {self.close()}); reinstall Pillow: make setup"
                ) from None
        assert self._process.stdin and self._process.stdout
        return self._process.stdin, self._process.stdout

    def decode(self, items: list[Job]) -> list[Done]:
        """The answers to ``items``, whose bytes are there; a file that kills the child twice is bad."""
        done: list[Done] = []
        killed = -1  # the item the child died on last
        while len(done) < len(items):
            try:
                for answer in self._ask(items[len(done) :]):
                    done.append(answer)
            except (EOFError, BrokenPipeError):
                code = self.close()
                if killed == len(done):
                    done.append(
                        Done(items[killed].row, bad=f"the decoder crashed on it or took over {decoding.SECONDS} s ({code})")
                    )
                killed = len(done)
        return done

    def _ask(self, items: list[Job]) -> Iterator[Done]:
        sink, source = self._start()
        blobs = [job.data for job in items if isinstance(job.data, bytes)]
        headers = [(job.name, len(blob), job.part) for job, blob in zip(items, blobs, strict=True)]
        decoding.send(sink, headers, b"".join(blobs))
        for job in items:
            header, pixels = decoding.receive(source)
            yield Done(job.row, bad=header["bad"]) if "bad" in header else Done(job.row, pixels, decoding.Facts(**header))

    def close(self) -> str:
        """End the child; how it ended, in words."""
        process, self._process = self._process, None
        if process is None:
            return ""
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            code = process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        process.stdout.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"
