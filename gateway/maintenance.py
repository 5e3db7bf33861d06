"""Owns what the commands for a database's keeper do once it is open: look into it, sum, drop, settle, give rights.

Each opens the database for itself and closes it; a schema of another version than this code's is refused first.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from models.database import Database, DatabaseUrl, open_database
from models.day_repair import sum_again
from models.environment import operator_name
from models.ids import to_datetime
from models.invariants import Finding, check_invariants
from models.price_list import database_now_us
from models.prices import credits_text
from models.quarantine import close_quarantined, quarantine_rows, retry_quarantined
from models.retention import Piece, drop_usage, plan_drop
from models.roles import make_operator_role
from models.schema import check_schema


async def find(url: DatabaseUrl) -> list[Finding]:
    """What is found of each money invariant."""
    async with _checked(url) as database:
        return await check_invariants(database)


async def sum_days_again(url: DatabaseUrl) -> list[str]:
    """Sum the days of usage that are not the sums of their records; which those were, like 2026-01-31."""
    async with _checked(url, pool=2) as database:
        return [f"{to_datetime(day_us):%Y-%m-%d}" for day_us in await sum_again(database, operator_name())]


async def drop(url: DatabaseUrl, before: str, reason: str, yes: bool, told: Callable[[Piece], None]) -> list[Piece]:
    """Drop the usage records from before a month, like 2026-01, or only plan to; `told` hears of each piece at once."""
    async with _checked(url, pool=2) as database:
        now_us = await database_now_us(database)
        if yes:
            return await drop_usage(database, operator_name(), before, reason, now_us, told=told)
        pieces = await plan_drop(database, before, now_us)
        for piece in pieces:
            told(piece)
        return pieces


async def quarantine_lines(url: DatabaseUrl, retry: int | None, close: int | None, reason: str) -> list[str]:
    """Settle or close one settlement in quarantine and say so; without either the whole list."""
    async with _checked(url) as database:
        if close is not None:
            await close_quarantined(database, operator_name(), close, reason=reason)
            return [f"{close} is closed"]
        if retry is not None:
            settled = await retry_quarantined(database, operator_name(), retry, reason=reason)
            if settled is None:
                return [f"{retry} had left quarantine before"]
            charged, lost = credits_text(settled.charged_nano), credits_text(settled.writeoff_nano)
            return [f"{retry} is settled: {charged} credits charged, {lost} written off"]
        rows = await quarantine_rows(database)
        lines = [
            f"{row['id']}  {to_datetime(row['at_us']):%Y-%m-%d %H:%M:%S}Z  {row['error']}\n    {row['command']}"
            for row in rows
        ]
        return lines or ["nothing is in quarantine"]


async def make_role(url: DatabaseUrl, name: str) -> None:
    """Give a PostgreSQL role the rights of an operator, and no more."""
    async with _checked(url) as database:
        await make_operator_role(database, name)


@contextlib.asynccontextmanager
async def _checked(url: DatabaseUrl, pool: int = 1) -> AsyncIterator[Database]:
    async with open_database(url, pool=pool) as database:
        await check_schema(database)
        yield database
