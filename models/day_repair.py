"""Owns finding and summing anew days whose roll-up is not the sum of their records. Rolling up itself is `rollups.py`.

It should never be needed: what comes late adds itself. But a worker whose clock is more than an hour slow makes records of a
day that is closed by the database's clock, and nothing in them says so.
"""

from __future__ import annotations

from typing import Any

from models.changes import operator_write
from models.database import Database
from models.ids import DAY_US, moment_of_id, to_datetime
from models.ledger_steps import DAY_SUMS
from models.retention import kept_since
from models.rollups import STORE, rolled_until, sums_of

ACTION = "usage.sum_again"


async def unequal_days(snapshot: Database, *, most: int) -> list[dict[str, Any]]:
    """`day_us` and `account_id` of rolled-up days that are not the sums of their records, where those are kept.

    By day and account; a finer look would find nothing more, and take long.
    """
    floor, rollup = await kept_since(snapshot), await rolled_until(snapshot)
    columns = DAY_SUMS[1:]
    return await snapshot.rows(
        f"SELECT day_us, account_id FROM (SELECT day_us, account_id, {', '.join(DAY_SUMS)} FROM usage_day"
        f" WHERE day_us >= ? UNION ALL SELECT at_us - at_us % {DAY_US}, account_id, -1, -{', -'.join(columns)} FROM usage"
        f" WHERE request_id >= ? AND at_us < ?) parts GROUP BY day_us, account_id"
        f" HAVING {' OR '.join(f'SUM({name}) <> 0' for name in DAY_SUMS)} ORDER BY day_us, account_id LIMIT ?",
        [moment_of_id(floor), floor, rollup.until_us, most],
    )


async def sum_again(database: Database, operator: str) -> list[int]:
    """Sum each such day anew from its records, a commit a day; return the days' starts. Money does not move.

    The server may run: late settlements wait meanwhile, and add themselves to the new sums.
    """
    days = sorted({int(row["day_us"]) for row in await unequal_days(database, most=2**31 - 1)})
    mended = []
    for day in days:
        async with operator_write(database, operator) as write:
            # Under the lock of all such writes: records that are being dropped must not take their sums with them.
            if day < moment_of_id(await kept_since(database)):
                continue
            await write.transaction.execute_query("UPDATE usage_rollup SET late = late + 1")
            await write.transaction.execute_query(f"DELETE FROM usage_day WHERE day_us = {day}")
            await write.transaction.execute_query(f"{STORE} {sums_of(day)}")
            await write.audit(ACTION, f"usage {to_datetime(day):%Y-%m-%d}")
        mended.append(day)
    return mended
