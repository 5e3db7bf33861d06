"""Owns calendar months in UTC as values: how they are written, where they begin, and which request ids are theirs."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from models.errors import BadInput
from models.ids import SECOND_US, lowest_id, moment_of_id, to_datetime, to_us

# Settlements that wait longer are dated by when they are made (see gateway/billing.py), so a closed month never changes.
CLOSES_AFTER_US = 3_600 * SECOND_US
_TEXT = re.compile(r"(\d{4})-(\d{2})", re.ASCII)


class Month(NamedTuple):
    """A month of a year; months compare and sort by time."""

    year: int
    month: int

    def __str__(self) -> str:
        """As people write it: "2026-01"."""
        return f"{self.year:04d}-{self.month:02d}"

    @property
    def start_us(self) -> int:
        """Its first moment, in microseconds since 1970."""
        return to_us(datetime(self.year, self.month, 1, tzinfo=UTC))

    @property
    def lowest_id(self) -> str:
        """The lowest request id that could have been made in it."""
        return lowest_id(self.start_us)

    @property
    def end_us(self) -> int:
        """The first moment that is no longer in it."""
        return self.plus(1).start_us

    def is_closed(self, now_us: int) -> bool:
        """Whether nothing can be added to it any more: one hour after its end."""
        return now_us >= self.end_us + CLOSES_AFTER_US

    def plus(self, count: int) -> Month:
        months = self.year * 12 + self.month - 1 + count
        return Month(months // 12, months % 12 + 1)


def month_of(at_us: int) -> Month:
    """The month of a moment."""
    moment = to_datetime(at_us)
    return Month(moment.year, moment.month)


def month_of_id(request_id: str) -> Month:
    """The month in which a request id was made."""
    return month_of(moment_of_id(request_id))


def parse_month(text: object, *, field: str) -> Month:
    """A month written like "2026-01". Raises BadInput for anything else."""
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[1]) < 1970 or not 1 <= int(found[2]) <= 12:
        raise BadInput(f'{field}: must be a month like "2026-01", got {text!r}', field=field)
    return Month(int(found[1]), int(found[2]))
