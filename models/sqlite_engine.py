"""Owns how Tortoise talks to SQLite here: its own client, but with transactions that take the write lock at their start.

A deferred transaction that reads and then writes fails with `database is locked` whatever the busy timeout, because its
snapshot is stale by the time it asks for the lock. `BEGIN IMMEDIATE` waits its turn instead.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from tortoise.backends.base.client import TransactionContext
from tortoise.backends.sqlite.client import SqliteClient, SqliteTransactionContext, SqliteTransactionWrapper
from tortoise.exceptions import OperationalError


class ImmediateTransactionWrapper(SqliteTransactionWrapper):
    async def begin(self) -> None:
        try:
            await self._connection.commit()
            await self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as exc:
            raise OperationalError(exc) from exc


class ImmediateContext(SqliteTransactionContext):
    async def __aenter__(self) -> Any:
        try:
            return await super().__aenter__()
        except BaseException:
            # The base class takes its lock before it begins; a failed begin would keep it for ever.
            if self._trxlock.locked():
                self._trxlock.release()
            raise


class ImmediateSqliteClient(SqliteClient):
    def _in_transaction(self) -> TransactionContext:
        return ImmediateContext(ImmediateTransactionWrapper(self), self._lock)


client_class = ImmediateSqliteClient
