"""Owns how commands reach the tables: load what they touch, `decide`, store all effects in bulk, in one transaction.

The sequence is written once, as a generator that yields SQL and receives rows, and is driven in two ways: by a thread of
its own on SQLite's request path (`SqliteLedger`: one thread hop per batch), and inside any Tortoise transaction
(`apply_in`: operators' grants, and PostgreSQL).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import msgspec
from tortoise.backends.base.client import BaseDBAsyncClient

from models.errors import DomainError, LedgerUnavailable
from models.money import (
    OPEN,
    Book,
    Command,
    Effects,
    HoldState,
    Move,
    Outcome,
    Place,
    Purse,
    TransferRow,
    decide,
)

# SQLite's locking is not fair: a waiting notebook gets its turn only if the file stays unlocked for a moment.
UNLOCKED_S = 0.0002
POLL_S = 0.001
MOST_PURSES = 100_000
_MOST_ROWS = 64


class Ledger(Protocol):
    """Applies batches of commands, each batch in one durable commit."""

    async def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        """The outcome of each command in order. Raises LedgerUnavailable when nothing was stored and trying again may help."""
        ...

    async def close(self) -> None: ...


# ── the sequence, without input or output ─────────────────────────────────────────────────────────────────────────

Statement = tuple[str, Sequence[Any], bool]  # SQL with `?`, its values, and whether they are many rows to write
Steps = Generator[Statement, list[Any], list[Outcome]]

_IN = {"sqlite": "IN (SELECT value FROM json_each(?))", "postgres": "= ANY(?)"}
_LOAD_ACCOUNTS = {
    "sqlite": f"SELECT id, balance_nano, held_nano FROM account WHERE id {_IN['sqlite']} AND id > 1000",
    # Locked in id order, so that two writers cannot wait for each other.
    "postgres": f"SELECT id, balance_nano, held_nano FROM account WHERE id {_IN['postgres']} AND id > 1000"
    " ORDER BY id FOR UPDATE",
}
_LOAD_HOLDS = "SELECT request_id, account_id, amount_nano, status FROM hold WHERE request_id {}"
_LOAD_TAKEN = "SELECT request_id, kind, amount_nano FROM transfer WHERE request_id {}"
_LOAD_GRANTS = (
    "SELECT debit_account, credit_account, amount_nano, kind, at_us, grant_key FROM transfer WHERE grant_key {}"
)
USAGE_COLUMNS = (
    "request_id, at_us, account_id, key_id, model_id, route_id, price_id, outcome, streamed, estimated, fresh_tokens,"
    " cached_tokens, cache_write_tokens, output_tokens, first_byte_ms, total_ms, cost_nano, attempts"
)
_INSERT_HOLDS = (
    "INSERT INTO hold (request_id, account_id, amount_nano, price_id, epoch_id, at_us, status) VALUES {rows}"
)
_INSERT_TRANSFERS = (
    "INSERT INTO transfer (debit_account, credit_account, amount_nano, kind, at_us, request_id, grant_key, note, operator)"
    " VALUES {rows}"
)
_INSERT_USAGE = f"INSERT INTO usage ({USAGE_COLUMNS}, charge_nano, writeoff_nano) VALUES {{rows}}"
_END_HOLDS = (
    "UPDATE hold SET status = v.column1, ended_us = v.column2 FROM (VALUES {rows}) AS v WHERE request_id = v.column3"
)
_UPDATE_ACCOUNTS = (
    "UPDATE account SET balance_nano = v.column1, held_nano = v.column2 FROM (VALUES {rows}) AS v WHERE id = v.column3"
)
# What one row looks like where it is not simply its values: PostgreSQL cannot guess the types of a bare VALUES list.
_ROWS = {
    (_INSERT_HOLDS, "sqlite"): "(?, ?, ?, ?, ?, ?, 'open')",
    (_INSERT_HOLDS, "postgres"): "(?, ?, ?, ?, ?, ?, 'open')",
    (_END_HOLDS, "postgres"): "(?::text, ?::bigint, ?::uuid)",
    (_UPDATE_ACCOUNTS, "postgres"): "(?::bigint, ?::bigint, ?::bigint)",
}


def _row(sql: str, width: int, dialect: str) -> str:
    return _ROWS.get((sql, dialect)) or f"({', '.join('?' * width)})"


def steps(book: Book, commands: Sequence[Command], dialect: str) -> Steps:
    """Everything that one batch does inside its transaction. What `book` knows already is not read again."""
    yield from _load(book, commands, dialect)
    effects = decide(book, commands)
    yield from _store(book, effects)
    for _, _, request_id in effects.ends:
        del book.holds[request_id]
    return effects.outcomes


def _load(book: Book, commands: Sequence[Command], dialect: str) -> Generator[Statement, list[Any], None]:
    accounts: set[int] = set()
    requests: list[str] = []
    grants: list[str] = []
    for command in commands:
        if isinstance(command, Move):
            accounts.update((command.debit_account, command.credit_account))
            grants.append(command.grant_key)
        else:
            accounts.add(command.account_id)
            if not isinstance(command, Place) and command.request_id not in book.holds:
                requests.append(command.request_id)
    pack = _json if dialect == "sqlite" else list
    unknown = sorted(accounts.difference(book.purses))
    if unknown:
        for row in (yield _LOAD_ACCOUNTS[dialect], (pack(unknown),), False):
            book.purses[row[0]] = Purse(row[1], row[2])
    if requests:
        for row in (yield _LOAD_HOLDS.format(_IN[dialect]), (pack(requests),), False):
            book.holds[str(row[0])] = HoldState(row[1], row[2], row[3])
        ended = [request_id for request_id, hold in book.holds.items() if hold.status != OPEN]
        if ended:
            for row in (yield _LOAD_TAKEN.format(_IN[dialect]), (pack(ended),), False):
                hold = book.holds[str(row[0])]
                if row[1] == "charge":
                    hold.charged_nano = row[2]
                else:
                    hold.writeoff_nano = row[2]
    if grants:
        for row in (yield _LOAD_GRANTS.format(_IN[dialect]), (pack(grants),), False):
            book.grants[row[5]] = TransferRow(row[0], row[1], row[2], row[3], row[4], grant_key=row[5])


def _store(book: Book, effects: Effects) -> Generator[Statement, list[Any], None]:
    astuple = msgspec.structs.astuple
    if effects.holds:
        yield _INSERT_HOLDS, [astuple(row) for row in effects.holds], True
    if effects.ends:
        yield _END_HOLDS, effects.ends, True
    if effects.transfers:
        yield _INSERT_TRANSFERS, [astuple(row) for row in effects.transfers], True
    if effects.usages:
        yield _INSERT_USAGE, effects.usages, True
    if effects.touched:
        purses = book.purses
        rows = [(purses[id_].balance_nano, purses[id_].held_nano, id_) for id_ in sorted(effects.touched)]
        yield _UPDATE_ACCOUNTS, rows, True


def _json(values: Sequence[Any]) -> str:
    return msgspec.json.encode(values).decode()


# ── driven inside a Tortoise transaction ──────────────────────────────────────────────────────────────────────────


async def apply_in(transaction: BaseDBAsyncClient, commands: Sequence[Command]) -> list[Outcome]:
    """Apply inside an open transaction; the caller commits. Either database."""
    dialect = transaction.capabilities.dialect
    running = steps(Book(), commands, dialect)
    rows: list[Any] = []
    try:
        statement = next(running)
        while True:
            sql, values, many = statement
            if many:
                sql = sql.format(rows=_row(sql, len(values[0]), dialect))
            if dialect == "postgres":
                sql = _numbered(sql)
            if many:
                await transaction.execute_many(sql, values)  # type: ignore[arg-type]
            else:
                rows = [tuple(row.values()) for row in await transaction.execute_query_dict(sql, list(values))]
            statement = running.send(rows)
    except StopIteration as done:
        outcomes: list[Outcome] = done.value
        return outcomes


async def apply_one(transaction: BaseDBAsyncClient, command: Command) -> Outcome:
    """Apply one command inside an open transaction; a refusal is raised."""
    outcome = (await apply_in(transaction, [command]))[0]
    if isinstance(outcome, DomainError):
        raise outcome
    return outcome


def _numbered(sql: str) -> str:
    parts = sql.split("?")
    return "".join(part + (f"${i + 1}" if i < len(parts) - 1 else "") for i, part in enumerate(parts))


# ── driven by a thread of its own on SQLite ───────────────────────────────────────────────────────────────────────


class SqliteLedger:
    """The request path's writer on SQLite: one connection, one thread, one commit per batch.

    It keeps the book from batch to batch. SQLite's `data_version` changes whenever another connection commits (a grant
    from a notebook), and only then is the book read anew; so a batch under load is writes alone.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 5.0) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._unlocked_since = 0.0
        self._book = Book()
        self._version = -1

    async def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._apply, commands)

    async def close(self) -> None:
        def shut() -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

        await asyncio.get_running_loop().run_in_executor(self._thread, shut)
        self._thread.shutdown()

    def _apply(self, commands: Sequence[Command]) -> list[Outcome]:
        rest_s = self._unlocked_since + UNLOCKED_S - time.monotonic()
        if rest_s > 0:
            time.sleep(rest_s)
        try:
            connection = self._connection or self._connect()
            self._begin(connection)
            try:
                outcomes = self._drive(connection, steps(self._current_book(connection), commands, "sqlite"))
                connection.execute("COMMIT")
            except BaseException:
                # The book was changed by a decision that is not stored.
                self._version = -1
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise LedgerUnavailable(f"the database is busy or away: {error}") from error
        finally:
            self._unlocked_since = time.monotonic()
        return outcomes

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Ask often: SQLite's own waiting backs off to a tenth of a second, and a busy notebook would always be first."""
        deadline = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def _current_book(self, connection: sqlite3.Connection) -> Book:
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version or len(self._book.purses) > MOST_PURSES:
            self._book, self._version = Book(), version
        self._book.grants.clear()
        return self._book

    @staticmethod
    def _drive(connection: sqlite3.Connection, running: Steps) -> list[Outcome]:
        try:
            sql, values, many = next(running)
            while True:
                rows: list[Any] = []
                if many:
                    _write_rows(connection, sql, values)
                else:
                    rows = connection.execute(sql, values).fetchall()
                sql, values, many = running.send(rows)
        except StopIteration as done:
            outcomes: list[Outcome] = done.value
            return outcomes

    def _connect(self) -> sqlite3.Connection:
        # A file that was moved away must not come back as an empty database.
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=self._busy_timeout_s, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=0")
        self._connection = connection
        return connection


def _write_rows(connection: sqlite3.Connection, sql: str, rows: Sequence[Any]) -> None:
    """Many rows a statement: each statement lets go of the interpreter and must win it back from the event loop's thread.

    In powers of two, so that a few prepared statements serve every batch.
    """
    start = 0
    while start < len(rows):
        count = min(_MOST_ROWS, 1 << (len(rows) - start).bit_length() - 1)
        text = _statement(sql, len(rows[0]), count)
        connection.execute(text, list(chain.from_iterable(rows[start : start + count])))
        start += count


@lru_cache(maxsize=256)
def _statement(sql: str, width: int, count: int) -> str:
    return sql.format(rows=", ".join([_row(sql, width, "sqlite")] * count))
