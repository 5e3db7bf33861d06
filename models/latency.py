"""Owns how long requests took: percentiles, worked out by the database from the records. Sums are `spend.py`.

A percentile is the smallest value that so many per cent of the requests did not exceed (nearest rank), which is a whole
number of milliseconds that one of them really took, and the same on both databases. Days that are rolled up keep sums
only, so percentiles end where the records do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from models.checks import check_choice
from models.database import Database
from models.spend import GROUPS, NAMED, RECORD, group_names
from models.usage import EVERYTHING, UsageFilter, matching

PERCENTILES = (50, 90, 99)
METERS = ("first_byte_ms", "total_ms")


class Latency(msgspec.Struct, frozen=True):
    """One group, as in `Spend`. `first_byte_ms` and `total_ms` have a number for each of PERCENTILES."""

    by: dict[str, int | str]
    names: dict[str, str]
    requests: int
    first_byte_ms: tuple[int, ...]
    total_ms: tuple[int, ...]


async def latency_by(
    database: Database, by: Sequence[str], only: UsageFilter = EVERYTHING, *, account_id: int | None = None
) -> list[Latency]:
    """Of the requests that were served, by the groups of `spend_by` and in their order. Raises BadInput."""
    for name in by:
        check_choice(name, field="by", choices=GROUPS)
    test, values = matching(msgspec.structs.replace(only, outcome="served"), account_id)
    make = _on_postgres if database.dialect == "postgres" else _on_sqlite
    rows = await database.rows(make([GROUPS[name] for name in by], test), values)
    known = {name: await group_names(database, name) for name in by if name in NAMED}
    return [_latency(row, by, known) for row in rows]


def _on_postgres(groups: list[str], test: str) -> str:
    wanted = ", ".join(
        f"PERCENTILE_DISC(0.{percent}) WITHIN GROUP (ORDER BY u.{meter}) AS {meter}_{percent}"
        for meter in METERS
        for percent in PERCENTILES
    )
    chosen = "".join(f"{RECORD.get(group, f'u.{group}')} AS {group}, " for group in groups)
    tail = f" GROUP BY {_numbers(groups)} ORDER BY {_numbers(groups)}" if groups else " HAVING COUNT(*) > 0"
    return f"SELECT {chosen}COUNT(*) AS requests, {wanted} FROM usage u WHERE {test}{tail}"


def _on_sqlite(groups: list[str], test: str) -> str:
    """Each meter's rows are numbered within their group; the row with a percentile's number has it."""
    chosen = "".join(f"{RECORD.get(group, f'u.{group}')} AS {group}, " for group in groups)
    part = f"PARTITION BY {', '.join(groups)}" if groups else ""
    ranks = ", ".join(f"ROW_NUMBER() OVER ({part} ORDER BY {meter}) AS rank_{meter}" for meter in METERS)
    wanted = ", ".join(
        # The smallest whole number that is not below percent × n / 100.
        f"MAX(CASE WHEN rank_{meter} = (n * {percent} + 99) / 100 THEN {meter} END) AS {meter}_{percent}"
        for meter in METERS
        for percent in PERCENTILES
    )
    records = f"SELECT {chosen}{', '.join(f'u.{meter}' for meter in METERS)} FROM usage u WHERE {test}"
    ranked = f"SELECT *, COUNT(*) OVER ({part}) AS n, {ranks} FROM ({records}) records"
    tail = f" GROUP BY {_numbers(groups)} ORDER BY {_numbers(groups)}" if groups else " HAVING COUNT(*) > 0"
    head = "".join(f"{group}, " for group in groups)
    return f"SELECT {head}COUNT(*) AS requests, {wanted} FROM ({ranked}) ranked{tail}"


def _numbers(groups: list[str]) -> str:
    return ", ".join(str(n + 1) for n in range(len(groups)))


def _latency(row: dict[str, Any], by: Sequence[str], known: dict[str, dict[int, str]]) -> Latency:
    groups: dict[str, int | str] = {name: row[GROUPS[name]] for name in by}
    names = {name: known[name].get(int(groups[name]), "") for name in known}
    first, total = (tuple(int(row[f"{meter}_{percent}"]) for percent in PERCENTILES) for meter in METERS)
    return Latency(groups, names, row["requests"], first, total)
