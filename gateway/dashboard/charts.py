"""Owns what charts show: days by series as numbers, for the drawing script and for the table beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from models.ids import DAY_US, SECOND_US
from models.spend import Spend, Sums

MOST_SERIES = 7
# Whoever asks for more than this sees the days from the first to the last that has any.
MOST_DAYS = 400
OTHERS = "others"


def by_day(
    rows: Sequence[Spend],
    group: str,
    *,
    since_us: int,
    until_us: int,
    unit: str,
    amount: Callable[[Sums], int],
    text: Callable[[int], str],
) -> dict[str, Any]:
    """`{"unit", "x", "series", "total"}` of rows grouped by day and `group`: the largest series, and the others as one.

    `x` are days in seconds, without gaps; the values are texts, exact: a script turns them into heights only.
    """
    first, last = since_us // DAY_US, max(since_us, until_us - 1) // DAY_US
    if last - first >= MOST_DAYS:
        used = [int(row.by["day"]) // DAY_US for row in rows] or [last]
        first, last = min(used), max(used)
    days = range(first, last + 1)
    sums: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        sums[row.names.get(group) or str(row.by[group])][int(row.by["day"]) // DAY_US] += amount(row.sums)
    ranked = sorted(sums, key=lambda name: (-sum(sums[name].values()), name))
    kept = ranked if len(ranked) <= MOST_SERIES else ranked[: MOST_SERIES - 1]
    for name in ranked[len(kept) :]:
        for day, value in sums[name].items():
            sums[OTHERS][day] += value
    names = [*kept, OTHERS] if len(kept) < len(ranked) else kept
    return {
        "unit": unit,
        "x": [day * DAY_US // SECOND_US for day in days],
        "series": [{"name": name, "values": [text(sums[name][day]) for day in days]} for name in names],
        "totals": [text(sum(sums[name][day] for name in names)) for day in days],
    }
