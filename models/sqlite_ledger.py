"""Owns the ledger's writer on SQLite: one connection, one thread, one commit a batch; and SQLite's words for each step."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

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
from models.money import Book, Command, Outcome

# SQLite's locking is not fair: a waiting notebook gets its turn only if the file stays unlocked for a moment.
UNLOCKED_S = 0.0002
POLL_S = 0.001
MOST_PURSES = 100_000
_MOST_ROWS = 64

Statement = tuple[str, Sequence[Any], bool]  # SQL, its values, and whether they are many rows to write

_IN = "IN (SELECT value FROM json_each(?))"
_LOAD_ACCOUNTS = f"SELECT id, balance_nano, held_nano FROM account WHERE id {_IN} AND id > 1000"
_LOAD_HOLDS = f"SELECT request_id, account_id, amount_nano, status FROM hold WHERE request_id {_IN}"
_LOAD_TAKEN = f"SELECT request_id, kind, amount_nano FROM transfer WHERE request_id {_IN}"
_LOAD_GRANTS = (
    f"SELECT debit_account, credit_account, amount_nano, kind, at_us, grant_key FROM transfer WHERE grant_key {_IN}"
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
    "UPDATE hold SET status = v.column2, ended_us = v.column3 FROM (VALUES {rows}) AS v"
    " WHERE request_id = v.column1 AND status = v.column4"
)
_UPDATE_ACCOUNTS = (
    "UPDATE account SET balance_nano = v.column1, held_nano = v.column2 FROM (VALUES {rows}) AS v WHERE id = v.column3"
)
_ADD_TO_DAYS = (
    f"INSERT INTO usage_day ({DAY_COLUMNS})"
    " SELECT * FROM (VALUES {rows}) WHERE column1 < (SELECT until_us FROM usage_rollup)"
)


def statements(step: Step) -> Iterator[Statement]:
    """SQLite's words for a step."""
    match step:
        case LoadAccounts(accounts, _):
            # One server owns the file, so its epoch cannot be ended by another.
            yield _LOAD_ACCOUNTS, (_json(accounts),), False
        case LoadHolds(requests):
            yield _LOAD_HOLDS, (_json(requests),), False
        case LoadTaken(requests):
            yield _LOAD_TAKEN, (_json(requests),), False
        case LoadGrants(keys):
            yield _LOAD_GRANTS, (_json(keys),), False
        case Store(effects, purses):
            astuple = msgspec.structs.astuple
            if effects.holds:
                yield _INSERT_HOLDS, [astuple(row) for row in effects.holds], True
            if effects.ends:
                yield _END_HOLDS, [(id_, *end) for id_, end in effects.ends.items()], True
            if effects.transfers:
                yield _INSERT_TRANSFERS, [astuple(row) for row in effects.transfers], True
            if effects.usages:
                yield _INSERT_USAGE, effects.usages, True
            if purses:
                yield _UPDATE_ACCOUNTS, purses, True
        case AddToDays(days):
            yield "UPDATE usage_rollup SET late = late + 1", (), False
            yield _ADD_TO_DAYS, days, True


@lru_cache(maxsize=256)
def rows_statement(sql: str, width: int, count: int) -> str:
    """The statement for so many rows of so many values."""
    row = "(?, ?, ?, ?, ?, ?, 'open')" if sql is _INSERT_HOLDS else f"({', '.join('?' * width)})"
    return sql.format(rows=", ".join([row] * count))


class SqliteLedger:
    """The request path's writer on SQLite.

    It keeps the book from batch to batch. SQLite's `data_version` changes whenever another connection commits (a grant
    from a notebook), and only then is the book read anew; so a batch under load is writes alone.
    """

    # Its own bound on waiting is the busy timeout.
    asked_at: float | None = None

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

    def give_up(self) -> None:
        """It gives up by itself."""

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
                outcomes = self._drive(connection, steps(self._current_book(connection), commands))
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
        rows: list[Any] = []
        try:
            step = next(running)
            while True:
                for sql, values, many in statements(step):
                    if many:
                        _write_rows(connection, sql, values)
                    else:
                        rows = connection.execute(sql, values).fetchall()
                step = running.send(rows)
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
        text = rows_statement(sql, len(rows[0]), count)
        connection.execute(text, list(chain.from_iterable(rows[start : start + count])))
        start += count


def _json(values: Sequence[Any]) -> str:
    return msgspec.json.encode(values).decode()
