"""Fixtures: the large database, which is filled once for all drills that want one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from models.database import Database, open_database, parse_url
from models.schema import migrate
from tests.large import MONTHS, REQUESTS, fill
from tests.servers import fresh_postgres


@pytest.fixture(scope="session")
def filled() -> Iterator[str]:
    """The URL of a database with a year of requests. Each test takes its part: files by name, tests in their order."""
    with fresh_postgres() as url:

        async def make() -> None:
            await migrate(parse_url(url))
            async with open_database(parse_url(url)) as database:
                await fill(database, REQUESTS, months=MONTHS)

        started = time.monotonic()
        asyncio.run(make())
        print(f"{REQUESTS:,} requests filled in {time.monotonic() - started:.0f} s")  # noqa: T201
        yield url


@pytest.fixture
async def large(filled: str) -> AsyncIterator[Database]:
    async with open_database(parse_url(filled)) as opened:
        yield opened
