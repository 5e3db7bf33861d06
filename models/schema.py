"""Owns whether a database is of this program's version: what it still needs, what a newer version has done to it."""

from __future__ import annotations

from tortoise.exceptions import BaseORMException
from tortoise.migrations.executor import MigrationExecutor

from models.database import Database, tortoise_config
from models.errors import SetupError


def executor(database: Database) -> MigrationExecutor:
    return MigrationExecutor(database.connection, tortoise_config(database.url)["apps"])


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
        raise SetupError(f"GATEWAY_DATABASE_URL: cannot read the database {database.url.shown}: {error}") from error


async def _unknown_migrations(database: Database) -> list[str]:
    steps = executor(database)
    steps.loader.load_disk()
    known = {key.name for key in steps.loader.disk_migrations}
    return [key.name for key in await steps.recorder.applied_migrations() if key.name not in known]
