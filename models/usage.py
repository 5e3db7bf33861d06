"""Owns reading usage records, a row per request that reached a provider. The ledger's writer alone writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from models.checks import check_choice, check_text, check_whole
from models.database import Database
from models.ids import SECOND_US, lowest_id

OUTCOMES = ("served", "failed", "left")
_YEAR_9999_US = 253_402_300_800 * SECOND_US
# The table is ordered by request ids. An id and its record's moment are made at once, but an id counts in milliseconds; at
# 10,000 requests a second each second more is 10,000 rows that are read in vain.
SLACK_US = SECOND_US


class UsageFilter(msgspec.Struct, frozen=True):
    """Which records are meant: from `since_us` to `until_us` (excluded), and of those any of the `models` (aliases), any of
    the `keys` (ids), of one outcome, estimated or not. What is not given does not matter.
    """

    since_us: int | None = None
    until_us: int | None = None
    models: tuple[str, ...] = ()
    keys: tuple[int, ...] = ()
    outcome: str | None = None
    estimated: bool | None = None


EVERYTHING = UsageFilter()


async def usage_rows(
    database: Database,
    since_us: int | None = None,
    until_us: int | None = None,
    outcome: str | None = "served",
    *,
    account_id: int | None = None,
    limit: int | None = None,
    after: str | None = None,
) -> list[dict[str, Any]]:
    """Records from `since_us` to `until_us` (excluded), oldest first, with alias, account and route by name.

    `account_id` chooses those of one account. `limit` and `after` (the last request id of the page before) read a long
    time piece by piece.
    """
    tests, values = ["1 = 1"], list[Any]()
    if outcome is not None:
        tests.append("u.outcome = ?")
        values.append(check_choice(outcome, field="outcome", choices=OUTCOMES))
    if account_id is not None:
        tests.append("u.account_id = ?")
        values.append(account_id)
    if since_us is not None:
        tests.append("u.at_us >= ? AND u.request_id >= ?")
        values += [since_us, lowest_id(since_us - SLACK_US)]
    if until_us is not None:
        tests.append("u.at_us < ? AND u.request_id < ?")
        values += [until_us, lowest_id(until_us + SLACK_US)]
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


async def newest_at_us(database: Database, before_id: str | None = None) -> int | None:
    """When the newest request that is kept began, of those whose id is below `before_id`; None without any."""
    test, values = ("", []) if before_id is None else (" WHERE request_id < ?", [before_id])
    rows = await database.rows(f"SELECT at_us FROM usage{test} ORDER BY request_id DESC LIMIT 1", values)
    return int(rows[0]["at_us"]) if rows else None


def matching(only: UsageFilter, account_id: int | None = None) -> tuple[str, list[Any]]:
    """The condition that chooses the records `u`, and its values. Raises BadInput naming what cannot be meant."""
    tests, values = _alike(only, account_id)
    if only.since_us is not None:
        since_us = check_whole(only.since_us, field="since", least=0, most=_YEAR_9999_US)
        tests.append("u.at_us >= ? AND u.request_id >= ?")
        values += [since_us, lowest_id(since_us - SLACK_US)]
    if only.until_us is not None:
        until_us = check_whole(only.until_us, field="until", least=0, most=_YEAR_9999_US)
        tests.append("u.at_us < ? AND u.request_id < ?")
        values += [until_us, lowest_id(until_us + SLACK_US)]
    return " AND ".join(tests), values


def matching_days(only: UsageFilter, account_id: int | None, low_us: int, high_us: int) -> tuple[str, list[Any]]:
    """The same for the sums of whole days `u` from `low_us` to `high_us` (excluded), whatever the filter's own bounds."""
    tests, values = _alike(only, account_id)
    return " AND ".join([*tests, "u.day_us >= ? AND u.day_us < ?"]), [*values, low_us, high_us]


def _alike(only: UsageFilter, account_id: int | None) -> tuple[list[str], list[Any]]:
    """What records and sums of days have in common."""
    tests, values = ["1 = 1"], list[Any]()
    if account_id is not None:
        tests.append("u.account_id = ?")
        values.append(account_id)
    if only.models:
        tests.append(f"u.model_id IN (SELECT id FROM model WHERE alias IN ({', '.join('?' * len(only.models))}))")
        values += [check_text(alias, field="model", most=200) for alias in only.models]
    if only.keys:
        tests.append(f"u.key_id IN ({', '.join('?' * len(only.keys))})")
        values += [check_whole(key, field="key", least=0) for key in only.keys]
    if only.outcome is not None:
        tests.append("u.outcome = ?")
        values.append(check_choice(only.outcome, field="outcome", choices=OUTCOMES))
    if only.estimated is not None:
        tests.append("u.estimated" if only.estimated else "NOT u.estimated")
    return tests, values


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The two databases differ in how they return ids, flags and JSON."""
    attempts = row["attempts"]
    return row | {
        "request_id": str(row["request_id"]),
        "streamed": bool(row["streamed"]),
        "estimated": bool(row["estimated"]),
        "attempts": msgspec.json.decode(attempts) if isinstance(attempts, str | bytes) else attempts,
    }
