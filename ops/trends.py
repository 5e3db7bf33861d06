"""Owns what stands out in sums over usage: who changed most, which days are unusual, whose credits end when. Pure.

What is usual of a day: the same kind of day (Monday to Friday, or the weekend) within the 28 days before it, of which
there must be five. Their median, plus or minus the largest of three: four usual deviations (1.4826 × the median of the
distances from the median, which is the standard deviation where things are normal), a quarter of the median, and for
failed requests two percentage points. Fewer than ten failed requests a day are nobody's pattern.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low
from typing import Any

import msgspec

from models.ids import DAY_US, to_datetime
from models.latency import Latency
from models.spend import Spend, Sums

BAND_DAYS = 28
_LEAST_DAYS = 5
_SATURDAY = 5
_LEAST_ERROR_BP, _LEAST_FAILED = 200, 10


class Mover(msgspec.Struct, frozen=True):
    name: str
    before_nano: int
    now_nano: int


class Unusual(msgspec.Struct, frozen=True):
    """A day outside its band. `what` is "credits" (numbers in nano-credits) or "error percent" (in hundredths of one)."""

    name: str
    day_us: int
    what: str
    value: int
    low: int
    high: int


class Runway(msgspec.Struct, frozen=True):
    """`left_us`: for how long it lasts, None when nothing was spent. `runs_out_us`: None also beyond ten years."""

    account: str
    available_nano: int
    per_day_nano: int
    left_us: int | None
    runs_out_us: int | None


def name_of(row: Spend | Latency, by: str) -> str:
    """What people call the group; its id where it has no name any more."""
    return row.names.get(by) or str(row.by[by])


def movers(before: Iterable[Spend], now: Iterable[Spend], by: str) -> list[Mover]:
    """Every group that is in one of them, the largest changes first."""
    old = {row.by[by]: row for row in before}
    new = {row.by[by]: row for row in now}
    found = [
        Mover(
            name=name_of(new.get(group) or old[group], by),
            before_nano=old[group].sums.charge_nano if group in old else 0,
            now_nano=new[group].sums.charge_nano if group in new else 0,
        )
        for group in old | new
    ]
    return sorted(found, key=lambda each: (-abs(each.now_nano - each.before_nano), each.name))


def unusual_days(rows: Iterable[Spend], by: str | None) -> list[Unusual]:
    """Of sums by day, or by group and day; the newest days first. A day without requests in between is one of nothing."""
    groups: dict[str, dict[int, Sums]] = {}
    for row in rows:
        groups.setdefault(name_of(row, by) if by else "", {})[int(row.by["day"])] = row.sums
    newest_us = max((max(days) for days in groups.values()), default=0)
    found: list[Unusual] = []
    for name, sums in groups.items():
        days = {day_us: sums.get(day_us, Sums()) for day_us in range(min(sums), newest_us + 1, DAY_US)}
        for day_us in days:
            found += _unusual(name, day_us, days)
    return sorted(found, key=lambda each: (-each.day_us, each.name, each.what))


def _unusual(name: str, day_us: int, days: Mapping[int, Sums]) -> Iterable[Unusual]:
    alike = [
        sums
        for other_us, sums in days.items()
        if day_us - BAND_DAYS * DAY_US <= other_us < day_us and _is_weekend(other_us) == _is_weekend(day_us)
    ]
    if len(alike) < _LEAST_DAYS:
        return
    for what, measure, least in (("credits", _credits, 0), ("error percent", _error_bp, _LEAST_ERROR_BP)):
        low, high = _band([measure(sums) for sums in alike], least)
        value = measure(days[day_us])
        if what != "credits" and days[day_us].failed < _LEAST_FAILED:
            continue
        if not low <= value <= high:
            yield Unusual(name, day_us, what, value, low, high)


def _band(values: Sequence[int], least: int) -> tuple[int, int]:
    middle = median_low(values)
    deviation = median_low([abs(value - middle) for value in values])
    width = max(4 * deviation * 14_826 // 10_000, middle // 4, least)
    return max(0, middle - width), middle + width


def _credits(sums: Sums) -> int:
    return sums.charge_nano


def _error_bp(sums: Sums) -> int:
    return 10_000 * sums.failed // sums.requests if sums.requests else 0


def _is_weekend(day_us: int) -> bool:
    return to_datetime(day_us).weekday() >= _SATURDAY


def runways(
    balances: Iterable[Mapping[str, Any]], spent_nano: Mapping[int, int], since_us: int, now_us: int
) -> list[Runway]:
    """What each account has left, at the mean of what it spent between the two moments; the shortest first."""
    found = []
    for row in balances:
        spent, available = spent_nano.get(row["account_id"], 0), row["available_nano"]
        left_us = available * (now_us - since_us) // spent if spent else None
        found.append(
            Runway(
                account=row["email"] or row["name"],
                available_nano=available,
                per_day_nano=spent * DAY_US // max(now_us - since_us, 1),
                left_us=left_us,
                runs_out_us=None if left_us is None or left_us > 3_650 * DAY_US else now_us + left_us,
            )
        )
    return sorted(found, key=lambda each: (each.left_us is None, each.left_us or 0, each.account))
