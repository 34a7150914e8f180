"""What a GPU would refuse or wait for, on a simulated second device (``tests/support/far.py``)."""

import json
from typing import Any

import pytest

from ssl_core.catalogue import METHODS
from tests.conftest import ROOT
from tests.support.project import command

TRAINED = [*METHODS, "supervised"]


@pytest.fixture(scope="module")
def lines() -> dict[str, dict[str, Any]]:
    done = command(ROOT, "tests.support.far", *TRAINED, forked=False)
    assert done.returncode == 0, done.stderr
    return {line["method"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("method", TRAINED)
def test_a_method_trains_on_another_device_and_no_step_waits_for_it(lines: dict[str, dict[str, Any]], method: str) -> None:
    found = lines[method]
    assert found["far"] == pytest.approx(found["near"], rel=1e-3)
    assert found["waits"] == {}, "the host waits for the device at every step"
    assert found["unordered"] == {}, "a GPU in deterministic mode has no such operation"
