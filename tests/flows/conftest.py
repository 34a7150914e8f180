"""The Prefect server of these tests ends with them."""

import pytest

from tests.support import prefect_server


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Called by pytest. An idle server takes a twentieth of a core from the tests that follow in this process."""
    if nextitem is None or not nextitem.nodeid.startswith("tests/flows/"):
        prefect_server.leave()
