"""The prepared images shrink or change in place under a training that has them mapped."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support import damage
from tests.support.processes import wait_for
from tests.support.project import command, duplicate, start, training_project

STAGE = ("tasks.pretrain", "simclr", "0")
READS = {
    "numpy": "array[-1].sum()",
    "torch": "torch.from_numpy(array).index_select(0, torch.tensor([len(array) - 1]))",
    "several threads": "torch.set_num_threads(4); torch.from_numpy(array).to(torch.float32)",
}
PROGRAM = """
import warnings
from pathlib import Path
import numpy as np
import torch
from tasks.runtime.bus_error import on_bus_error
warnings.simplefilter("ignore")
np.save("x.npy", np.ones((64, 100_000), np.uint8))
array = np.load("x.npy", mmap_mode="r")
on_bus_error(lambda: print("it shrank", flush=True), 6)
Path("x.npy").open("r+b").truncate(4096)
{read}
print("it was read", flush=True)
"""


@pytest.mark.fault("F29")
@pytest.mark.parametrize("how", READS)
def test_a_bus_error_is_told_by_whoever_reads(tmp_path: Path, how: str) -> None:
    program = PROGRAM.format(read=READS[how])
    done = command(tmp_path, "-c", program, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout) == (6, "it shrank\n"), done.stderr


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_project(tmp_path_factory.mktemp("mapped") / "p", method={"simclr": {"train": {"epochs": 20}}})


@pytest.mark.fault("F28", "F29")
@pytest.mark.parametrize("how", ["cut", "a bit, with its time put back"])
def test_images_that_change_under_a_training_are_named_and_nothing_of_it_is_kept(
    template: Path, tmp_path: Path, how: str
) -> None:
    project = duplicate(template, tmp_path / "p")
    images = project / "data/prepared/train_images.npy"
    whole = images.read_bytes()
    process = start(project, *STAGE, SSL_CHECKPOINT_SECONDS="0")
    wait_for(lambda: list(project.glob(".ssl/work/*/*/checkpoints/step-*")))
    if how == "cut":
        with images.open("r+b") as file:
            file.truncate(100)
    else:
        damage.flip(images)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 6, said
    assert "train_images.npy does not match its manifest; run python -m tasks.doctor" in said.splitlines()[-1]
    assert "Traceback" not in said and not (project / "out/encoders").exists()
    if how != "cut":
        images.write_bytes(whole)
        again = command(project, *STAGE)
        assert again.returncode == 0 and "continuing" not in again.stderr, again.stderr
