"""Owns adding up months that were exported to Parquet, without the database: another engine reads the files, chosen by URL.

    ops.archive_sums("exports/2026-*.parquet", "account", "model")
    ops.archive_sums("exports/2026-11.parquet", "day", kind="charge")
    ops.archive_sums("s3a://billing/2026-*.parquet", "account", engine="spark://cluster:7077")

Which engine, and in which words? Tried on 10 million lines (one file of 422 MB in this module's format), two busy cores; the
grouping is by account and model into 3,000 rows, the best of three runs:

    DuckDB 2.0 over Parquet    hand-written SQL 0.5 s      Ibis 12 0.4 s     (memory in all 95 MiB, with Ibis 216 MiB)
    PostgreSQL 15, `usage`     hand-written SQL 4.1 s      Ibis 12 3.5 s
    SQLite, 1 million records  hand-written SQL 2.1 s      Ibis 12 2.4 s
    Spark 4.3 over Parquet     hand-written SQL 32 s      Ibis 12 the like   (`spark://local[2]`, first 100 s; busier cores)

Ibis writes the SQL that one would write, plus a sub-query that costs nothing; the engines take the same time. It was not taken:

- It opens connections of its own (psycopg beside our asyncpg, and none of our transactions), so a report and the ledger's sums
  that it is checked against would be of two moments. `open_snapshot` is what makes them one.
- It declares a sum of 64-bit integers as one. PostgreSQL's `numeric` and DuckDB's `hugeint` sums, which cannot overflow, come
  back narrowed.
- Half of our queries are about reading little: bounds that prune partitions, partial indexes, look-ups by index among millions
  (`charge_sums.py`). Expressions hide just that, and a reader would have to print the SQL to judge it.
- 0.6 s for each import, 40 MB and three packages, for group-bys of one page in all (`spend.py`, `charge_sums.py`, this file).

What it would buy is the same question on another engine by its URL. For these files that is one query in SQL which DuckDB and
Spark both read, but for one function's name (`archive_engines.py`). On Spark Ibis gave the same rows in the same time, with
eight packages more, and it asks for a Spark older than the one that was tried.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from models.checks import check_choice
from models.errors import BadInput
from ops.archive_engines import Engine, open_engine
from ops.frames import EXACT, MOMENT, frame
from ops.month_files import COLUMNS
from ops.table_files import decimal_credits

# What can be grouped by: the name → (its expression, its kind in the frame).
GROUPS = {
    "account": ("account", "str"),
    "model": ("model", "str"),
    "key": ("key", "str"),
    "kind": ("kind", "str"),
    "price_version": ("price_version", "Int64"),
    "day": ("{us} - {us} % 86400000000", MOMENT),
    "hour": ("{us} - {us} % 3600000000", MOMENT),
}
_SUMS = {
    "lines": "Int64", "tokens": "Int64", "amount_nano": "Int64", "amount_credits": EXACT, "writeoff_nano": "Int64",
}  # fmt: skip


def archive_sums(files: str | Path, *by: str, kind: str | None = "charge", engine: str = "duckdb://") -> pd.DataFrame:
    """Exact sums over the lines of exported Parquet files; `files` may have wildcards. A row a group, in the groups' order.

    `by`: any of account, model, key, kind, price_version, day, hour (of the transfer, UTC). `kind` chooses lines of one kind,
    None takes all. `amount_nano` is signed as in the export: charges are below zero. `engine`: `duckdb://`, or a Spark
    (`spark://local`, see `archive_engines.py`). Raises BadInput for files that are no exports.
    """
    for name in by:
        check_choice(name, field="by", choices=GROUPS)
    # An address is for the engine to look into; its machines may see what this one does not.
    paths = [str(files)] if "://" in str(files) else sorted(glob.glob(str(files), recursive=True))
    if not paths:
        raise BadInput(f"files: there is no file {files}", field="files")
    with open_engine(engine) as opened:
        try:
            _check_columns(opened, paths)
            rows = opened.rows(paths, _query(by, opened.micros, kind), [] if kind is None else [kind])
        except opened.refusals as error:
            raise BadInput(f"files: {files} cannot be read as exported Parquet: {error}", field="files") from None
    found = []
    for row in rows:
        lines, tokens, amount_nano, writeoff_nano = map(int, row[len(by) :])
        exact = (lines, tokens, amount_nano, decimal_credits(amount_nano), writeoff_nano)
        found.append(dict(zip([*by, *_SUMS], [*row[: len(by)], *exact], strict=True)))
    return frame(found, {name: GROUPS[name][1] for name in by} | _SUMS)


def _query(by: Sequence[str], micros: str, kind: str | None) -> str:
    """In words that every engine has: sums are wide decimals, which cannot overflow."""
    names = [f"{GROUPS[name][0].format(us=f'{micros}(lines.at)')} AS by_{name}" for name in by]
    tokens = "fresh_tokens + cached_tokens + cache_write_tokens + output_tokens"
    sums = [f"SUM(CAST({what} AS DECIMAL(38, 0)))" for what in (tokens, "amount_nano", "writeoff_nano")]
    places = ", ".join(str(place) for place in range(1, len(by) + 1))
    return (
        f"SELECT {', '.join([*names, 'COUNT(*)', *(f'COALESCE({each}, 0)' for each in sums)])} FROM lines"
        f"{'' if kind is None else ' WHERE kind = ?'}{f' GROUP BY {places} ORDER BY {places}' if by else ''}"
    )


def _check_columns(engine: Engine, paths: list[str]) -> None:
    for path in paths:
        missing = {column.name for column in COLUMNS} - engine.columns(path)
        if missing:
            raise BadInput(f"files: {path} is not a month's export: it has no column {min(missing)}", field="files")
