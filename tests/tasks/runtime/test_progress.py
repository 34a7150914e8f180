"""Progress: the time that is left is told once the rate says something."""

import pytest

from tasks.runtime.progress import Progress


@pytest.mark.parametrize(
    ("done", "seconds", "said"),
    [
        (1, 1.0, "  0 %"),  # the first unit waited for what had to start: no estimate of ten minutes
        (60, 1.0, " 10 %  60 images/s  0:09 left"),
        (2, 4.0, "  0 %  30.0 images/min  19:56 left"),
        (600, 1.0, "100 %  600 images/s  0:01 taken"),
        (600, 0.5, "100 %  1,200 images/s  0:00 taken"),
    ],
)
def test_an_estimate_is_given_when_the_rate_says_something(done: int, seconds: float, said: str) -> None:
    progress = Progress("reading", 600, "images")
    assert progress._status(done, progress.start + seconds, "") == said
