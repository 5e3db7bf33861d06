"""Owns the clock and the ids: microseconds since 1970 in UTC, and UUIDv7 request ids that sort by time and tell it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from uuid_utils import uuid7

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US


def now_us() -> int:
    """Microseconds since 1970, UTC, by this machine's clock."""
    return time.time_ns() // 1000


def new_request_id(at_us: int) -> str:
    """A UUIDv7 of this moment: ids of one process ascend, so the usage table is appended to, not shuffled."""
    return str(uuid7(nanoseconds=at_us * 1000))


def lowest_id(at_us: int) -> str:
    """The lowest request id that could have been made at a moment."""
    head = f"{max(0, at_us) // 1000:012x}"
    return f"{head[:8]}-{head[8:]}-0000-0000-000000000000"


def moment_of_id(request_id: str) -> int:
    """When a request id was made, in microseconds: its first 48 bits are milliseconds."""
    return int(request_id.replace("-", "")[:12], 16) * 1000


def to_datetime(at_us: int) -> datetime:
    """An aware UTC datetime of a moment in microseconds."""
    return datetime.fromtimestamp(at_us // SECOND_US, UTC).replace(microsecond=at_us % SECOND_US)


def to_us(moment: datetime) -> int:
    """Microseconds of an aware datetime, exact (no float). Naive datetimes are refused with ValueError."""
    if moment.tzinfo is None:
        raise ValueError("the datetime has no time zone")
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * SECOND_US + delta.microseconds
