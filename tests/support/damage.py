"""Damage as disks make it: a bit, a byte, a piece of a file, its time kept; and a project in whose results to make it."""

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support import example_results
from tests.support import tiny_graph as tiny
from tests.support.project import copy_project

METHODS = ("simclr", "byol")


def rewrite(path: Path, data: bytes) -> None:
    """Other bytes in place, with the old times and permissions: DVC sees no change if the size is the same."""
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.chmod(status.st_mode)


def flip(path: Path, at: int = -2) -> None:
    """Change the lowest bit of one byte in place."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    rewrite(path, bytes(data))


def mutated(data: bytes, chance: random.Random) -> bytes:
    """``data`` with one fault in it, never ``data`` itself."""
    kinds: list[Callable[[bytes, int, int], bytes]] = [
        lambda d, i, n: d[:i] + bytes([d[i] ^ 1 << n % 8]) + d[i + 1 :],
        lambda d, i, n: d[:i] + bytes([n]) + d[i + 1 :],
        lambda d, i, n: d[:i],
        lambda d, i, n: d[:i] + d[i + 1 + n % 40 :],
        lambda d, i, n: d[:i] + d[i : i + n] + d[i:],
        lambda d, i, n: d[:i] + b"\0" * n + d[i + n :],
        lambda d, i, n: d[:i] + chance.choice(WORDS) + d[i + n % 4 :],
        lambda d, i, n: _swapped(d, chance),
    ]
    while True:
        new = chance.choice(kinds)(data, chance.randrange(len(data)), chance.randrange(256))
        if new != data:
            return new


WORDS = [
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b'""',
    b"{}",
    b"[]",
    b"true",
    b"\n",
    b'"\\ud800"',
    b"9" * 400,
    b"\xff",
    b",",
    b"[" * 3000,
]


def _swapped(data: bytes, chance: random.Random) -> bytes:
    """Another value for one key of a JSON file or line; where there is none, two lines in the other's place."""
    lines = data.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    for text, put in ((data, lambda new: new), (lines[at], lambda new: b"".join([*lines[:at], new + b"\n", *lines[at + 1 :]]))):
        try:
            values = json.loads(text)
            inner = values
            while isinstance(inner, dict) and inner:
                key = chance.choice(list(inner))
                if not isinstance(inner[key], dict) or not inner[key] or chance.random() < 0.3:
                    if chance.random() < 0.3:
                        del inner[key]
                    else:
                        inner[key] = chance.choice([None, 0, -1, 2**70, 0.5, "x", [], {}, True, "7", [[1]]])
                    break
                inner = inner[key]
            return put(json.dumps(values).encode())
        except ValueError:
            continue
    other = chance.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]
    return b"".join(lines)


def recorded_project(target: Path) -> Path:
    """The product's files with results of two methods, which DVC has recorded in dvc.lock and put into its cache."""
    from tasks.tracking.journal import Journal

    copy_project(target)
    example_results.write_project(target, methods=METHODS, num_test=60)
    for method in METHODS:
        with Journal(target / f"out/journal/evaluate-{method}-0.jsonl") as journal:
            about = {"stage": f"evaluate@{method}-0", "name": method, "seed": 0, "tags": {}, "params": {}}
            journal.start(fingerprint=method * 3, **about)
            journal.end("FINISHED", encoder_sha256="ab" * 32)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    stages = ["prepare", *(f"{stage}@{method}-0" for stage in ("pretrain", "evaluate") for method in METHODS)]
    done = tiny.dvc(target, "commit", "--force", *stages)
    assert done.returncode == 0, done.stderr
    return target
