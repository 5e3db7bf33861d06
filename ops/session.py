"""Owns how synchronous verbs reach asynchronous records: a thread with an event loop and a Tortoise context of its own.

So a desk works the same in a script, in a notebook (whose own loop is running), and beside other desks.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg
from tortoise.context import TortoiseContext
from tortoise.exceptions import DBConnectionError, OperationalError

from models.database import Database, DatabaseUrl, connect
from models.errors import LedgerUnavailable, SetupError
from models.schema import check_schema

T = TypeVar("T")
# Tortoise translates some of asyncpg's errors only.
_AWAY = (OperationalError, DBConnectionError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


class Session:
    """An open database and the thread that talks to it. One call at a time; others wait their turn."""

    def __init__(self, url: DatabaseUrl) -> None:
        _one_kind_at_a_time(url)
        self._url = url
        self._context = TortoiseContext()
        self._variables = contextvars.copy_context()
        self._variables.run(self._context.__enter__)
        self._turn = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ops-desk", daemon=True)
        self._thread.start()
        _close_at_exit(self)
        try:
            self.database = self._wait(self._open())
        except BaseException:
            self.close()
            raise

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result. Raises what it raises; a database that is busy or away is LedgerUnavailable."""
        with self._turn:
            if not self._thread.is_alive():
                work.close()
                raise SetupError("this desk is closed; open another with: ops.connect()")
            try:
                return self._wait(work)
            except _AWAY as error:
                raise LedgerUnavailable(f"the database is busy or away: {error}") from error

    def close(self) -> None:
        """Close the database and end the thread. Twice does nothing."""
        with self._turn:
            if not self._thread.is_alive():
                return
            self._wait(self._context.close_connections())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        # Each call has a copy of the variables: an interrupted one may still be leaving its transaction in the next.
        future = self._variables.copy().run(asyncio.run_coroutine_threadsafe, work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    async def _open(self) -> Database:
        try:
            database = await connect(self._url, self._context, pool=2)
            await check_schema(database)
        except _AWAY as error:
            raise SetupError(f"GATEWAY_DATABASE_URL: cannot open {self._url.shown}: {error}") from error
        return database


def _one_kind_at_a_time(url: DatabaseUrl) -> None:
    """Tortoise builds its queries for the kind of database opened last, in the whole process."""
    for other in list(_open_sessions):
        if other._thread.is_alive() and other._url.dialect != url.dialect:
            raise SetupError(
                f"close the desk at {other._url.shown} first: a process talks to one kind of database at a time"
            )


# ── at the end of a script ────────────────────────────────────────────────────────────────────────────────────────

_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_watching = threading.Lock()


def _close_at_exit(session: Session) -> None:
    """SQLite's connection has a thread that Python waits for; a script that forgets to close must end all the same."""
    _open_sessions.add(session)
    if _watching.acquire(blocking=False):
        threading.Thread(target=_close_after_main, name="ops-close", daemon=True).start()


def _close_after_main() -> None:
    threading.main_thread().join()
    for session in list(_open_sessions):
        session.close()
