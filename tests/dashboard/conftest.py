"""Fixtures: a visitor at the shared rig, signed up or not, and a browser for the files that need one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.sync_api import Browser

from tests.dashboard.browsers import chromium
from tests.dashboard.visitor import Visitor, visiting
from tests.rig import Rig


@pytest.fixture
async def stranger(rig: Rig) -> AsyncIterator[Visitor]:
    """Somebody without an account."""
    async with visiting(rig) as visitor:
        yield visitor


@pytest.fixture
async def ada(rig: Rig) -> AsyncIterator[Visitor]:
    """Somebody who has just signed up."""
    async with visiting(rig) as visitor:
        page = await visitor.sign_up()
        assert (page.status, page.path) == (200, "/")
        yield visitor


@pytest.fixture
async def ben(rig: Rig) -> AsyncIterator[Visitor]:
    """Somebody else who has just signed up."""
    async with visiting(rig) as visitor:
        await visitor.sign_up()
        yield visitor


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser
