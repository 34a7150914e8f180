"""A machine that lacks memory or open files is no damage of the files, and no bug."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tasks.runtime import dataset, files
from tasks.runtime.errors import explain
from tests.conftest import ROOT
from tests.support.project import write_prepared

READ = {
    "images": "dataset.load(Path('data/prepared'))",
    "manifest": "files.verify(Path('data/prepared'))",
    "tensors": "files.load_tensors(Path('x.safetensors'))",
}
SHORT = """
import os, resource
from pathlib import Path
from tasks.runtime import dataset, errors, files
def main():
    errors.explain(OSError(24, "Too many open files"))  # imports what it needs
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    {read}
errors.run(main)
"""


@pytest.mark.fault("F31")
@pytest.mark.parametrize("what", READ)
def test_too_many_open_files_are_a_fault_of_the_environment(tmp_path: Path, what: str) -> None:
    write_prepared(tmp_path)
    files.save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(3).numpy()})
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    program = SHORT.format(read=READ[what])
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert "Too many open files" in done.stderr and done.stderr.count("\n") == 1 and "dvc repro" not in done.stderr


@pytest.mark.fault("F23")
@pytest.mark.parametrize("read", [dataset.load, files.verify, lambda p: files.read_json(p / "meta.json")])
def test_a_disk_that_fails_is_named_and_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: object) -> None:
    write_prepared(tmp_path)
    place = tmp_path / "data/prepared"

    def fails(*_: object, **__: object) -> object:
        raise OSError(5, os.strerror(5), str(place))

    monkeypatch.setattr("io.open", fails)
    monkeypatch.setattr("builtins.open", fails)
    with pytest.raises(OSError) as caught:
        read(place)  # type: ignore[operator]
    code, message = explain(caught.value)
    assert code == 4 and message == f"Input/output error ({place})"


WORDS = [
    MemoryError(),
    RuntimeError("could not create a primitive"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    ),
    RuntimeError("std::bad_alloc"),
    RuntimeError("can't start new thread"),
]


@pytest.mark.fault("F45")
@pytest.mark.parametrize("error", WORDS, ids=str)
def test_short_memory_says_what_to_lower(error: Exception) -> None:
    code, message = explain(error)
    assert code == 4 and "train.batch_size" in message


@pytest.mark.fault("F44")
def test_a_gpu_without_memory_says_what_to_lower() -> None:
    """torch's own exception, as a step of a training raises it."""
    code, message = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))
    assert code == 4 and "train.batch_size" in message


ALLOCATES = """
import resource
import torch
from tasks.runtime import errors
def main():
    limit = 3 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.nn.functional.conv2d(torch.ones(64, 64, 256, 256), torch.ones(64, 64, 3, 3))
errors.run(main)
"""


@pytest.mark.fault("F45")
def test_a_process_that_may_have_no_more_memory_ends_with_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", ALLOCATES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 4 and done.stderr.count("\n") == 1, done.stderr
    assert "train.batch_size" in done.stderr
