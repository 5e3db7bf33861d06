"""Owns copying a large PostgreSQL database into a SQLite file, row by row, with nothing lost: its books hold there, too."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

from asyncpg.pgproto.pgproto import UUID

from models.database import parse_url
from models.schema import migrate
from models.usage import lowest_id
from tests.ops.writes import tables
from tests.stores import Sql

PIECE = 50_000
# By what the rows of a table too large for one piece are read on.
_LARGE = {"hold": "request_id", "transfer": "id", "usage": "request_id"}
# Days are added up anew: each database has its own record of how far it came.
_LEFT_OUT = {"usage_day", "usage_rollup"}
# SQLite converts what it is given faster than Python goes through millions of rows.
sqlite3.register_adapter(UUID, str)


def copy_to_sqlite(postgres: str, path: Path) -> None:
    """A migrated database at `path` with every row of the other."""
    asyncio.run(migrate(parse_url(f"sqlite://{path}")))
    with Sql(postgres) as source, sqlite3.connect(path) as target:
        # Whatever becomes of this file, it is made again.
        target.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -400000")
        for table in tables():
            if table in _LARGE:
                _copy_in_pieces(source, target, table, _LARGE[table])
            elif table not in _LEFT_OUT:
                _store(target, table, source.rows(f'SELECT * FROM "{table}"'))
        target.commit()
        target.executescript("ANALYZE; PRAGMA journal_mode = WAL")


def _copy_in_pieces(source: Sql, target: sqlite3.Connection, table: str, key: str) -> None:
    last: Any = 0 if key == "id" else lowest_id(0)
    place = [row[0] for row in target.execute(f"SELECT name FROM pragma_table_info('{table}')")].index(key)
    while rows := source.rows(f'SELECT * FROM "{table}" WHERE {key} > ? ORDER BY {key} LIMIT {PIECE}', last):
        last = rows[-1][place]
        _store(target, table, rows)


def _store(target: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        target.executemany(f'INSERT OR REPLACE INTO "{table}" VALUES ({marks})', rows)
