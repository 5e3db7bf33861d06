"""Fixtures: a desk on a database of each kind, with a small business in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ops
from tests.databases import Templates
from tests.models.shop import stock_shop
from tests.rig import close_desks


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
