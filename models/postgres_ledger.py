"""Owns the ledger's writer on PostgreSQL: one connection, one transaction a batch; and PostgreSQL's words for each step.

A batch takes four messages: begin, lock and read the accounts, store everything in one statement, commit. Any number of
workers and machines do this side by side: accounts are locked in the order of their ids, and holds change only under the
lock of their account. What this worker placed it remembers, and does not read again to settle it; the statement that ends
a hold tells whether it still had the status that was assumed, and if not, the batch is decided anew from what stands there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import asyncpg

from models.database import DatabaseUrl, postgres_options
from models.errors import LedgerUnavailable
from models.ledger_steps import (
    DAY_COLUMNS,
    USAGE_COLUMNS,
    AddToDays,
    LoadAccounts,
    LoadGrants,
    LoadHolds,
    LoadTaken,
    Step,
    Steps,
    Store,
    steps,
)
from models.money import OPEN, Book, Command, Effects, Outcome

CONNECT_WITHIN_S = 3.0
_TRIES = 5
# A worker that was frozen in the middle of a batch must not keep its accounts from the others. Everything here is found by
# key: a plan that was made while the tables were small, and read them whole, would be kept when they have grown.
_SESSION = (
    "SET application_name = 'gateway ledger'; SET idle_in_transaction_session_timeout = '2s'; SET lock_timeout = '2s';"
    " SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;"
    " SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;"
    " SET enable_mergejoin = off; SET jit = off;"
    # Durable means on disk, whatever the server's default is.
    " SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# What is wrong with a command itself. Whatever else the database says may be over in a while, so nothing is given up for it.
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError)

_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.InvalidCachedStatementError)
_BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
# The connection is, and another may be had at once.
_GONE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

_LOAD_ACCOUNTS = (
    "SELECT * FROM (SELECT id, balance_nano, held_nano FROM account WHERE id = ANY($1::bigint[]) AND id > 1000"
    " ORDER BY id FOR UPDATE) a"
)
# The lock lets heartbeats pass, and makes recovery wait until what is placed now can be seen by it.
_LOAD_EPOCHS = (
    " UNION ALL SELECT * FROM (SELECT -id, 0, 0 FROM epoch WHERE id = ANY($2::bigint[]) AND ended_us IS NULL"
    " FOR KEY SHARE) e"
)
_LOAD_HOLDS = "SELECT request_id, account_id, amount_nano, status FROM hold WHERE request_id = ANY($1::uuid[])"
_LOAD_TAKEN = "SELECT request_id, kind, amount_nano FROM transfer WHERE request_id = ANY($1::uuid[])"
_LOAD_GRANTS = (
    "SELECT debit_account, credit_account, amount_nano, kind, at_us, grant_key FROM transfer"
    " WHERE grant_key = ANY($1::text[])"
)
_DAY_TYPES = f"{'bigint ' * 5}text bool {'bigint ' * 10}".split()
# Rolling up a day ends in the same row, so either it sees these settlements, or they see that it is done.
_ADD_TO_DAYS = (
    "WITH rollup AS (UPDATE usage_rollup SET late = late + 1 RETURNING until_us)"
    f" INSERT INTO usage_day ({DAY_COLUMNS}) SELECT v.* FROM rollup,"
    f" unnest({', '.join(f'${n}::{type_}[]' for n, type_ in enumerate(_DAY_TYPES, 1))}) AS v ({DAY_COLUMNS})"
    " WHERE v.day_us < rollup.until_us"
)
_USAGE_TYPES = f"uuid {'bigint ' * 6}text bool bool {'bigint ' * 4}int int bigint jsonb bigint bigint"
_PLAIN = frozenset(["bigint", "int", "uuid", "bool"])
_PARTS = {
    "holds": (
        "INSERT INTO hold (request_id, account_id, amount_nano, price_id, epoch_id, at_us, status, ended_us)"
        " SELECT * FROM {arrays}",
        "uuid bigint bigint bigint bigint bigint text bigint",
    ),
    "ends": (
        "UPDATE hold SET status = v.status, ended_us = v.ended_us"
        " FROM {arrays} AS v (request_id, status, ended_us, before)"
        " WHERE hold.request_id = v.request_id AND hold.status = v.before RETURNING 1",
        "uuid text bigint text",
    ),
    "transfers": (
        "INSERT INTO transfer"
        " (debit_account, credit_account, amount_nano, kind, at_us, request_id, grant_key, note, operator)"
        " SELECT * FROM {arrays}",
        "bigint bigint bigint text bigint uuid text text text",
    ),
    "usages": (
        f"INSERT INTO usage ({USAGE_COLUMNS}, charge_nano, writeoff_nano) SELECT * FROM {{arrays}}",
        _USAGE_TYPES,
    ),
    "purses": (
        "UPDATE account SET balance_nano = v.balance_nano, held_nano = v.held_nano"
        " FROM {arrays} AS v (balance_nano, held_nano, id) WHERE account.id = v.id",
        "bigint bigint bigint",
    ),
}


class Stale(Exception):
    """A hold had another status than this worker remembered; nothing was stored."""


class PostgresLedger:
    """The request path's writer on PostgreSQL."""

    def __init__(self, url: DatabaseUrl) -> None:
        self._options = postgres_options(url)
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()
        self._book = Book(epochs=set())
        self._given_up = False
        self.asked_at: float | None = None

    async def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        """See `Ledger`. A lost connection is made anew, once; deadlocks and stale memories are decided anew."""
        async with self._turn:
            lost = self._given_up = False
            for attempt in range(_TRIES):
                try:
                    return await self._try(commands, repeated=attempt > 0)
                except (*_AGAIN, Stale):
                    continue
                except REFUSED:
                    # It may have been decided from a stale memory; what is refused again is refused for itself.
                    if attempt == 0:
                        continue
                    raise
                except _BROKEN as error:
                    if lost or self._given_up or not isinstance(error, _GONE):
                        raise LedgerUnavailable(f"the database is away: {type(error).__name__}: {error}") from error
                    lost = True
            raise LedgerUnavailable("the database could not decide between several writers")

    def give_up(self) -> None:
        self._given_up = True
        if self._connection is not None:
            self._connection.terminate()

    async def close(self) -> None:
        async with self._turn:
            if self._connection is not None:
                self._connection.terminate()
                self._connection = None

    async def _try(self, commands: Sequence[Command], *, repeated: bool) -> list[Outcome]:
        self.asked_at = time.monotonic()
        book = self._book
        # Others change accounts and end epochs at any time; open holds are this worker's own.
        book.purses.clear()
        book.grants.clear()
        if book.epochs:
            book.epochs.clear()
        connection = self._connection
        try:
            if connection is None or connection.is_closed():
                connection = self._connection = await self._connect()
            await self._ask(connection.execute(_BEGIN))
            outcomes = await drive(connection, steps(book, commands, repeated=repeated), self._ask)
            await self._ask(connection.execute("COMMIT"))
        except BaseException as error:
            # The book was changed by decisions that are not stored, or that nobody knows to be stored.
            self._book = Book(epochs=set())
            await self._leave(connection, error)
            raise
        finally:
            self.asked_at = None
        return outcomes

    async def _ask(self, answer: Any) -> Any:
        self.asked_at = time.monotonic()
        return await answer

    async def _leave(self, connection: asyncpg.Connection | None, error: BaseException) -> None:
        """Out of the transaction; or of the connection, where that is not certain or another server may be better."""
        if connection is None:
            return
        stays = isinstance(error, (asyncpg.PostgresError, Stale)) and not isinstance(
            error, asyncpg.ReadOnlySQLTransactionError
        )
        if stays and not connection.is_closed():
            with contextlib.suppress(*_BROKEN):
                await self._ask(connection.execute("ROLLBACK"))
                return
        connection.terminate()
        self._connection = None

    async def _connect(self) -> asyncpg.Connection:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            connection = await asyncpg.connect(**self._options, timeout=CONNECT_WITHIN_S)
            await connection.execute(_SESSION)
        return connection


async def drive(connection: asyncpg.Connection, running: Steps, ask: Any = None) -> list[Outcome]:
    """Run the steps inside the connection's open transaction. `ask` wraps every question to the database."""
    rows: Sequence[Any] = []
    try:
        step = next(running)
        while True:
            sql, values = _words(step)
            question = connection.fetch(sql, *values)
            rows = await (question if ask is None else ask(question))
            if isinstance(step, Store) and step.effects.ends and rows[0][0] != _existing(step.effects):
                raise Stale
            step = running.send(rows)
    except StopIteration as done:
        outcomes: list[Outcome] = done.value
        return outcomes


def _words(step: Step) -> tuple[str, Sequence[Any]]:
    match step:
        case LoadAccounts(accounts, epochs):
            return (_LOAD_ACCOUNTS + _LOAD_EPOCHS, (accounts, epochs)) if epochs else (_LOAD_ACCOUNTS, (accounts,))
        case LoadHolds(requests):
            return _LOAD_HOLDS, (requests,)
        case LoadTaken(requests):
            return _LOAD_TAKEN, (requests,)
        case LoadGrants(keys):
            return _LOAD_GRANTS, (keys,)
        case Store(effects, purses):
            return _store(effects, purses)
        case AddToDays(rows):
            return _ADD_TO_DAYS, list(map(list, zip(*rows, strict=True)))


def _store(effects: Effects, purses: list[tuple[int, int, int]]) -> tuple[str, list[Any]]:
    """One statement for everything. What is placed and ended in one batch is inserted as it ends."""
    ends = effects.ends
    parts: list[tuple[str, Any]] = []
    if effects.holds:
        holds = [
            (h.request_id, h.account_id, h.amount_nano, h.price_id, h.epoch_id, h.at_us, *_fate(ends, h.request_id))
            for h in effects.holds
        ]
        parts.append(("holds", holds))
    if ends and _existing(effects):
        placed = {hold.request_id for hold in effects.holds}
        parts.append(("ends", [(id_, *end) for id_, end in ends.items() if id_ not in placed]))
    if effects.transfers:
        parts.append(
            (
                "transfers",
                [
                    (t.debit_account, t.credit_account, t.amount_nano, t.kind, t.at_us,
                     t.request_id, t.grant_key, t.note, t.operator)
                    for t in effects.transfers
                ],
            )
        )  # fmt: skip
    if effects.usages:
        parts.append(("usages", effects.usages))
    if purses:
        parts.append(("purses", purses))
    values: list[Any] = []
    for name, rows in parts:
        for column, (_, is_plain) in zip(zip(*rows, strict=True), _columns(name), strict=True):
            values.append(_array(column) if is_plain else list(column))
    return _statement(tuple(name for name, _ in parts)), values


@lru_cache(maxsize=8)
def _columns(part: str) -> list[tuple[str, bool]]:
    """The type of each array, and whether its values are plain: nothing in their words needs quoting."""
    return [(type_, type_ in _PLAIN) for type_ in _PARTS[part][1].split()]


def _array(values: Sequence[Any]) -> str:
    """An array in PostgreSQL's own words. asyncpg asks of each value whether it is an array, which costs more than this."""
    return f"{{{','.join(map(str, values))}}}".replace("None", "NULL")


def _fate(ends: dict[str, tuple[str, int, str]], request_id: str) -> tuple[str, int | None]:
    end = ends.get(request_id) if ends else None
    return (OPEN, None) if end is None else (end[0], end[1])


def _existing(effects: Effects) -> int:
    """How many of the holds that end stood in the table before."""
    if not effects.holds:
        return len(effects.ends)
    return len(effects.ends) - sum(hold.request_id in effects.ends for hold in effects.holds)


@lru_cache(maxsize=64)
def _statement(parts: tuple[str, ...]) -> str:
    clauses, number = [], 0
    for name in parts:
        sql, _ = _PARTS[name]
        arrays = []
        for type_, is_plain in _columns(name):
            number += 1
            arrays.append(f"${number}::text::{type_}[]" if is_plain else f"${number}::{type_}[]")
        rows = f"unnest({', '.join(arrays)})"
        clauses.append(f"{name} AS ({sql.format(arrays=rows)})")
    ended = "(SELECT COUNT(*) FROM ends)" if "ends" in parts else "0"
    return f"WITH {', '.join(clauses)} SELECT {ended}"
