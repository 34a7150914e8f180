"""Every method's first twenty losses are the remembered ones, on any processor, and a small change of a method shows.

tests/golden.py says what is compared, how far two processors may differ, and how to renew the numbers.
"""

import copy
from typing import Any

import pytest

from ssl_core.parts.losses import unit
from tests import golden
from tests.ssl_core.engine.test_contract import TRAINED

OWN = {
    "counting": "margin",
    "npid": "temperature",
    "moco": "temperature",
    "simclr": "temperature",
    "pirl": "temperature",
    "pcl": "temperature",
    "barlow": "weight",
    "vicreg": "invariance",
    "swav": "temperature",
    "dino": "student_temperature",
    "nnclr": "temperature",
    "lejepa": "weight",
}
"""A number of the method that acts from its first steps."""


@pytest.fixture(scope="module")
def remembered() -> dict[str, Any]:
    return golden.read()


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.fault("F51")
def test_the_first_twenty_losses_are_the_remembered_ones(remembered: dict[str, Any], name: str) -> None:
    computed = golden.losses(remembered["params"], name)
    assert len(computed) == golden.STEPS
    assert golden.excess(remembered, name, computed) <= 1, f"meant? python -m tests.golden {name} renews them"


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.fault("F41", "F51")
def test_a_small_change_of_a_method_is_no_rounding(remembered: dict[str, Any], name: str) -> None:
    """A number of its own changed by a hundredth; a tenth of the learning rate where it has none that acts at once."""
    values = copy.deepcopy(remembered["params"])
    block = values["method"][name]
    if name in OWN:
        block[OWN[name]] *= 1.01
        steps = 5
    else:
        block["train"] = block.get("train", {})
        block["train"]["lr"] = 1.1 * block["train"].get("lr", values["train"]["lr"])
        steps = golden.STEPS
    assert golden.excess(remembered, name, golden.losses(values, name, steps)) > 1


def test_a_dropped_stop_gradient_is_no_rounding(remembered: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_core.methods.simsiam.negative_cosine", lambda p, z: -(unit(p) * unit(z)).sum(1).mean())
    assert golden.excess(remembered, "simsiam", golden.losses(remembered["params"], "simsiam", steps=5)) > 1
