"""When schedules fire: in UTC as shipped, so no hour is skipped or doubled; in a zone of the user's, by its clock."""

import asyncio
from datetime import UTC, datetime, timedelta

import yaml

from tests.conftest import ROOT

CHANGES = (datetime(2027, 3, 27, tzinfo=UTC), datetime(2027, 10, 30, tzinfo=UTC))  # the days before Europe's clocks change


def times(start: datetime, cron: str, timezone: str) -> list[datetime]:
    """When a schedule fires from then on, four times."""
    from prefect.server.schemas.schedules import CronSchedule

    dates = asyncio.run(CronSchedule(cron=cron, timezone=timezone).get_dates(4, start=start))
    return [when.astimezone(UTC) for when in dates]


def test_the_shipped_schedules_never_skip_or_double() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    schedules = [schedule for deployment in deployments for schedule in deployment.get("schedules", [])]
    assert len(schedules) == 4 and {schedule["timezone"] for schedule in schedules} == {"UTC"}
    for start in CHANGES:
        assert times(start, schedules[0]["cron"], "UTC") == [start + timedelta(days=day, hours=2) for day in range(4)]


def test_a_zone_of_the_user_s_keeps_its_clock_through_both_changes() -> None:
    spring, autumn = ([when.hour for when in times(start, "0 4 * * *", "Europe/Berlin")] for start in CHANGES)
    assert spring == [3, 2, 2, 2] and autumn == [2, 3, 3, 3]  # UTC of 04:00 on the clock
