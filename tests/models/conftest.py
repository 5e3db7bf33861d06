"""Fixtures: a database of each kind, made by the migrations, and a small business in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from models.database import Database, DatabaseUrl, open_database, parse_url
from tests.databases import Templates
from tests.models.shop import Shop, open_shop, stock_shop
from tests.servers import fresh_postgres


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Templates]:
    made = Templates(tmp_path_factory.mktemp("templates"))
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty_url(dialect: str, tmp_path: Path) -> Iterator[DatabaseUrl]:
    """A database without tables; on SQLite there is not even a file."""
    if dialect == "sqlite":
        yield parse_url(f"sqlite://{tmp_path}/gateway.db")
    else:
        with fresh_postgres() as address:
            yield parse_url(address)


@pytest.fixture
def migrated_url(dialect: str, templates: Templates, tmp_path: Path) -> Iterator[DatabaseUrl]:
    with templates.copy(dialect, tmp_path) as address:
        yield parse_url(address)


@pytest.fixture
def shop_url(dialect: str, templates: Templates, tmp_path: Path) -> Iterator[DatabaseUrl]:
    with templates.copy(dialect, tmp_path, stock_shop) as address:
        yield parse_url(address)


@pytest.fixture
async def database(migrated_url: DatabaseUrl) -> AsyncIterator[Database]:
    async with open_database(migrated_url) as opened:
        yield opened


@pytest.fixture
async def shop(shop_url: DatabaseUrl) -> AsyncIterator[Shop]:
    """Ada with 1,000 credits and one key, and `small-chat` at 0.27, 0.07 and 1.10 USD per million tokens."""
    async with open_database(shop_url) as opened:
        yield await open_shop(opened)
