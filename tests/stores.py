"""Owns what a rig stands on: a SQLite file, or (`TEST_RIG=cluster`) PostgreSQL and Redis under two workers; and SQL on either.

The tests are the same on both. One that is about one kind alone says so with `@pytest.mark.only("sqlite")`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import redis

from models.database import file_lock
from tests.servers import fresh_postgres, redis_server

SQLITE, CLUSTER = "sqlite", "cluster"
WORKERS = 2
SECRET_KEY = "the cluster of the tests has one secret key"
_kinds = [os.environ.get("TEST_RIG") or SQLITE]


def kind() -> str:
    """What rigs stand on now."""
    assert _kinds[-1] in (SQLITE, CLUSTER), f"TEST_RIG is {SQLITE} or {CLUSTER}, not {_kinds[-1]!r}"
    return _kinds[-1]


@contextlib.contextmanager
def on(wanted: str) -> Iterator[None]:
    """Rigs that are started meanwhile stand on this."""
    _kinds.append(wanted)
    try:
        yield
    finally:
        _kinds.pop()


@dataclass(frozen=True)
class Stores:
    """A database, where a desk and the tests find it, and what else the server must be told."""

    kind: str
    database_url: str
    environment: dict[str, str]


@contextlib.contextmanager
def fresh_stores(folder: Path, *, database_url: str | None = None, redis_url: str | None = None) -> Iterator[Stores]:
    """Empty ones of the kind in force. A URL names what a test brings along: its own server, empty as well."""
    if kind() == SQLITE:
        yield Stores(SQLITE, f"sqlite://{folder / 'gateway.db'}", {})
        return
    with contextlib.ExitStack() as opened:
        told = {
            "GATEWAY_REDIS_URL": redis_url or opened.enter_context(fresh_redis()),
            "GATEWAY_SECRET_KEY": SECRET_KEY,
            "GATEWAY_SPOOL_DIR": str(folder / "spool"),
            "GATEWAY_WORKERS": str(WORKERS),
        }
        yield Stores(CLUSTER, database_url or opened.enter_context(fresh_postgres()), told)


@contextlib.contextmanager
def fresh_redis() -> Iterator[str]:
    """The URL of an empty Redis database, which no other test of this machine uses until this one is done with it."""
    server = redis_server()
    parts = urllib.parse.urlsplit(server)
    claimed = contextlib.ExitStack()
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15):
        name = f"gateway-test-redis-{parts.hostname}-{parts.port or 6379}-{number}.lock"
        try:
            # The lock goes with the process that holds it, however that ends.
            claimed.enter_context(file_lock(Path(tempfile.gettempdir()) / name))
            break
        except BlockingIOError:
            continue
    else:
        raise AssertionError("every Redis database is in use by a test")
    url = parts._replace(path=f"/{number}").geturl()
    with claimed, redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


# ── SQL on either database ────────────────────────────────────────────────────────────────────────────────────────


class Sql:
    """A connection of a test's own to a rig's database: `?` for values on either, and nothing is committed for it.

    Calls wait for their answer. One that waits for a lock belongs into `asyncio.to_thread`.
    """

    def __init__(self, database_url: str) -> None:
        self.dialect = database_url.partition("://")[0]
        self._opened = contextlib.ExitStack()
        if self.dialect == "sqlite":
            path = database_url.removeprefix("sqlite://")
            self._sqlite = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._opened.callback(self._sqlite.close)
            return
        # asyncpg wants a loop, and the test may be running in one: so it gets a thread.
        self._thread = self._opened.enter_context(ThreadPoolExecutor(1, thread_name_prefix="sql"))
        self._runner = asyncio.Runner()
        self._postgres: asyncpg.Connection[Any] = self._run(asyncpg.connect, database_url, timeout=10)
        self._opened.callback(self._end)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        if self.dialect == "sqlite":
            return self._sqlite.execute(query, values).fetchall()
        parts = query.split("?")
        placed = "".join(part + (f"${i}" if i < len(parts) else "") for i, part in enumerate(parts, start=1))
        return [tuple(row) for row in self._run(self._postgres.fetch, placed, *values)]

    def value(self, query: str, *values: Any) -> Any:
        """The one number or word that the query is about."""
        return self.rows(query, *values)[0][0]

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Sql:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, act: Any, *arguments: Any, **options: Any) -> Any:
        async def work() -> Any:
            return await act(*arguments, **options)

        return self._thread.submit(self._runner.run, work()).result()

    def _end(self) -> None:
        # Whatever transaction is still open ends with its connection.
        self._postgres.terminate()
        self._thread.submit(self._runner.close).result()
