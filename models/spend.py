"""Owns sums over usage: what was asked, used and spent, of one account or of all, grouped by time, model, key and so on.

Records one by one are `explorer.py`; money that moved (grants, top-ups, statements) are transfers and not counted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from models.checks import check_choice
from models.database import Database
from models.errors import NotFound
from models.ids import DAY_US, SECOND_US
from models.ledger_steps import DAY_SUMS
from models.months import month_of
from models.records import Account
from models.rollups import rolled_until
from models.usage import EVERYTHING, OUTCOMES, UsageFilter, matching, matching_days

HOUR_US = 3_600 * SECOND_US
RUNWAY_DAYS = 7  # This one, as far as it is gone, and six before it.
# What can be grouped by: the name → the column, of records and of days alike; a record's moment is made its day or hour.
GROUPS = {
    "day": "day_us",
    "hour": "hour_us",
    "model": "model_id",
    "account": "account_id",
    "key": "key_id",
    "route": "route_id",
    "outcome": "outcome",
}


class Sums(msgspec.Struct, frozen=True):
    """Exact sums over usage records. `requests` = `served` + `failed` + `left`; `first_byte_ms` and `total_ms` are sums.

    `uncosted_nano` is the part of the charge whose cost nobody knows: its route has no costs. `failed_cost_nano` is the
    part of the cost that bought nothing.
    """

    requests: int = 0
    served: int = 0
    failed: int = 0
    left: int = 0
    estimated: int = 0
    fresh_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    charge_nano: int = 0
    writeoff_nano: int = 0
    cost_nano: int = 0
    first_byte_ms: int = 0
    total_ms: int = 0
    uncosted_nano: int = 0
    failed_cost_nano: int = 0


class Spend(msgspec.Struct, frozen=True):
    """The sums of one group. `by` has the group's own value by each name that was asked for: the start of the day or hour
    in µs, the id of the model, account, key or route, the outcome. `names` has what people call it: the alias, the
    account's e-mail, the key's name, provider/upstream model.
    """

    by: dict[str, int | str]
    names: dict[str, str]
    sums: Sums


class Overview(msgspec.Struct, frozen=True):
    """An account at a glance. Days and months are UTC. `last_days_nano` was spent today and on the six days before;
    `runway_s` is for how long what is available lasts at that rate, None when nothing was spent.
    """

    balance_nano: int
    held_nano: int
    available_nano: int
    today: Sums
    this_month: Sums
    last_days_nano: int
    runway_s: int | None


async def spend_by(
    database: Database, by: Sequence[str], only: UsageFilter = EVERYTHING, *, account_id: int | None = None
) -> list[Spend]:
    """The sums of every group that has records, in the order of the groups; with no group, one row or none.

    `by` are some of "day", "hour", "model", "account", "key", "route", "outcome"; BadInput for another. `account_id` None
    means all accounts. Months whose records were dropped are counted in whole days, but have no hours.
    """
    for name in by:
        check_choice(name, field="by", choices=GROUPS)
    rolled = await rolled_until(database)
    while True:
        query, values = _query(by, only, account_id, 0 if "hour" in by else rolled.until_us)
        rows = await database.rows(query, values)
        # Records may have been rolled up and dropped in between.
        before, rolled = rolled, await rolled_until(database)
        if rolled.until_us == before.until_us:
            break
    known = {name: await group_names(database, name) for name in by if name in NAMED}
    return [_spend(row, by, known) for row in rows]


async def total(
    database: Database,
    only: UsageFilter = EVERYTHING,
    *,
    account_id: int | None = None,
) -> Sums:
    """The sums of everything that matches."""
    rows = await spend_by(database, (), only, account_id=account_id)
    return rows[0].sums if rows else Sums()


async def spend_per_key(database: Database, account_id: int, only: UsageFilter = EVERYTHING) -> dict[int, Sums]:
    """By the id of each key of an account that was used."""
    return {int(row.by["key"]): row.sums for row in await spend_by(database, ("key",), only, account_id=account_id)}


async def today_and_month(database: Database, now_us: int, *, account_id: int | None = None) -> tuple[Sums, Sums]:
    """The sums of this day and of this month (UTC) so far."""
    today = await total(database, UsageFilter(since_us=now_us - now_us % DAY_US), account_id=account_id)
    return today, await total(database, UsageFilter(since_us=month_of(now_us).start_us), account_id=account_id)


async def overview(database: Database, account_id: int, now_us: int) -> Overview:
    """An account at a glance. Raises NotFound."""
    account = await Account.get_or_none(id=account_id)
    if account is None:
        raise NotFound(f"there is no account {account_id}", field="account")
    today, month = await today_and_month(database, now_us, account_id=account_id)
    since_us = now_us - now_us % DAY_US - (RUNWAY_DAYS - 1) * DAY_US
    spent_nano = (await total(database, UsageFilter(since_us=since_us), account_id=account_id)).charge_nano
    available = account.balance_nano - account.held_nano
    runway_s = available * (now_us - since_us) // spent_nano // SECOND_US if spent_nano else None
    return Overview(account.balance_nano, account.held_nano, available, today, month, spent_nano, runway_s)


# ── the query ─────────────────────────────────────────────────────────────────────────────────────────────────────

_SUMS = ", ".join(
    [f"SUM({name}) AS {name}" for name in DAY_SUMS]
    + [f"SUM(CASE WHEN outcome = '{name}' THEN requests ELSE 0 END) AS \"{name}\"" for name in OUTCOMES]
    + ["SUM(CASE WHEN estimated THEN requests ELSE 0 END) AS estimated"]
    + ["SUM(CASE WHEN outcome = 'failed' THEN cost_nano ELSE 0 END) AS failed_cost_nano"]
    + [
        "SUM(CASE WHEN route_id IN (SELECT id FROM route WHERE cost_input_nano IS NULL OR cost_output_nano IS NULL)"
        " THEN charge_nano ELSE 0 END) AS uncosted_nano"
    ]
)
# Columns of days, as they are made of a record `u`.
RECORD = {
    "requests": "1",
    "day_us": f"u.at_us - u.at_us % {DAY_US}",
    "hour_us": f"u.at_us - u.at_us % {HOUR_US}",
}


def _query(by: Sequence[str], only: UsageFilter, account_id: int | None, rolled_us: int) -> tuple[str, list[Any]]:
    """The query and its values: whole days before `rolled_us` are read as such, everything else from the records."""
    columns = [*dict.fromkeys([*(GROUPS[name] for name in by), "route_id", "outcome", "estimated", *DAY_SUMS])]
    parts, values = list[str](), list[Any]()
    since_us, until_us = only.since_us or 0, only.until_us
    low_us = -(-since_us // DAY_US) * DAY_US
    high_us = rolled_us if until_us is None else min(rolled_us, until_us // DAY_US * DAY_US)
    live = [(since_us, until_us)]
    if low_us < high_us:
        test, more = matching_days(only, account_id, low_us, high_us)
        parts.append(f"SELECT {', '.join(columns)} FROM usage_day u WHERE {test}")
        values += more
        live = [(since_us, low_us), (high_us, until_us)]
    for since, until in live:
        if until is None or since < until:
            part = msgspec.structs.replace(only, since_us=since, until_us=until)
            test, more = matching(part, account_id)
            named = ", ".join(f"{RECORD.get(name, f'u.{name}')} AS {name}" for name in columns)
            parts.append(f"SELECT {named} FROM usage u WHERE {test}")
            values += more
    groups = ", ".join(GROUPS[name] for name in by)
    start = f"SELECT {groups}, " if by else "SELECT "
    tail = f"GROUP BY {groups} ORDER BY {groups}" if by else "HAVING COUNT(*) > 0"
    return f"{start}{_SUMS} FROM ({' UNION ALL '.join(parts)}) parts {tail}", values


# ── rows and names ────────────────────────────────────────────────────────────────────────────────────────────────

NAMED = {
    "model": "SELECT id, alias AS name FROM model",
    "account": 'SELECT account_id AS id, email AS name FROM "user" ORDER BY id DESC',
    "key": "SELECT id, name FROM api_key",
    "route": "SELECT r.id, p.name || '/' || r.upstream_model AS name FROM route r JOIN provider p ON p.id = r.provider_id",
}


async def group_names(database: Database, what: str) -> dict[int, str]:
    """What people call each "model", "account", "key" or "route", by id."""
    return {row["id"]: row["name"] for row in await database.rows(NAMED[what])}


def _spend(row: dict[str, Any], by: Sequence[str], known: dict[str, dict[int, str]]) -> Spend:
    groups: dict[str, int | str] = {name: row[GROUPS[name]] for name in by}
    names = {name: known[name].get(int(groups[name]), "") for name in known}
    return Spend(groups, names, Sums(*(int(row[name] or 0) for name in Sums.__struct_fields__)))
