"""The benchmark against other libraries: every training of it takes steps, and the page gets the tables."""

import argparse
import itertools
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.__main__ import BEGIN, END, around
from benchmarks.images import write_jpegs
from benchmarks.measure import Contender, interleave
from benchmarks.training import FLOORS, Bench, best, like, settings
from benchmarks.trials import SIZE, Pictures, Setting, Trial, read_pictures, steps

pytestmark = pytest.mark.slow
IMAGES, BATCH = 1024, 32
SETTING = Setting("float32", 1, "sleep", "small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    write_jpegs(path, IMAGES, SIZE)
    return path


@pytest.fixture(scope="module")
def pictures(folder: Path) -> Pictures:
    return read_pictures(folder, IMAGES)


def stopped(pid: int) -> bool:
    """Whether a process is stopped within ten seconds: it obeys when it next has a processor."""
    deadline = time.monotonic() + 10
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(("side", "method"), itertools.product(("ours", "lightly", "step"), sorted({m for m, _ in FLOORS})))
def test_each_side_of_each_method_takes_steps(side: str, method: str, pictures: Pictures) -> None:
    made = steps(Trial(side, method, 8, BATCH, SETTING), pictures)
    assert [next(made) for _ in range(3)] == [BATCH] * 3
    made.close()


def test_the_fastest_setting_is_chosen_in_processes_that_wait_stopped(folder: Path) -> None:
    bench = Bench(folder, IMAGES)
    try:
        settings = [SETTING, Setting("float32", 1, "spin", "huge")]
        trials = [Trial("step", "simclr", 8, BATCH, setting) for setting in settings]
        chosen, row = best(bench, trials, 0.1)
        for process in bench._processes.values():
            assert stopped(process.pid)
        with pytest.raises(RuntimeError, match="failed"):
            bench.measure(Trial("ours", "no_such_method", 8, BATCH, SETTING), 0.1)
    finally:
        bench.close()
    assert chosen in trials and row.startswith(f"| simclr | 8 | step | {chosen.setting}: ")


def test_every_setting_is_tried_and_later_ones_keep_what_depends_on_the_machine() -> None:
    options = argparse.Namespace(quick=False, threads=2)
    every = settings(("float32", "bf16"), options)
    assert len(set(every)) == 16
    assert like(SETTING, every) == [Setting(p, n, "sleep", "small") for p in ("float32", "bf16") for n in (1, 2)]
    assert len(settings(("float32", "bf16"), argparse.Namespace(quick=True, threads=2))) == 2


@pytest.mark.parametrize(("ours", "held"), [(250.0, True), (170.0, True), (150.0, False)])
def test_a_ratio_below_its_floor_fails_but_for_noise(ours: float, held: bool) -> None:
    contenders = [Contender("ours", lambda seconds: ours, {"other": 2.0}), Contender("other", lambda seconds: 100.0)]
    rows, found = interleave("title", contenders, rounds=3, seconds=0.0)
    assert found is held
    assert f"**{ours / 100:.2f}x** other" in rows[0]


def test_the_tables_go_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    parser = argparse.ArgumentParser()
    page.write_text(f"above\n{BEGIN}old{END}\nbelow\n")
    assert around(page, parser) == ("above\n", "\nbelow\n")
    page.write_text(f"{END}{BEGIN}")
    with pytest.raises(SystemExit):
        around(page, parser)
