"""A tiny copy of the project in a temporary directory, with real data and real commands."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.runtime import audit, files
from tests.conftest import ROOT, textured_images
from tests.support.audits import NOTHING
from tests.support.forked import Forked

CODE = ("ssl_core", "tasks", "flows", "data/more", "data/sample", "weights", "labels")
PARTS = (*CODE, "dvc.yaml", "params.yaml", "presets", ".dvc/config", ".dvcignore", ".gitignore")


def copy_project(target: Path, git: bool = False) -> Path:
    """The product's files in ``target``; with ``git`` also a repository with one commit."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part)  # with its bytecode, which is valid for a file of the same time
        else:
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / part)
    if git:
        commit(target, "start")
    return target


def commit(project: Path, message: str, *paths: str) -> None:
    """Commit ``paths`` or everything, in a repository that is made if there is none."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q", "-b", "main"], ["add", *(paths or ["-A"])], [*identity, "commit", "-q", "-m", message]):
        subprocess.run(["git", *arguments], cwd=project, check=True)


def set_params(project: Path, values: Mapping[str, Any]) -> None:
    """Merge values into the copy's params.yaml, as a preset would."""
    import yaml

    from tasks.preset import merge

    path = project / "params.yaml"
    document = yaml.safe_load(path.read_text())
    merge(document, values)
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def environment(**extra: str) -> dict[str, str]:
    """The environment of a stage command: this interpreter first in PATH, its own store, nothing of an outer DVC run."""
    outer = ("DVC_", "SSL_", "MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE")  # importing flows names the tests' own store
    clean = {k: v for k, v in os.environ.items() if not k.startswith(outer)}
    clean["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{clean.get('PATH', '')}"
    return clean | {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"} | extra


def start(project: Path, *arguments: str, forked: bool = True, **extra: str) -> "Forked | subprocess.Popen[str]":
    """Start ``python -m ARGUMENTS`` in the project, in a process group of its own; not ``forked``, in a new interpreter.

    ``-c`` and a program instead of a module is ``python -c``.
    """
    env = environment(**extra)
    if forked:
        return Forked(project, arguments, env)
    pipe = subprocess.PIPE
    full = [sys.executable, *(() if arguments[0] == "-c" else ("-m",)), *arguments]
    return subprocess.Popen(full, cwd=project, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def command(project: Path, *arguments: str, forked: bool = True, **extra: str) -> "subprocess.CompletedProcess[str]":
    """``start``, and wait."""
    process = start(project, *arguments, forked=forked, **extra)
    output = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode or 0, *output)


def run_tests(project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """pytest in the project, with a folder of its own: in the common one it would first remove what earlier runs left there."""
    own = ("-q", "-n", "0", "-p", "no:cacheprovider", "--basetemp", f"{project}-tests")
    return command(project, "pytest", *own, *arguments)


def write_prepared(
    project: Path, n: int = 96, m: int = 32, size: int = 16, channels: int = 1, where: str = "data/prepared"
) -> None:
    """A prepared data set of ``n`` training and ``m`` test images in four classes."""

    def fill(directory: Path) -> None:
        train, test = textured_images(n, channels, size, 0), textured_images(m, channels, size, 1)
        np.save(directory / "train_images.npy", train)
        np.save(directory / "train_labels.npy", np.arange(n) % 4)
        np.save(directory / "train_holdout.npy", np.arange(n) % 10 == 0)
        np.save(directory / "test_images.npy", test)
        np.save(directory / "test_labels.npy", np.arange(m) % 4)
        meta = {"name": "blobs", "classes": ["a", "b", "c", "d"], "image_size": size, "channels": channels}
        numbers = {"mean": [0.5] * channels, "std": [0.2] * channels, "num_train": n, "num_test": m}
        files.write_json(directory / "meta.json", meta | numbers | {"source": "test", "license": "none"})
        audit.write(directory, NOTHING)

    files.write_directory(project / where, fill)


def rewrite(project: Path, **arrays: np.ndarray) -> None:
    """Replace arrays of the prepared data."""
    for name, array in arrays.items():
        np.save(project / f"data/prepared/{name}.npy", array)
    files.seal(project / "data/prepared")


TINY = {
    "encoder": {"width": 8},
    "train": {"epochs": 3, "epoch_share": 1.0, "batch_size": 16, "threads": 1, "precision": "float32", "health_images": 32},
    "augment": {"view_share": 1.0},
    "method": {"simclr": {"hidden": 16, "dim": 8, "train": {"epoch_share": 1.0}}},
}


def training_project(target: Path, **changes: Any) -> Path:
    """A copy of the project that is ready for a short training of SimCLR: prepared data and ``TINY``, with ``changes``."""
    copy_project(target)
    write_prepared(target)
    set_params(target, TINY)
    set_params(target, changes)
    return target


def duplicate(project: Path, target: Path) -> Path:
    """A copy of ``project`` with its times."""
    subprocess.run(["cp", "-a", str(project), str(target)], check=True)
    return target
