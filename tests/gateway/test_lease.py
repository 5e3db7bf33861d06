"""Whom a worker takes for dead, and when: after its own silence nobody, for the others were as silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.billing import Billing
from gateway.lease import Lease
from gateway.metrics import Metrics
from models.database import Database, open_database, parse_url
from models.epochs import open_epoch, renew_epoch
from models.postgres_ledger import PostgresLedger
from models.schema import migrate
from tests.servers import fresh_postgres


@pytest.fixture
def address() -> Iterator[str]:
    with fresh_postgres() as url:
        asyncio.run(migrate(parse_url(url)))
        yield url


@pytest.fixture
async def database(address: str) -> AsyncIterator[Database]:
    async with open_database(parse_url(address)) as opened:
        yield opened


async def age(database: Database, seconds: int) -> None:
    """As if nobody had been able to tell of himself for so long."""
    await database.rows("UPDATE epoch SET heartbeat_us = heartbeat_us - ? RETURNING id", [seconds * 1_000_000])


async def test_after_a_gap_in_its_own_heartbeats_everybody_gets_the_time_to_say_that_he_lives(
    database: Database,
) -> None:
    metrics = Metrics()
    ledger = PostgresLedger(database.url)
    billing = Billing(ledger, metrics)
    lease = await Lease.begin(database, "here", 1)
    other = await open_epoch(database, "there", 2)
    # Fifteen seconds of a reachable database have passed, and then everything stood still for seventeen.
    lease._reachable_since = time.monotonic() - 100
    lease._beat_us -= 17_000_000
    await age(database, 17)
    await lease.renew(billing)
    await lease.recover(billing, metrics)
    assert await renew_epoch(database, other.epoch_id) is not None, "it was taken for dead"
    # Whoever stays silent for the whole lease after that is dead.
    lease._reachable_since = time.monotonic() - 100
    await database.rows(
        "UPDATE epoch SET heartbeat_us = heartbeat_us - 17000000 WHERE id = ? RETURNING id", [other.epoch_id]
    )
    await lease.renew(billing)
    await lease.recover(billing, metrics)
    assert await renew_epoch(database, other.epoch_id) is None
    await ledger.close()


async def test_one_that_was_taken_for_dead_begins_anew(database: Database) -> None:
    ledger = PostgresLedger(database.url)
    billing = Billing(ledger, Metrics())
    lease = await Lease.begin(database, "here", 1)
    first = lease.life
    await database.rows("UPDATE epoch SET ended_us = 1 WHERE id = ? RETURNING id", [first.epoch_id])
    await lease.renew(billing)
    assert lease.life.epoch_id > first.epoch_id
    assert billing.epoch_id == lease.life.epoch_id
    await ledger.close()
