"""The servers that tests hurt: they come up, die, freeze and come back with what was committed."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tests.own_servers import own_postgres
from tests.servers import execute


async def ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_a_postgres_of_our_own_crashes_freezes_and_comes_back() -> None:
    with own_postgres(max_connections=5) as server:
        await execute(server.url, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
        server.stop()
        assert server.processes == []
        with pytest.raises(ConnectionRefusedError):
            await ask(server.url, "SELECT 1")
        server.start()
        assert await ask(server.url, "SELECT n FROM kept") == 7

        connection = await asyncpg.connect(server.url)
        server.freeze()
        asking = asyncio.create_task(connection.fetchval("SELECT n FROM kept"))
        done, _ = await asyncio.wait([asking], timeout=0.2)
        assert not done
        server.thaw()
        assert await asking == 7

        others = [await asyncpg.connect(server.url) for _ in range(4)]
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await ask(server.url, "SELECT 1")
        for each in [connection, *others]:
            await each.close()
