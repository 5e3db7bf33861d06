"""Owns the monthly partitions of `usage` on PostgreSQL: which there are, and making them ahead. Dropping: `retention.py`.

A partition keeps the request ids of one month, as UUIDv7 begins with the time. What has no partition is kept in
`usage_default` rather than refused, so a partition that is late costs only this: its month stays in there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import asyncpg
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import BaseORMException

from models.altering import CHECK_FAILED, alter, sqlstate, wait_briefly
from models.database import PARTITION_LOCK_ID, Database
from models.errors import SetupError
from models.ids import DAY_US, lowest_id
from models.months import Month, month_of

MONTHS_AHEAD = 2
DEFAULT = "usage_default"
# ATTACH reads the whole default partition while it keeps everybody else out of it. Up to this size that takes no time.
QUICKLY_READ_BYTES = 64 * 2**20
_HIGHEST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class Partition(NamedTuple):
    """A table with the records from `low_id` to `high_id` (excluded)."""

    name: str
    low_id: str
    high_id: str


async def make_partitions(database: Database, now_us: int) -> list[str]:
    """Make the partitions of this month and the next two that are missing, and return their names. SQLite has none.

    Safe to run again and at once from several machines. A month that has records in the default partition stays there.
    Raises MissingRights when this role may not create tables, LedgerUnavailable when the table stayed locked; records
    are kept in either case.
    """
    if database.dialect != "postgres":
        return []
    made = []
    for month in (month_of(now_us).plus(n) for n in range(MONTHS_AHEAD + 1)):
        if _is_covered(month, await partitions(database.connection)):
            continue
        if await alter(f"making the partition of {month}", lambda month=month: _make(database, month, now_us)):  # type: ignore[misc]
            made.append(name_of(month))
    return made


async def missing_partitions(database: Database, now_us: int) -> list[Month]:
    """The months to come that should have a partition and have none. SQLite misses none."""
    if database.dialect != "postgres":
        return []
    known = await partitions(database.connection)
    ahead = (month_of(now_us).plus(n) for n in range(1, MONTHS_AHEAD + 1))
    return [month for month in ahead if not _is_covered(month, known)]


def name_of(month: Month) -> str:
    return f"usage_{month.year:04d}_{month.month:02d}"


async def partitions(connection: BaseDBAsyncClient) -> list[Partition]:
    """Those of `usage` but the default one, oldest first. PostgreSQL only; reads the catalog alone."""
    rows = await connection.execute_query_dict(
        "SELECT c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds FROM pg_inherits i"
        " JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = '\"usage\"'::regclass"
    )
    found = []
    for row in rows:
        bounds = re.findall(r"\(('[0-9a-f-]+'|MINVALUE|MAXVALUE)\)", row["bounds"])
        if len(bounds) == 2:
            low = lowest_id(0) if bounds[0] == "MINVALUE" else bounds[0].strip("'")
            high = _HIGHEST_ID if bounds[1] == "MAXVALUE" else bounds[1].strip("'")
            found.append(Partition(row["name"], low, high))
    return sorted(found, key=lambda partition: partition.low_id)


def _is_covered(month: Month, known: list[Partition]) -> bool:
    """Whether any partition, by whatever name, has ids of the month."""
    low, high = month.lowest_id, month.plus(1).lowest_id
    return any(partition.low_id < high and low < partition.high_id for partition in known)


async def _make(database: Database, month: Month, now_us: int) -> bool:
    """False when the month's records are to stay in the default partition, or another machine was quicker."""
    size = await database.rows(f"SELECT pg_table_size('{DEFAULT}') AS bytes")
    large = size[0]["bytes"] > QUICKLY_READ_BYTES
    if large and month.start_us < now_us + DAY_US:
        await _take_back(database, month)
        return False
    if large and not await _promise_absence(database, month):
        return False
    name, low, high = name_of(month), month.lowest_id, month.plus(1).lowest_id
    try:
        async with database.transaction() as transaction:
            await _take_turn(transaction)
            if _is_covered(month, await partitions(transaction)) or await _has_records(transaction, month):
                await _retract(transaction, month)
                return False
            if (await transaction.execute_query_dict(f"SELECT to_regclass('{name}') IS NOT NULL AS taken"))[0]["taken"]:
                raise SetupError(f"a table {name} exists that is no partition of usage; attach, rename or drop it")
            # The table comes with its indexes before anybody else sees it; attaching it is an entry in the catalog.
            await transaction.execute_query(f"CREATE TABLE {name} (LIKE usage INCLUDING ALL)")
            await transaction.execute_query(
                f"ALTER TABLE usage ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')"
            )
            await _retract(transaction, month)
            return True
    except (BaseORMException, asyncpg.PostgresError) as error:
        if sqlstate(error) != CHECK_FAILED:
            raise
        return False  # A record of this month came into the default partition in between.


async def _take_turn(transaction: BaseDBAsyncClient) -> None:
    await wait_briefly(transaction)
    await transaction.execute_query(f"SELECT pg_advisory_xact_lock({PARTITION_LOCK_ID})")


async def _has_records(transaction: BaseDBAsyncClient, month: Month) -> bool:
    rows = await transaction.execute_query_dict(
        f"SELECT EXISTS (SELECT 1 FROM {DEFAULT} WHERE request_id >= $1 AND request_id < $2) AS some",
        [month.lowest_id, month.plus(1).lowest_id],
    )
    return bool(rows[0]["some"])


# ── when the default partition is large ───────────────────────────────────────────────────────────────────────────


def _promise(month: Month) -> str:
    return f"{name_of(month)}_is_elsewhere"


async def _promise_absence(database: Database, month: Month) -> bool:
    """Prove, beside running writers, that the default partition has nothing of a month; then ATTACH need not read it.

    Only for a month that is still to come: until the partition is attached, its records would be refused.
    """
    name = _promise(month)
    async with database.transaction() as transaction:
        await _take_turn(transaction)
        await _retract(transaction, month)
        if await _has_records(transaction, month):
            return False
        await transaction.execute_query(
            f"ALTER TABLE {DEFAULT} ADD CONSTRAINT {name}"
            f" CHECK (request_id < '{month.lowest_id}' OR request_id >= '{month.plus(1).lowest_id}') NOT VALID"
        )
    try:
        async with database.transaction() as transaction:
            await _take_turn(transaction)
            await transaction.execute_query(f"ALTER TABLE {DEFAULT} VALIDATE CONSTRAINT {name}")
    except BaseException:
        await _take_back(database, month)
        raise
    return True


async def _take_back(database: Database, month: Month) -> None:
    """No promise may outlive its attempt: once the month begins, its records would be refused."""
    async with database.transaction() as transaction:
        await _take_turn(transaction)
        await _retract(transaction, month)


async def _retract(transaction: BaseDBAsyncClient, month: Month) -> None:
    """Take back a promise, also one of an attempt that was cut off. Looking first spares the default partition a lock."""
    promised = await transaction.execute_query_dict(
        f"SELECT 1 FROM pg_constraint WHERE conrelid = '{DEFAULT}'::regclass AND conname = $1", [_promise(month)]
    )
    if promised:
        await transaction.execute_query(f"ALTER TABLE {DEFAULT} DROP CONSTRAINT {_promise(month)}")
