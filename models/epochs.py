"""Owns the lives of workers: each is an epoch, kept alive by heartbeats; what a dead one left held can be given back.

Moments are the database's on PostgreSQL, for machines' clocks differ. On SQLite one server owns the file, so every other
epoch is dead, and nobody needs a heartbeat.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from models.database import Database
from models.ids import SECOND_US, now_us
from models.money import Release

LEASE_S = 15.0
_PAGE = 500
_POSTGRES_NOW = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


class Life(NamedTuple):
    """An epoch by its id and the moment it began, which together no other database has."""

    epoch_id: int
    started_us: int


async def open_epoch(database: Database, machine: str, pid: int, *, secret_mark: str | None = None) -> Life:
    """A new epoch, alive from now. `secret_mark`: of the key under which this worker reads credentials (`Seal.mark`)."""
    now = _now(database)
    rows = await database.rows(
        f"INSERT INTO epoch (machine, pid, started_us, heartbeat_us, secret_mark) VALUES (?, ?, {now}, {now}, ?)"
        " RETURNING id, started_us",
        [machine, pid, secret_mark],
    )
    return Life(int(rows[0]["id"]), int(rows[0]["started_us"]))


async def renew_epoch(database: Database, epoch_id: int) -> int | None:
    """The heartbeat, and its moment. None when the epoch is over: somebody took this worker for dead."""
    rows = await database.rows(
        f"UPDATE epoch SET heartbeat_us = {_now(database)} WHERE id = ? AND ended_us IS NULL RETURNING heartbeat_us",
        [epoch_id],
    )
    return int(rows[0]["heartbeat_us"]) if rows else None


async def end_epoch(database: Database, epoch_id: int) -> None:
    await database.rows(
        f"UPDATE epoch SET ended_us = {_now(database)} WHERE id = ? AND ended_us IS NULL RETURNING id", [epoch_id]
    )


async def is_known(database: Database, life: Life) -> bool:
    """Whether this epoch was opened in this database."""
    return bool(await database.rows("SELECT 1 AS known FROM epoch WHERE id = ? AND started_us = ?", list(life)))


async def end_dead_epochs(
    database: Database, own_id: int, *, lease_s: float = LEASE_S, fresh_s: float = LEASE_S
) -> list[int]:
    """End every other epoch without a heartbeat within the lease (on SQLite: every other epoch), and return their ids.

    To be called only when the database has been reachable for as long as the lease: else the living could not renew it.
    On PostgreSQL it waits for what such a worker is placing at this moment, and no later placing will be granted.
    """
    dead, values = "SELECT id FROM epoch WHERE ended_us IS NULL AND id <> ?", [own_id]
    if database.dialect == "postgres":
        dead += (
            f" AND heartbeat_us < {_POSTGRES_NOW} - ? AND EXISTS (SELECT 1 FROM epoch own WHERE own.id = ?"
            f" AND own.heartbeat_us > {_POSTGRES_NOW} - ?) ORDER BY id FOR UPDATE OF epoch"
        )
        values += [int(lease_s * SECOND_US), own_id, int(fresh_s * SECOND_US)]
    async with database.transaction() as transaction:
        ids = [int(row["id"]) for row in await transaction.execute_query_dict(database.placed(dead), values)]
        for id_ in ids:
            ending = f"UPDATE epoch SET ended_us = {_now(database)} WHERE id = ?"
            await transaction.execute_query(database.placed(ending), [id_])
    return ids


async def living_secret_marks(database: Database) -> set[str]:
    """The `secret_mark` of every worker that is alive and has one; none when nobody serves."""
    alive = "SELECT DISTINCT secret_mark FROM epoch WHERE ended_us IS NULL AND secret_mark IS NOT NULL"
    if database.dialect == "postgres":
        alive += f" AND heartbeat_us > {_POSTGRES_NOW} - {int(LEASE_S * SECOND_US)}"
    elif not database.url.is_served:
        return set()
    return {row["secret_mark"] for row in await database.rows(alive)}


async def ended_epochs(database: Database, since_us: int) -> dict[int, int]:
    """Epochs that ended at that moment or later: id → ended_us."""
    rows = await database.rows("SELECT id, ended_us FROM epoch WHERE ended_us >= ?", [since_us])
    return {int(row["id"]): int(row["ended_us"]) for row in rows}


async def holds_of_the_dead(database: Database, epochs: Iterable[int]) -> AsyncIterator[list[Release]]:
    """What these ended epochs left open, as commands that give it back, page by page. Safe to repeat.

    Nothing is placed in an epoch that is over, so one that has nothing open will never have.
    """
    ids = list(epochs)
    for start in range(0, len(ids), _PAGE):
        some = ids[start : start + _PAGE]
        last = "00000000-0000-0000-0000-000000000000"
        while rows := await database.rows(
            f"SELECT request_id, account_id FROM hold WHERE status = 'open' AND epoch_id IN ({', '.join('?' * len(some))})"
            " AND request_id > ? ORDER BY request_id LIMIT ?",
            [*some, last, _PAGE],
        ):
            now = now_us()
            yield [Release(str(row["request_id"]), row["account_id"], now, expired=True) for row in rows]
            last = str(rows[-1]["request_id"])


def _now(database: Database) -> str:
    return _POSTGRES_NOW if database.dialect == "postgres" else str(now_us())
