"""Owns reading usage records, a row per request that reached a provider. The ledger's writer alone writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from models.checks import check_choice, check_whole
from models.database import Database
from models.ids import DAY_US

OUTCOMES = ("served", "failed", "left")
# The table is ordered by request ids, which begin with the time of arrival. A record's moment may lie this far from it.
_SLACK_US = DAY_US


async def usage_rows(
    database: Database,
    since_us: int | None = None,
    until_us: int | None = None,
    outcome: str | None = "served",
    *,
    limit: int | None = None,
    after: str | None = None,
) -> list[dict[str, Any]]:
    """Records from `since_us` to `until_us` (excluded), oldest first, with alias, account and route by name.

    `limit` and `after` (the last request id of the page before) read a long time piece by piece.
    """
    tests, values = ["1 = 1"], list[Any]()
    if outcome is not None:
        tests.append("u.outcome = ?")
        values.append(check_choice(outcome, field="outcome", choices=OUTCOMES))
    if since_us is not None:
        tests.append("u.at_us >= ? AND u.request_id >= ?")
        values += [since_us, lowest_id(since_us - _SLACK_US)]
    if until_us is not None:
        tests.append("u.at_us < ? AND u.request_id < ?")
        values += [until_us, lowest_id(until_us + _SLACK_US)]
    if after is not None:
        tests.append("u.request_id > ?")
        values.append(after)
    tail = ""
    if limit is not None:
        tail = " LIMIT ?"
        values.append(check_whole(limit, field="limit", least=1))
    rows = await database.rows(
        "SELECT u.*, m.alias AS model, l.email AS account, r.upstream_model, p.name AS provider FROM usage u"
        " LEFT JOIN model m ON m.id = u.model_id"
        ' LEFT JOIN "user" l ON l.id = (SELECT MIN(first.id) FROM "user" first WHERE first.account_id = u.account_id)'
        " LEFT JOIN route r ON r.id = u.route_id LEFT JOIN provider p ON p.id = r.provider_id"
        f" WHERE {' AND '.join(tests)} ORDER BY u.request_id{tail}",
        values,
    )
    return [_plain(row) for row in rows]


def lowest_id(at_us: int) -> str:
    """The lowest request id that could have been made at a moment."""
    head = f"{max(0, at_us) // 1000:012x}"
    return f"{head[:8]}-{head[8:]}-0000-0000-000000000000"


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The two databases differ in how they return ids, flags and JSON."""
    attempts = row["attempts"]
    return row | {
        "request_id": str(row["request_id"]),
        "streamed": bool(row["streamed"]),
        "estimated": bool(row["estimated"]),
        "attempts": msgspec.json.decode(attempts) if isinstance(attempts, str | bytes) else attempts,
    }
