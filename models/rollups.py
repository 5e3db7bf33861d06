"""Owns rolling up usage: once a day (UTC) is over for good, its records are summed into `usage_day`. Reading: `spend.py`.

Every day before `usage_rollup.until_us` is rolled up, and stays so; later days are read from the records themselves. A day
is rolled up when it has been over for an hour and nothing that was held in it is open any more: from then on the only
records that can still come to it are late settlements (`expired → captured`). Those add themselves to a day that is
rolled up, and count in `usage_rollup.late` (see `AddToDays` in `ledger_steps.py`). Rolling up reads that count first and
ends in the same row: what came in between makes it begin anew. So nothing is lost, and the request path does nothing for it.

Measured on 10 million records in PostgreSQL, one account with a million: its year by day took 1.7 s from the records, and a
filter that matches nothing 2.2 s.
"""

from __future__ import annotations

import msgspec
from tortoise.backends.base.client import BaseDBAsyncClient

from models.database import ROLLUP_LOCK_ID, Database, open_database
from models.ids import DAY_US, lowest_id
from models.ledger_steps import DAY_COLUMNS, DAY_GROUP, DAY_SUMS
from models.months import CLOSES_AFTER_US
from models.usage import SLACK_US


class Rollup(msgspec.Struct, frozen=True):
    """How far usage is rolled up, and how many batches of late settlements there have been."""

    until_us: int
    late: int


async def roll_up(
    database: Database,
    now_us: int,
    *,
    most_days: int | None = None,
    before_us: int | None = None,
    wait: bool = False,
) -> int:
    """Roll up the oldest days that are closed, at most so many and only before `before_us`; return how many were.

    Safe to be killed and to run at once from several processes: a day is one commit, and on PostgreSQL one of them does
    it while the others return, or `wait`. On connections of its own, so that nobody waits for it; on SQLite the write lock
    is held only to store a day's sums. `now_us` is the database's: a day closed too soon would miss what still comes.
    """
    if await _next_day(database, now_us, before_us) is None:
        return 0
    done = 0
    async with open_database(database.url, pool=1) as own:
        while most_days is None or done < most_days:
            try:
                if own.dialect == "sqlite":
                    rolled = await _roll_on_sqlite(own, now_us, before_us)
                else:
                    rolled = await _roll_on_postgres(own, now_us, before_us, wait)
            except _Overtaken:
                continue
            if not rolled:
                break
            done += 1
    return done


async def rolled_until(database: Database) -> Rollup:
    (row,) = await database.rows("SELECT until_us, late FROM usage_rollup")
    return Rollup(row["until_us"], row["late"])


async def first_record_us(database: Database, since_us: int, until_us: int | None = None) -> int | None:
    """The moment of about the first record from `since_us` on, and before `until_us`; None when there is none."""
    bounds, values = "request_id >= ? AND at_us >= ?", [lowest_id(since_us - SLACK_US), since_us]
    if until_us is not None:
        bounds += " AND request_id < ? AND at_us < ?"
        values += [lowest_id(until_us + SLACK_US), until_us]
    rows = await database.rows(f"SELECT at_us FROM usage WHERE {bounds} ORDER BY request_id LIMIT 1", values)
    return rows[0]["at_us"] if rows else None


# ── one day ───────────────────────────────────────────────────────────────────────────────────────────────────────


STORE = f"INSERT INTO usage_day ({DAY_COLUMNS})"


class _Overtaken(Exception):
    """Others rolled up this day, or a late settlement came, while it was summed."""


async def _next_day(database: Database, now_us: int, before_us: int | None) -> tuple[Rollup, int] | None:
    """The state, and the oldest closed day with records that is not rolled up; None when there is none yet."""
    rollup = await rolled_until(database)
    first_us = await first_record_us(database, rollup.until_us, before_us)
    if first_us is None:
        return None
    # Ids, by which it was found, may be off by the slack.
    day = max(rollup.until_us, (first_us - SLACK_US) // DAY_US * DAY_US)
    end = day + DAY_US
    if now_us < end + CLOSES_AFTER_US:
        return None
    held = await database.rows(
        "SELECT 1 AS held FROM hold WHERE status = 'open' AND request_id < ? LIMIT 1", [lowest_id(end + SLACK_US)]
    )
    return None if held else (rollup, day)


async def _roll_on_postgres(database: Database, now_us: int, before_us: int | None, wait: bool) -> bool:
    """Whether a day was rolled up: false when none is left, or others are at it."""
    async with database.transaction() as transaction:
        if wait:
            await transaction.execute_query(f"SELECT pg_advisory_xact_lock({ROLLUP_LOCK_ID})")
        else:
            turn = await transaction.execute_query_dict(f"SELECT pg_try_advisory_xact_lock({ROLLUP_LOCK_ID}) AS ours")
            if not turn[0]["ours"]:
                return False
        found = await _next_day(database, now_us, before_us)
        if found is not None:
            await transaction.execute_query(f"{STORE} {sums_of(found[1])}")
            await _finish(transaction, *found)
        return found is not None


async def _roll_on_sqlite(database: Database, now_us: int, before_us: int | None) -> bool:
    """The same. The sums wait in a table of this connection alone, for which no lock is needed."""
    found = await _next_day(database, now_us, before_us)
    if found is not None:
        await database.connection.execute_script("DROP TABLE IF EXISTS temp.summed")
        await database.connection.execute_script(f"CREATE TEMP TABLE summed AS {sums_of(found[1])}")
        async with database.transaction() as transaction:
            await transaction.execute_query(f"{STORE} SELECT * FROM temp.summed")
            await _finish(transaction, *found)
    return found is not None


async def _finish(transaction: BaseDBAsyncClient, rollup: Rollup, day: int) -> None:
    """From this commit on the day is read as its sums; one that was overtaken goes with the transaction."""
    ended, _ = await transaction.execute_query(
        f"UPDATE usage_rollup SET until_us = {day + DAY_US} WHERE until_us = {rollup.until_us} AND late = {rollup.late}"
    )
    if not ended:
        raise _Overtaken


def sums_of(day: int) -> str:
    """The query for the rows of one day; those of an account lie together, as they are read."""
    groups, end = ", ".join(DAY_GROUP[1:]), day + DAY_US
    sums = ", ".join(f"SUM({name})" for name in DAY_SUMS[1:])
    return (
        f"SELECT {day}, {groups}, COUNT(*), {sums} FROM usage WHERE request_id >= '{lowest_id(day - SLACK_US)}'"
        f" AND request_id < '{lowest_id(end + SLACK_US)}' AND at_us >= {day} AND at_us < {end}"
        f" GROUP BY {groups} ORDER BY account_id"
    )
