"""Owns how a busy PostgreSQL database is altered: short waits for locks, tried again, so that nobody queues for long.

Whoever waits for an exclusive lock makes everybody who comes later wait behind it, the request path included. So a wait
is cut off soon, the others get through, and it is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import BaseORMException

from models.errors import LedgerUnavailable, MissingRights

T = TypeVar("T")
# The longest time that others queue behind us.
LOCK_TIMEOUT_MS = 300
TRIES = 10
PAUSE_S = 0.5
LOCKED, DEADLOCK, NO_RIGHTS, CHECK_FAILED = "55P03", "40P01", "42501", "23514"


async def wait_briefly(transaction: BaseDBAsyncClient) -> None:
    """From here to the end of this transaction, no lock is waited for longer than LOCK_TIMEOUT_MS."""
    await transaction.execute_query(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")


async def alter(what: str, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`, one transaction that waits briefly, until it got its locks; `what` is done is said when it fails.

    Raises LedgerUnavailable when others kept the locks through all tries, or it took too long, and MissingRights when this
    role may not do it.
    """
    for left in reversed(range(TRIES)):
        try:
            return await work()
        except TimeoutError as error:
            raise LedgerUnavailable(
                f"{what}: it took longer than a command may take here; try: gateway migrate"
            ) from error
        except (BaseORMException, asyncpg.PostgresError) as error:
            state = sqlstate(error)
            if state == NO_RIGHTS:
                raise MissingRights(f"{what}: this database role may not do that: {error}") from error
            if state not in (LOCKED, DEADLOCK):
                raise
            if not left:
                raise LedgerUnavailable(
                    f"{what}: others kept the table locked (a long report, or reconcile?); try again later"
                ) from error
        await asyncio.sleep(PAUSE_S)
    raise AssertionError("the last try returns or raises")


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of an error, whether or not Tortoise has wrapped it."""
    code = getattr(error, "sqlstate", None) or getattr(error.__cause__, "sqlstate", None)
    return str(code) if code else None
