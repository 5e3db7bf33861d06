"""Owns the way to a database: its URL, opening and closing it, transactions, and bringing its schema up to date."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext
from tortoise.exceptions import DBConnectionError, OperationalError

from models.errors import SetupError

DEFAULT_URL = "sqlite://var/gateway.db"
BUSY_TIMEOUT_MS = 5_000
CONNECT_WITHIN_S = 5.0
SSL_MODES = ("disable", "prefer", "allow", "require", "verify-ca", "verify-full")
# What a database says when it is not itself: going down, coming up, full, or another server since a failover.
AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    DBConnectionError,
    OSError,
    TimeoutError,
)
# And what the system says where no database answers; one that answers speaks for itself.
_UNREACHABLE = (ConnectionRefusedError, ConnectionResetError, TimeoutError, socket.gaierror)
_UNREACHABLE_ERRNOS = (errno.EHOSTUNREACH, errno.ENETUNREACH)
# Any constant will do; it must only be the same in every version of this program.
MIGRATION_LOCK_ID = 7_205_759_401
CHANGE_LOCK_ID = 7_205_759_402
PARTITION_LOCK_ID = 7_205_759_403
ROLLUP_LOCK_ID = 7_205_759_404


@dataclass(frozen=True)
class DatabaseUrl:
    """A parsed `GATEWAY_DATABASE_URL`. `path` is absolute for SQLite and None for PostgreSQL."""

    text: str
    dialect: str
    path: Path | None

    @property
    def shown(self) -> str:
        """The URL without its password, for messages."""
        return re.sub(r"//([^:/@]+):[^@]*@", r"//\1:…@", self.text)

    @property
    def lock_path(self) -> Path:
        """The file that whoever serves a SQLite database keeps locked."""
        assert self.path is not None
        return self.path.with_name(self.path.name + ".lock")

    @property
    def is_served(self) -> bool:
        """Whether a server has this SQLite database."""
        if not self.lock_path.exists():
            return False
        try:
            with file_lock(self.lock_path):
                return False
        except OSError:
            return True


def parse_url(text: str) -> DatabaseUrl:
    """Raises SetupError naming the variable for anything but `sqlite://` and `postgres://`."""
    scheme = text.partition(":")[0].lower()
    if scheme in ("postgres", "postgresql"):
        try:
            _ = urlsplit(text).port
        except ValueError as error:
            raise SetupError(
                f"GATEWAY_DATABASE_URL: {error}; it must look like postgres://user:password@host:5432/gateway"
            ) from None
        url = DatabaseUrl("postgres" + text[len(scheme) :], "postgres", None)
        if not postgres_options(url)["database"]:
            raise SetupError(
                "GATEWAY_DATABASE_URL: names no database, as in postgres://user:password@host:5432/gateway"
            )
        return url
    if text.startswith("sqlite://"):
        name = unquote(text[len("sqlite://") :].split("?", maxsplit=1)[0])
        if not name or name == ":memory:":
            raise SetupError("GATEWAY_DATABASE_URL: name a file, as in sqlite://var/gateway.db")
        return DatabaseUrl(text, "sqlite", project_folder() / name)
    raise SetupError(
        f"GATEWAY_DATABASE_URL: {text.rsplit('@', maxsplit=1)[-1]!r} is neither sqlite://PATH nor postgres://user:password@host:port/name"
    )


def project_folder() -> Path:
    """Where relative paths start: the nearest parent with a `.env` or `pyproject.toml`, else the working directory."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".env").exists() or (folder / "pyproject.toml").exists():
            return folder
    return here


class Database:
    """An open database: one Tortoise context with one connection (SQLite) or one bounded pool (PostgreSQL)."""

    def __init__(self, url: DatabaseUrl, context: TortoiseContext) -> None:
        self.url = url
        self.dialect = url.dialect
        self.context = context

    @property
    def connection(self) -> BaseDBAsyncClient:
        return self.context.connections.get("default")

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[TransactionalDBClient]:
        """One transaction; on SQLite it holds the write lock from its start."""
        async with self.connection._in_transaction() as transaction:
            yield transaction

    async def rows(self, query: str, values: list[Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a raw query written with `?` placeholders."""
        return await self.connection.execute_query_dict(self.placed(query), values)

    def placed(self, query: str) -> str:
        """`?` placeholders become `$1, $2, …` where the database wants that."""
        if self.dialect == "sqlite":
            return query
        parts = query.split("?")
        return "".join(part + (f"${i + 1}" if i < len(parts) - 1 else "") for i, part in enumerate(parts))

    async def reconnect(self) -> None:
        """Forget every connection of the pool, whatever it waits for, and make new ones."""
        client: Any = self.connection
        pool, client._pool = getattr(client, "_pool", None), None
        if pool is not None:
            pool.terminate()

    async def close(self) -> None:
        await self.context.connections.close_all()


def is_away(error: BaseException) -> bool:
    """Whether trying again later may help, because it is the database that is away or locked, and not our statement."""
    return isinstance(error, AWAY) or (isinstance(error, OperationalError) and "locked" in str(error))


def why_unusable(url: DatabaseUrl, error: BaseException) -> str:
    """What the error says; of a PostgreSQL that does not answer, what to do as well."""
    is_silent = isinstance(error, _UNREACHABLE) or getattr(error, "errno", None) in _UNREACHABLE_ERRNOS
    # Of a name with several addresses asyncio tells in one error without a number that it tried them all.
    is_silent |= type(error) is OSError and error.errno is None
    if url.path is not None or not is_silent:
        return str(error)
    detail = str(error) or f"nothing within {CONNECT_WITHIN_S:.0f} s"
    return f"no PostgreSQL answers there ({detail}); start it, or correct host and port"


@contextlib.asynccontextmanager
async def open_database(url: DatabaseUrl, *, create: bool = False, pool: int = 10) -> AsyncIterator[Database]:
    """Open, and make it the current Tortoise context of this task; closed on leaving.

    Raises SetupError when a SQLite file is missing and `create` is false.
    """
    context = TortoiseContext()
    with context:
        database = await connect(url, context, create=create, pool=pool)
        try:
            yield database
        finally:
            await database.close()


@contextlib.asynccontextmanager
async def open_snapshot(database: Database) -> AsyncIterator[Database]:
    """The database as it stands now, to be read by this task alone, whatever is written meanwhile.

    SQLite has a connection of its own for it (in 5 ms), as the shared one would have to keep writers out.
    """
    if database.dialect == "sqlite":
        async with open_database(database.url) as reader:
            await reader.connection.execute_query("BEGIN")
            yield reader
            await reader.connection.execute_query("ROLLBACK")
    else:
        async with database.transaction() as transaction:
            await transaction.execute_query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # Compiling a query's expressions takes longer than running all of the queries that are asked here.
            await transaction.execute_query("SET LOCAL jit = off")
            yield database


def by_index(snapshot: Database) -> AbstractAsyncContextManager[None]:
    """Meanwhile PostgreSQL looks up few rows among many by index, whatever its statistics tell it to expect."""
    return _without(snapshot, "enable_seqscan", "enable_hashjoin", "enable_mergejoin")


def in_one_pass(snapshot: Database) -> AbstractAsyncContextManager[None]:
    """Meanwhile PostgreSQL joins many rows with many by reading each side once.

    Its statistics let it expect a single row of a span of ids that lies within one bin of their histogram, such as a day of
    a year, and then it would read the whole span of one table for every row of the other.
    """
    return _without(snapshot, "enable_nestloop")


@contextlib.asynccontextmanager
async def _without(snapshot: Database, *settings: str) -> AsyncIterator[None]:
    if snapshot.dialect == "sqlite":
        yield
        return
    for value in ("off", "on"):
        for setting in settings:
            await snapshot.connection.execute_query(f"SET LOCAL {setting} = {value}")
        if value == "off":
            yield


async def connect(
    url: DatabaseUrl,
    context: TortoiseContext,
    *,
    create: bool = False,
    pool: int = 10,
    everywhere: bool = False,
    command_timeout_s: float | None = None,
) -> Database:
    """Open into `context`. `everywhere` makes it the context of every task of the process (a server has only one).

    `command_timeout_s` bounds each statement on PostgreSQL; SQLite has its busy timeout.
    """
    if url.path is not None:
        if create:
            _make_file(url.path)
        elif not url.path.exists():
            raise SetupError(f"there is no database at {url.path}; create it with: gateway migrate")
    # Tortoise keeps statements for the whole process, but the two kinds of database write placeholders differently.
    EXECUTOR_CACHE.clear()
    with context if everywhere else contextlib.nullcontext():
        config = tortoise_config(url, pool=pool, command_timeout_s=command_timeout_s)
        await context.init(config=config, _enable_global_fallback=everywhere)
    database = Database(url, context)
    if url.path is not None:
        # Tortoise opens the file at the first query, and waits for ever at the second one if that failed.
        try:
            await database.connection.create_connection(with_db=True)
        except (sqlite3.DatabaseError, OSError) as error:
            await database.close()
            raise SetupError(f"{url.path} cannot be opened as a SQLite database: {error}") from None
    return database


def _make_file(path: Path) -> None:
    """Where there is none yet, an empty one that only its owner reads; SQLite gives its mode to the log beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def postgres_options(url: DatabaseUrl) -> dict[str, Any]:
    """What asyncpg needs to connect, from the URL; `?sslmode=require` and the like are passed on."""
    parts = urlsplit(url.text)
    options: dict[str, Any] = {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or 5432,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.lstrip("/")),
    }
    for name, value in parse_qsl(parts.query):
        if name != "sslmode" or value not in SSL_MODES:
            raise SetupError(
                f"GATEWAY_DATABASE_URL: {name}={value} is not understood; only sslmode may follow the name, "
                f"one of {', '.join(SSL_MODES)}"
            )
        options["ssl"] = value
    return options


def tortoise_config(url: DatabaseUrl, *, pool: int = 10, command_timeout_s: float | None = None) -> dict[str, Any]:
    if url.path is not None:
        connection: dict[str, Any] = {
            "engine": "models.sqlite_engine",
            "credentials": {
                "file_path": str(url.path),
                "busy_timeout": BUSY_TIMEOUT_MS,
                "journal_mode": "WAL",
                "synchronous": "FULL",
            },
        }
    else:
        connection = {
            "engine": "tortoise.backends.asyncpg",
            "credentials": {
                **postgres_options(url),
                "minsize": 0,
                "maxsize": pool,
                "timeout": CONNECT_WITHIN_S,
                "command_timeout": command_timeout_s,
                # Idle connections are kept: the change feed and the heartbeat use them all the time.
                "max_inactive_connection_lifetime": 0,
            },
        }
    return {
        "connections": {"default": connection},
        "apps": {
            "models": {
                "models": ["models.records"],
                "default_connection": "default",
                "migrations": "models.migrations",
            }
        },
    }


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive `flock` on `path`. Raises BlockingIOError when another process holds it and `wait` is false."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
