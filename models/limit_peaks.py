"""Owns how near customers and routes came to their limits: the busiest window of each, from usage records.

A request that a limit refused leaves no record, so a peak near the quota means that some may have been refused.
"""

from __future__ import annotations

from typing import Any

import msgspec

from models.checks import check_whole
from models.database import Database
from models.ids import SECOND_US
from models.usage import UsageFilter, matching

MOST_PEAKS = 1_000
_COLUMNS = {"key": "u.key_id", "account": "u.account_id", "route": "u.route_id"}
_USED = {
    "requests": "COUNT(*)",
    "tokens": "SUM(u.fresh_tokens + u.cached_tokens + u.cache_write_tokens + u.output_tokens)",
}


class Peak(msgspec.Struct, frozen=True):
    """The window that begins at `at_us`, in which a subject used most. `is_default`: it has no limit of its own."""

    subject: str
    subject_id: int
    unit: str
    quota: int
    window_s: int
    is_default: bool
    used: int
    at_us: int


async def limit_peaks(database: Database, only: UsageFilter, *, limit: int = 20) -> list[Peak]:
    """The nearest to their limit first. Windows begin at multiples of their length; `concurrent` limits have none."""
    check_whole(limit, field="limit", least=1, most=MOST_PEAKS)
    rules = await database.rows(
        'SELECT subject, subject_id, unit, quota, window_s FROM "limit" WHERE window_s > 0 ORDER BY subject, subject_id, unit'
    )
    peaks = [peak for rule in rules for peak in await _peaks(database, rule, only, limit)]
    return sorted(peaks, key=lambda peak: (-peak.used / peak.quota, peak.subject, peak.subject_id, peak.unit))[:limit]


async def _peaks(database: Database, rule: dict[str, Any], only: UsageFilter, limit: int) -> list[Peak]:
    subject, is_default = rule["subject"].removeprefix("default_"), rule["subject"].startswith("default_")
    column, window_us = _COLUMNS[subject], rule["window_s"] * SECOND_US
    test, values = matching(only, None)
    if is_default:
        whose = f'{column} NOT IN (SELECT subject_id FROM "limit" WHERE subject = ? AND unit = ?)'
        values += [subject, rule["unit"]]
    else:
        whose = f"{column} = ?"
        values.append(rule["subject_id"])
    rows = await database.rows(
        "SELECT subject_id, started, used FROM (SELECT subject_id, started, used,"
        " ROW_NUMBER() OVER (PARTITION BY subject_id ORDER BY used DESC, started) AS place FROM"
        f" (SELECT {column} AS subject_id, u.at_us / {window_us} AS started, {_USED[rule['unit']]} AS used FROM usage u"
        f" WHERE {test} AND {column} IS NOT NULL AND {whose} GROUP BY 1, 2) windows) ranked"
        " WHERE place = 1 ORDER BY used DESC, subject_id LIMIT ?",
        [*values, limit],
    )
    return [
        Peak(
            subject=subject,
            subject_id=row["subject_id"],
            unit=rule["unit"],
            quota=rule["quota"],
            window_s=rule["window_s"],
            is_default=is_default,
            used=int(row["used"]),
            at_us=int(row["started"]) * window_us,
        )
        for row in rows
    ]
