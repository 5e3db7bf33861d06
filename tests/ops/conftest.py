"""Fixtures: a desk on a database of each kind, with a small business in it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

import ops
from models.database import open_database, parse_url
from models.roles import make_operator_role
from tests.databases import Templates
from tests.models.shop import stock_shop
from tests.rig import close_desks
from tests.servers import execute_now


@pytest.fixture(autouse=True)
def no_other_desks() -> None:
    close_desks()


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Templates]:
    made = Templates(tmp_path_factory.mktemp("templates"))
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def address(dialect: str, templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a database in which Ada has 1,000 credits and a key for `small-chat`; nothing else is set."""
    for name in ("GATEWAY_DATABASE_URL", "OPS_OPERATOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATEWAY_SECRET_KEY", "secret")
    monkeypatch.chdir(tmp_path)
    with templates.copy(dialect, tmp_path, stock_shop) as url:
        yield url


@pytest.fixture
def desk(address: str) -> Iterator[ops.Desk]:
    with ops.connect(address, operator="olga") as opened:
        yield opened


@pytest.fixture
def limited_address(address: str) -> Iterator[str]:
    """The same database for a new role of operators; on SQLite, which has no roles, the same."""
    if address.startswith("sqlite"):
        yield address
        return
    name, password = f"operator_{secrets.token_hex(4)}", secrets.token_hex(8)

    async def make() -> None:
        async with open_database(parse_url(address), pool=1) as database:
            await make_operator_role(database, name)

    asyncio.run(make())
    execute_now(address, f"ALTER ROLE {name} PASSWORD '{password}'")
    head, _, tail = address.rpartition("@")
    try:
        yield f"{head.partition('://')[0]}://{name}:{password}@{tail}"
    finally:
        close_desks()
        execute_now(address, f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def limited_desk(limited_address: str) -> Iterator[ops.Desk]:
    with ops.connect(limited_address, operator="olga") as opened:
        yield opened
