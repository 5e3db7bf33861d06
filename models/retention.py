"""Owns how long usage records are kept: dropping the months before a month. Holds, transfers and audit stay for ever.

PostgreSQL drops a partition at a time, each in a short transaction; records in the default partition, and SQLite's, are
deleted in bounded batches. Their days are rolled up before (see `rollups.py`), so sums by day survive. Each month's audit
row is in the same commit as the first of it that goes, and says from where records are kept: `kept_from` is the floor from
which every charge must have its record (invariant 4).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
from tortoise.backends.base.client import BaseDBAsyncClient

from models.altering import alter, wait_briefly
from models.changes import OperatorWrite, operator_write
from models.checks import check_reason
from models.database import Database
from models.errors import BadInput
from models.ids import lowest_id
from models.months import Month, month_of, month_of_id, parse_month
from models.partitions import DEFAULT, partitions
from models.records import Audit
from models.rollups import first_record_us, roll_up, rolled_until

ACTION = "usage.drop"
BATCH = 2_000
# Between two batches others get at the tables; on SQLite there is but one writer at a time.
PAUSE_S = 0.01
_NOBODY = lowest_id(0)


class Piece(msgspec.Struct, frozen=True):
    """Records that go together: of the ids from `low_id` to `high_id` (excluded), in `table`."""

    month: str
    table: str
    whole: bool  # The table itself is dropped; else its rows are deleted in batches.
    records: int
    low_id: str
    high_id: str


async def plan_drop(database: Database, before: str, now_us: int) -> list[Piece]:
    """What `drop_usage` would drop, oldest first, counted exactly. Reads only.

    `before` is a month like "2026-01": the first that is kept. Raises BadInput for a bad or a future one.
    """
    bound = _check_before(before, now_us).lowest_id
    pieces = []
    if database.dialect == "postgres":
        for partition in await partitions(database.connection):
            if partition.high_id <= bound:
                count = await _count(database, partition.name, partition.low_id, partition.high_id)
                month = str(month_of_id(partition.low_id))
                pieces.append(Piece(month, partition.name, True, count, partition.low_id, partition.high_id))
    rest = [piece async for piece in _months_of_rows(database, bound)]
    return sorted(pieces + rest, key=lambda piece: piece.low_id)


async def drop_usage(
    database: Database,
    operator: str,
    before: str,
    reason: str,
    now_us: int,
    *,
    told: Callable[[Piece], None] | None = None,
) -> list[Piece]:
    """Drop the usage records of all months before a month, and return what went; `told` hears of each piece as it goes.

    Cut off in between it has dropped the oldest, and can be run again. Raises BadInput like `plan_drop` and when a request
    of these months may still be settled, LedgerUnavailable when a partition stayed locked, MissingRights when this role
    may not drop tables.
    """
    why, dropped = check_reason(reason), []
    pieces = await plan_drop(database, before, now_us)
    if pieces:
        await _keep_sums(database, parse_month(before, field="before"), now_us)
    for piece in pieces:
        if piece.whole:
            await alter(f"dropping {piece.table}", lambda piece=piece: _drop_table(database, operator, why, piece))  # type: ignore[misc]
        else:
            await _delete_rows(database, operator, why, piece)
        dropped.append(piece)
        if told is not None:
            told(piece)
    return dropped


async def kept_since(snapshot: Database) -> str:
    """The lowest request id of which records are kept; the lowest there is when nothing was ever dropped."""
    rows = await Audit.filter(action=ACTION)
    floors = [str(row.after["kept_from_id"]) for row in rows if isinstance(row.after, dict)]
    return max(floors, default=_NOBODY)


def _check_before(before: str, now_us: int) -> Month:
    month, now = parse_month(before, field="before"), month_of(now_us)
    if month > now:
        raise BadInput(f"before: only complete months can be dropped, so at most {now}, got {month}", field="before")
    return month


async def _keep_sums(database: Database, before: Month, now_us: int) -> None:
    """Roll up every day before the month that has records."""
    await roll_up(database, now_us, before_us=before.start_us, wait=True)
    if await first_record_us(database, (await rolled_until(database)).until_us, before.start_us) is not None:
        raise BadInput(
            f"before: {before.plus(-1)} is not closed yet: an hour after its end, and when none of its requests is open any"
            " more, it may be dropped",
            field="before",
        )


async def _months_of_rows(database: Database, bound: str) -> AsyncIterator[Piece]:
    """The months, of those that have rows of their own in the table that is not dropped as a whole."""
    table = DEFAULT if database.dialect == "postgres" else "usage"
    low = _NOBODY
    while found := await database.rows(
        f"SELECT request_id FROM {table} WHERE request_id >= ? AND request_id < ? ORDER BY request_id LIMIT 1",
        [low, bound],
    ):
        month = month_of_id(str(found[0]["request_id"]))
        low, high = month.lowest_id, month.plus(1).lowest_id
        yield Piece(str(month), table, False, await _count(database, table, low, high), low, high)
        low = high


async def _count(database: Database, table: str, low: str, high: str) -> int:
    rows = await database.rows(
        f'SELECT COUNT(*) AS n FROM "{table}" WHERE request_id >= ? AND request_id < ?', [low, high]
    )
    return int(rows[0]["n"])


async def _drop_table(database: Database, operator: str, reason: str, piece: Piece) -> None:
    """Writers wait while the lock is had, for an entry in the catalog; the files go after the commit."""
    async with operator_write(database, operator) as write:
        await wait_briefly(write.transaction)
        if any(partition.name == piece.table for partition in await partitions(write.transaction)):
            await _sign(write, reason, piece)
            await write.transaction.execute_query(f'DROP TABLE "{piece.table}"')


async def _delete_rows(database: Database, operator: str, reason: str, piece: Piece) -> None:
    async with operator_write(database, operator) as write:
        await _sign(write, reason, piece)
        left = await _delete_batch(database, write.transaction, piece)
    while left:
        await asyncio.sleep(PAUSE_S)
        async with database.transaction() as transaction:
            left = await _delete_batch(database, transaction, piece)


async def _delete_batch(database: Database, transaction: BaseDBAsyncClient, piece: Piece) -> bool:
    """Whether there may be more."""
    deleted, _ = await transaction.execute_query(
        database.placed(
            f"DELETE FROM {piece.table} WHERE request_id IN (SELECT request_id FROM {piece.table}"
            " WHERE request_id >= ? AND request_id < ? ORDER BY request_id LIMIT ?)"
        ),
        [piece.low_id, piece.high_id, BATCH],
    )
    return deleted == BATCH


async def _sign(write: OperatorWrite, reason: str, piece: Piece) -> None:
    await write.audit(
        ACTION,
        f"usage {piece.month}",
        reason=reason,
        before={"records": piece.records, "table": piece.table},
        after={"kept_from": str(month_of_id(piece.high_id)), "kept_from_id": piece.high_id},
    )
