"""Owns the period that a notebook looks at: whole days, UTC."""

from __future__ import annotations

from datetime import date, timedelta

import msgspec

from models.checks import check_whole
from models.ids import DAY_US, to_datetime

MOST_DAYS = 3_660


class Period(msgspec.Struct, frozen=True):
    """From `since` to `until`, which is the first day after it. Both serve wherever a verb asks for them."""

    since: date
    until: date

    @property
    def days(self) -> int:
        return (self.until - self.since).days

    @property
    def before(self) -> Period:
        """As many days, just before it."""
        return Period(self.since - timedelta(self.days), self.since)

    def __repr__(self) -> str:
        return f"{self.since} to {self.until - timedelta(1)}, {self.days} days (UTC)"


def period_of(days: int, until_us: int) -> Period:
    """So many days that end with the one before `until_us`; a part of a day counts as one. Raises BadInput."""
    count = check_whole(days, field="days", least=1, most=MOST_DAYS)
    until = to_datetime(-(-until_us // DAY_US) * DAY_US).date()
    return Period(until - timedelta(count), until)
