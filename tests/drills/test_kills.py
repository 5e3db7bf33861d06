"""Faults 31: `kill -9`, again and again. What a client saw whole is charged once, nothing else is, and nothing stays held."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.crashes import PRICE, Client, Granter, check_books
from tests.rig import Rig, client, start_rig
from tests.stores import kind

pytestmark = pytest.mark.drill
# Two workers take longer to start, and the rounds prove the same.
ROUNDS = 20 if kind() == "sqlite" else 10
STREAMS = 100


@pytest.fixture
def own_rig(tmp_path: Path) -> Iterator[Rig]:
    with start_rig(tmp_path / "rig", GATEWAY_COOLDOWN_AFTER="1000000") as running:
        yield running


async def has_whole(user: Client, count: int) -> None:
    """Wait for so many whole answers."""
    async with asyncio.timeout(60):
        while len(user.whole) < count:
            await asyncio.sleep(0.002)


async def test_killed_again_and_again_with_a_hundred_streams_in_flight(own_rig: Rig) -> None:
    """Faults 31, while a notebook grants credits."""
    rig = own_rig
    upstreams = [f"sim:words=30,gap_ms=10,tag=kill-{i}" for i in range(ROUNDS)]
    aliases = [rig.alias(upstream, price=PRICE, settled=False) for upstream in upstreams]
    rig.settle_feed()
    user = Client(rig, rig.customer(credits="1000", models=aliases))
    chance = random.Random(31)
    interrupted = 0
    with Granter(rig, user.customer.email) as notebook:
        for upstream, alias in zip(upstreams, aliases, strict=True):
            before = len(user.whole)
            async with client() as session:
                streams = [asyncio.create_task(user.call(session, alias, stream=True)) for _ in range(STREAMS)]
                await rig.provider.wait(upstream, count=STREAMS, timeout=30)
                # From the first words of all to the last words of most, however quick this machine is.
                wanted = chance.choice([0, chance.randrange(1, STREAMS)])
                await asyncio.sleep(chance.uniform(0, 0.05))
                await has_whole(user, before + wanted)
                rig.kill()
                await asyncio.gather(*streams)
            interrupted += STREAMS - (len(user.whole) - before)
            await asyncio.to_thread(rig.start)
            # Where other machines could be serving, a lease runs out first; the books wait for that.
            assert rig.held_nano(user.customer) == 0 or rig.kind == "cluster"
            rig.reconcile()
    assert not user.refused
    assert interrupted > STREAMS, "the kills came too late to prove anything"
    assert len(user.whole) > STREAMS, "the kills came too early to prove anything"
    assert notebook.granted > ROUNDS
    charged = await check_books(rig, user, upstreams, granted=1000 + notebook.granted)
    print(f"{len(user.whole)} whole, {interrupted} interrupted, {len(charged)} charged, {notebook.granted} grants")  # noqa: T201


async def test_killed_at_any_moment_of_a_mixed_load(own_rig: Rig) -> None:
    """Faults 31: thirty clients that come back after every crash, JSON and streams, quick and slow, good and bad."""
    rig = own_rig
    upstreams = [
        "sim:words=3",
        "sim:words=12,gap_ms=5",
        "sim:words=20,cut=9",
        "sim:status=500",
        "sim:words=5,first_ms=30",
    ]
    aliases = [rig.alias(upstream, price=PRICE, settled=False) for upstream in upstreams]
    rig.settle_feed()
    user = Client(rig, rig.customer(credits="100000", models=aliases))
    chance = random.Random(131)
    stopping = asyncio.Event()

    async def come_back() -> None:
        while not stopping.is_set():
            async with client() as session:
                for _ in range(20):
                    await user.call(session, chance.choice(aliases), stream=chance.random() < 0.5)
            await asyncio.sleep(0.01)

    clients = [asyncio.create_task(come_back()) for _ in range(30)]
    with Granter(rig, user.customer.email) as notebook:
        for _ in range(ROUNDS):
            await has_whole(user, len(user.whole) + chance.randint(50, 150))
            rig.kill()
            await asyncio.to_thread(rig.start)
        stopping.set()
        await asyncio.gather(*clients)
    assert {status for status, _ in user.refused} <= {502}
    assert len(user.whole) >= 50 * ROUNDS
    charged = await check_books(rig, user, upstreams, granted=100_000 + notebook.granted)
    print(f"{len(user.whole)} whole, {len(charged)} charged, {notebook.granted} grants")  # noqa: T201
    rig.reconcile()
