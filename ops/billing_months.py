"""Owns a month as operators hand it from verb to verb: its name, whether it is closed, and from when until when it is."""

from __future__ import annotations

from datetime import datetime

import msgspec

from models.ids import to_datetime
from models.months import Month


class BillingMonth(msgspec.Struct, frozen=True):
    """`until` (excluded) is not later than now; `status` is `final`, or `provisional` while the month is not closed."""

    name: str
    status: str
    since: datetime
    until: datetime

    @property
    def days(self) -> int:
        """Whole days of it until now; at least one."""
        return max(1, (self.until - self.since).days)

    def __repr__(self) -> str:
        return f"{self.name} ({self.status}): {self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} UTC"


def billing_month(month: Month, now_us: int) -> BillingMonth:
    """A month that is still to come is empty: it begins and ends with its first moment."""
    until_us = max(month.start_us, min(month.end_us, now_us))
    status = "final" if month.is_closed(now_us) else "provisional"
    return BillingMonth(str(month), status, to_datetime(month.start_us), to_datetime(until_us))
