"""How many cores a process counts on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.runtime.cores import cores
from tests.conftest import ROOT

MINE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000\n", MINE), ("50000 100000\n", 1), ("100000 100000\n", 1), (f"{MINE + 7}00000 100000\n", MINE), ("odd", MINE)],
)
def test_a_container_limit_counts_and_no_limit_does_not(tmp_path: Path, limit: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    assert cores(tmp_path / "cpu.max") == expected
    assert cores(tmp_path / "missing") == MINE


def test_a_process_bound_to_one_core_runs_one_stage_at_a_time() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += (
        "from pathlib import Path; from tasks.dvc.schedule import default_parallelism; print(default_parallelism(Path('.')))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"
