"""The other benchmarks, in miniature: what they count and measure is what is there."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import channels, evidence, large, shares
from benchmarks.label_free_study import told
from tasks.tracking.journal import Journal
from tests.conftest import ROOT
from tests.support import example_results

pytestmark = pytest.mark.slow
DIM, SIDE, BYTES = 128, 28, 4
"""Of params.yaml: width of a projection, side of an image; and of a float32."""


def test_what_processes_send_follows_from_the_shapes() -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.collectives",
        "tiny",
        "--processes",
        "2",
        "--methods",
        "simclr",
        "rotation",
        "moco",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = {cells[0]: [float(cell) for cell in cells[1:]] for cells in map(split, done.stdout.splitlines()[2:])}
    gradients, _, vectors, images = zip(*(rows[name] for name in ("simclr", "rotation", "moco")), strict=True)
    view = 4 * round(0.7 * SIDE / 4)
    assert vectors == (pytest.approx(2 * DIM * BYTES / 1e3, rel=0.01), 0, pytest.approx(2 * DIM * BYTES / 1e3, rel=0.02))
    assert images == (0, 0, pytest.approx(3 * view**2 * BYTES / 1e3, rel=0.01))
    assert gradients[0] > gradients[1] > 0  # a head on the encoder, and none


def split(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_memory_of_a_process_is_seen_while_it_lives() -> None:
    code = "import time; held = bytearray(80_000_000); time.sleep(3)"
    process = subprocess.Popen([sys.executable, "-c", code])
    own, together = large.memory(process)
    assert process.returncode == 0
    assert 80 < own <= together < 120


def test_a_file_that_the_system_forgot_trains_as_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = argparse.Namespace(gigabytes=0.02, rounds=1, seconds=0.1)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)
    *rates, ratio = large.disk(options)
    assert [row.what.partition("GB ")[2] for row in rates] == ["in memory", "from the disk"]
    assert ratio.held == (float(ratio.value.rstrip("%")) >= 95)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "presets"]


def test_wide_features_are_scored_and_what_that_takes_is_told() -> None:
    neighbors, probe = large.evaluation(argparse.Namespace(features=400))
    assert neighbors.what.startswith("kNN, 2,000 queries, 400 x 512") and probe.what.startswith("linear probe")
    assert neighbors.value.endswith("MB more than before")


def test_the_cost_of_stages_is_what_their_journals_say(tmp_path: Path) -> None:
    for name, cost in (
        ("simclr-0", {"seconds": 2.5}),
        ("byol-0", {"seconds": 1.0}),
        ("evaluate-byol-0", {"evaluation_seconds": 4}),
    ):
        with Journal(tmp_path / f"{name}.jsonl") as journal:
            journal.start(fingerprint="0" * 64, stage="pretrain", name=name, seed=0, tags={}, params={})
            journal.end("FINISHED", cost=cost)
    assert shares.costs(tmp_path, "seconds") == 3.5
    assert shares.costs(tmp_path, "evaluation_seconds") == 4


def test_bands_are_a_spectrum_through_the_colors_and_dark_images_keep_three_levels_in_eight_bits() -> None:
    color, random = np.tile(np.array([100, 80, 30], np.uint8), (64, 64, 1)), np.random.default_rng(0)
    four, many = (channels.bands(color, count, random) for count in (4, 13))
    assert four.dtype == np.uint8 and four.shape == (64, 64, 4) and many.shape == (64, 64, 13)
    assert four.mean((0, 1)) == pytest.approx([30, 80, 100, 120], abs=0.5) and 3 < four[..., 1].std() < 5
    assert many.mean((0, 1))[[0, 2, 4, 8, 10, 12]] == pytest.approx([30, 55, 80, 100, 110, 120], abs=0.5)
    wide = channels.dark(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert (wide.dtype, int(wide.max()), len(np.unique(wide))) == (np.uint16, 600, 256)
    assert len(np.unique(np.rint(wide / 257))) == 3


def test_the_page_names_the_methods_that_are_not_clearly_above_the_untrained_encoder() -> None:
    found = {key: [0.8] for key in channels.METHODS} | {"moco": [0.45], "byol": [0.2], "random_init": [0.4, 0.5, 0.6]}
    said = channels.compared(found, "4 bands")
    assert said.startswith("- On 4 bands, 18 of 20 are above the mean") and "18 by more than twice" in said
    assert said.endswith("Within it: moco. Below: byol.")
    lines = channels.table({"4 bands": found}, ["4 bands"]).splitlines()
    assert "| simclr | 80.0 | +30.0 |" in lines and lines[-1] == "| random_init | 50.0 ± 10.0 |  |" and len(lines) == 23


def test_the_evidence_says_what_each_method_adds_to_the_untrained_network(tmp_path: Path) -> None:
    """The example's features of SimCLR hold more of the class than those of the untrained network."""
    example_results.write_project(tmp_path, seeds=(0, 1))
    lines = [line.split(" | ") for line in evidence.above_untrained(tmp_path).splitlines() if line.startswith("| ")][2:]
    rows = {cells[0].removeprefix("| "): cells[1:] for cells in lines}
    assert list(rows) == ["simclr", "moco", "byol", "rotation", "jigsaw"]  # in the leaderboard's order, no baseline
    for kind, (points, clear) in {"linear": rows["simclr"][:2], "knn": rows["simclr"][2:]}.items():
        more, low, high = (float(number) for number in re.findall(r"[+−]?[\d.]+", points.replace("−", "-")))
        assert 0 < low < more < high and clear.startswith("yes"), kind


def test_what_a_few_labels_tell_is_held_against_the_test() -> None:
    explained = torch.tensor([0.5, 0.4, 0.1, 0.49]).double()[:, None] + 0.1 * torch.randn(4, 100, generator=_seeded()).double()
    right = torch.rand(4, 1000, generator=_seeded()) < torch.tensor([0.5, 0.4, 0.7, 0.5])[:, None]
    found = told(explained, right)
    assert found.others == 3 and found.clear == 2  # not the last one, which is as good
    assert found.better == found.clearly == 1  # the third one, by the test


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)
