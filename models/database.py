"""Owns the way to a database: its URL, opening and closing it, transactions, and bringing its schema up to date."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext
from tortoise.exceptions import BaseORMException
from tortoise.migrations.executor import MigrationExecutor

from models.errors import SetupError
from models.protections import protect

DEFAULT_URL = "sqlite://var/gateway.db"
BUSY_TIMEOUT_MS = 5_000
# Any constant will do; it must only be the same in every version of this program.
MIGRATION_LOCK_ID = 7_205_759_401
CHANGE_LOCK_ID = 7_205_759_402


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


def parse_url(text: str) -> DatabaseUrl:
    """Raises SetupError naming the variable for anything but `sqlite://` and `postgres://`."""
    scheme = urlsplit(text).scheme
    if scheme in ("postgres", "postgresql"):
        try:
            _ = urlsplit(text).port
        except ValueError as error:
            raise SetupError(f"GATEWAY_DATABASE_URL: {error}") from None
        return DatabaseUrl("postgres" + text[len(scheme) :], "postgres", None)
    if scheme == "sqlite":
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

    async def close(self) -> None:
        await self.context.connections.close_all()


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


async def connect(
    url: DatabaseUrl, context: TortoiseContext, *, create: bool = False, pool: int = 10, everywhere: bool = False
) -> Database:
    """Open into `context`. `everywhere` makes it the context of every task of the process (a server has only one)."""
    if url.path is not None:
        if create:
            url.path.parent.mkdir(parents=True, exist_ok=True)
        elif not url.path.exists():
            raise SetupError(f"there is no database at {url.path}; create it with: gateway migrate")
    # Tortoise keeps statements for the whole process, but the two kinds of database write placeholders differently.
    EXECUTOR_CACHE.clear()
    with context if everywhere else contextlib.nullcontext():
        await context.init(config=tortoise_config(url, pool=pool), _enable_global_fallback=everywhere)
    database = Database(url, context)
    if url.path is not None:
        # Tortoise opens the file at the first query, and waits for ever at the second one if that failed.
        try:
            await database.connection.create_connection(with_db=True)
        except (sqlite3.DatabaseError, OSError) as error:
            await database.close()
            raise SetupError(f"{url.path} cannot be opened as a SQLite database: {error}") from None
    return database


def tortoise_config(url: DatabaseUrl, *, pool: int = 10) -> dict[str, Any]:
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
        parts = urlsplit(url.text)
        connection = {
            "engine": "tortoise.backends.asyncpg",
            "credentials": {
                "host": parts.hostname or "127.0.0.1",
                "port": parts.port or 5432,
                "user": unquote(parts.username or ""),
                "password": unquote(parts.password or ""),
                "database": parts.path.lstrip("/"),
                "minsize": 1,
                "maxsize": pool,
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


# ── schema ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def migrate(url: DatabaseUrl) -> list[str]:
    """Bring the schema up to date and return the names of the migrations applied now. Safe to run twice and at once."""
    async with _one_at_a_time(url), open_database(url, create=True) as database:
        executor = _executor(database)
        names = [step.migration.name for step in await executor.plan()]
        await executor.migrate()
        await protect(database.connection)
        return names


async def pending_migrations(database: Database) -> list[str]:
    """Names of the migrations that the database still needs. Reads only."""
    try:
        # The plan takes a database that cannot be reached for an empty one.
        await database.rows("SELECT 1")
        return [step.migration.name for step in await _executor(database).plan()]
    except (BaseORMException, OSError) as error:
        raise SetupError(f"GATEWAY_DATABASE_URL: cannot read the database {database.url.shown}: {error}") from error


def _executor(database: Database) -> MigrationExecutor:
    return MigrationExecutor(database.connection, tortoise_config(database.url)["apps"])


@contextlib.asynccontextmanager
async def _one_at_a_time(url: DatabaseUrl) -> AsyncIterator[None]:
    if url.path is not None:
        url.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(url.path.with_name(url.path.name + ".migrate.lock"), wait=True):
            yield
        return
    # On a connection of its own: the migrations' first read may fail, and would abort a transaction that they share.
    async with open_database(url, pool=1) as keeper, keeper.transaction() as transaction:
        await transaction.execute_query(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK_ID})")
        yield


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive `flock` on `path`. Raises BlockingIOError when another process holds it and `wait` is false."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
