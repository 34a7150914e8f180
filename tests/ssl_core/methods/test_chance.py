"""What guessing gets right in a method's own task stands beside what the method gets right."""

from typing import Any

import pytest

from ssl_core.catalogue import ABOUT_LOSS, METHODS, SHOWS, load_class
from tests.ssl_core.engine.test_contract import BATCH, build


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("rotation", 1 / 4),
        ("jigsaw", lambda config: 1 / config.permutations),
        ("context", 2 / 12),  # of a grid of 2: two of the twelve pairs go right, two left, two up, two down
        ("exemplar", lambda config: 1 / min(config.seeds, 64)),
        ("cpc", lambda config: 1 / (BATCH * config.grid**2)),
    ],
)
def test_guessing_is_logged_beside_the_accuracy(shipped: dict[str, Any], name: str, share: Any) -> None:
    method, trainer = build(shipped, name, epochs=1)
    trainer.run()
    expected = share(method.config) if callable(share) else share
    assert trainer.history[-1]["chance"] == pytest.approx(expected, rel=1e-5) and "accuracy" in trainer.history[-1]


def test_every_method_says_what_the_rows_of_its_sheet_are() -> None:
    assert len(SHOWS) >= 20 and SHOWS.keys() <= METHODS.keys() and "pcl" in ABOUT_LOSS
    for name, text in SHOWS.items():
        assert load_class(name).shows == text and text
