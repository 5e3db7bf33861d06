"""Owns the version of a database: bringing it up to date, what it still needs, what a newer version has done to it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from tortoise.exceptions import BaseORMException
from tortoise.migrations.executor import MigrationExecutor

from models.database import (
    MIGRATION_LOCK_ID,
    Database,
    DatabaseUrl,
    file_lock,
    open_database,
    tortoise_config,
    why_unusable,
)
from models.errors import SetupError
from models.ids import now_us
from models.partitions import make_partitions
from models.protections import protect


def executor(database: Database) -> MigrationExecutor:
    return MigrationExecutor(database.connection, tortoise_config(database.url)["apps"])


async def migrate(url: DatabaseUrl) -> list[str]:
    """Bring the schema up to date and return the names of the migrations applied now. Safe to run twice and at once.

    Raises SetupError when a newer version has migrated it; nothing is changed then.
    """
    async with _one_at_a_time(url), open_database(url, create=True) as database:
        await check_not_newer(database)
        steps = executor(database)
        names = [step.migration.name for step in await steps.plan()]
        await steps.migrate()
        await protect(database.connection)
        await make_partitions(database, now_us())
        return names


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


async def check_schema(database: Database, *, newer: bool = False) -> None:
    """Raises SetupError, with the remedy, unless the schema is this version's; or a later one, if `newer` is good enough."""
    missing = await pending_migrations(database)
    if missing:
        raise SetupError(f"the database {database.url.shown} needs {', '.join(missing)}; run: gateway migrate")
    if not newer:
        await check_not_newer(database)


async def check_not_newer(database: Database, *, name: str = "") -> None:
    """Raises SetupError when a newer version has migrated the database. One that was never migrated is not newer.

    `name` is what it is called where it is no database in use.
    """
    unknown = await _unknown_migrations(database)
    if unknown:
        raise SetupError(
            f"{name or f'the database {database.url.shown}'} was migrated by a newer version: this one does not know "
            f"{', '.join(unknown)}; install that version, or restore a back-up that this one made"
        )


async def pending_migrations(database: Database) -> list[str]:
    """Names of the migrations that the database still needs. Reads only."""
    try:
        # The plan takes a database that cannot be reached for an empty one.
        await database.rows("SELECT 1")
        return [step.migration.name for step in await executor(database).plan()]
    except (BaseORMException, OSError) as error:
        why = why_unusable(database.url, error)
        raise SetupError(f"GATEWAY_DATABASE_URL: cannot read the database {database.url.shown}: {why}") from error


async def _unknown_migrations(database: Database) -> list[str]:
    steps = executor(database)
    steps.loader.load_disk()
    known = {key.name for key in steps.loader.disk_migrations}
    return [key.name for key in await steps.recorder.applied_migrations() if key.name not in known]
