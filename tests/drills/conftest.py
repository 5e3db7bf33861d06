"""Fixtures: the large databases, each made once for all drills that want it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from models.database import Database, open_database, parse_url
from models.schema import migrate
from tests.large import MONTHS, REQUESTS, fill
from tests.large_sqlite import copy_to_sqlite
from tests.servers import fresh_postgres

RECORDS_ON_SQLITE = 1_000_000


@pytest.fixture(scope="session")
def filled() -> Iterator[str]:
    """The URL of a database with a year of requests. Each test takes its part: files by name, tests in their order."""
    with filled_postgres(REQUESTS) as url:
        yield url


@pytest.fixture
async def large(filled: str) -> AsyncIterator[Database]:
    async with open_database(parse_url(filled)) as opened:
        yield opened


@pytest.fixture(scope="session")
def filled_sqlite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with a million records of a year, which nobody writes to: take a copy for that."""
    path = tmp_path_factory.mktemp("large") / "gateway.db"
    with contextlib.ExitStack() as opened:
        shared = REQUESTS == RECORDS_ON_SQLITE
        url = request.getfixturevalue("filled") if shared else opened.enter_context(filled_postgres(RECORDS_ON_SQLITE))
        started = time.monotonic()
        copy_to_sqlite(url, path)
        print(f"copied to SQLite in {time.monotonic() - started:.0f} s")  # noqa: T201
    return path


@contextlib.contextmanager
def filled_postgres(requests: int, *, months: int = MONTHS, until_us: int | None = None) -> Iterator[str]:
    """The URL of a database with so many requests, gone afterwards."""
    with fresh_postgres() as url:

        async def make() -> None:
            await migrate(parse_url(url))
            async with open_database(parse_url(url)) as database:
                await fill(database, requests, months=months, until_us=until_us)

        started = time.monotonic()
        asyncio.run(make())
        print(f"{requests:,} requests filled in {time.monotonic() - started:.0f} s")  # noqa: T201
        yield url
