"""Owns what a watcher wants to know of the database, so often that it must cost next to nothing."""

from __future__ import annotations

from typing import NamedTuple

from models.database import Database
from models.partitions import missing_partitions


class Survey(NamedTuple):
    holds_open: int
    oldest_hold_us: int | None
    quarantined: int
    partitions_missing: int


async def survey(database: Database, now_us: int) -> Survey:
    """Holds of all servers, what waits in quarantine, and partitions that should be there by now. Reads indexes alone, or
    tables that are nearly empty."""
    holds = await database.rows("SELECT COUNT(*) AS n, MIN(at_us) AS oldest_us FROM hold WHERE status = 'open'")
    quarantined = await database.rows("SELECT COUNT(*) AS n FROM quarantine WHERE closed_us IS NULL")
    missing = await missing_partitions(database, now_us)
    return Survey(holds[0]["n"], holds[0]["oldest_us"], quarantined[0]["n"], len(missing))
