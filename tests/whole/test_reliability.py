"""The page of faults says what the tests say."""

from tests import reliability


def test_the_page_of_faults_is_up_to_date() -> None:
    assert reliability.page() == reliability.PAGE.read_text(), "run python -m tests.reliability"


def test_nothing_is_marked_that_is_not_on_the_list_and_no_entry_is_written_twice() -> None:
    listed = [key for chapter in reliability.faults().values() for key in chapter]
    assert len(listed) == len(set(listed)) and reliability.marks().keys() <= set(listed)
    assert all(len({test for test, _ in tests}) == len(tests) for tests in reliability.marks().values())
