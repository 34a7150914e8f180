"""Every method's first twenty losses are the remembered ones (tests/golden.py says how to renew them)."""

from typing import Any

import pytest

from tests import golden
from tests.ssl_core.engine.test_contract import TRAINED


@pytest.fixture(scope="module")
def remembered() -> dict[str, Any]:
    return golden.read()


@pytest.mark.parametrize("name", TRAINED)
def test_the_first_twenty_losses_are_the_remembered_ones(remembered: dict[str, Any], name: str) -> None:
    expected = pytest.approx(remembered["losses"][name], rel=golden.TOLERANCE, abs=1e-5)
    assert golden.losses(remembered["params"], name) == expected, "meant? python -m tests.golden renews them"
