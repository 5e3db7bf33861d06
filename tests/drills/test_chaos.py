"""Faults 24 to 39 all together: anything breaks at any moment under load, and afterwards the books are right.

`make chaos` breaks five hundred things (CHAOS_FAULTS), `make drills` some dozens. The seed is printed; CHAOS_SEED repeats
the order of the faults, though never the moments.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.drills.chaos import Town, open_town
from tests.faults.crashes import PRICE, Client, check_books
from tests.rig import client

pytestmark = [pytest.mark.drill, pytest.mark.only("cluster")]
FAULTS = int(os.environ.get("CHAOS_FAULTS", "60"))
CLIENTS = 24
GRANTED = 1_000_000
# What takes so long ends by itself: the database's own bounds, the lease of a dead worker, a settlement that is late.
_HEALED_WITHIN_S = 60


@pytest.mark.timeout(60 + FAULTS * 10)
async def test_whatever_breaks_nothing_is_lost_doubled_or_left_held(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
    print(f"CHAOS_SEED={seed} CHAOS_FAULTS={FAULTS}", flush=True)  # noqa: T201
    async with open_town(tmp_path / "town", random.Random(seed)) as town:
        upstreams = [
            "sim:words=3",
            "sim:words=12,gap_ms=20",
            "sim:words=20,cut=9",
            "sim:status=500",
            "sim:words=5,first_ms=60",
        ]
        aliases = [town.rig.alias(upstream, price=PRICE, settled=False) for upstream in upstreams]
        aliases += [far_alias(town, number, upstream) for number, upstream in enumerate(upstreams)]
        user = Client(town.rig, town.rig.customer(credits=str(GRANTED), models=aliases))
        for subject in ({"key": user.customer.key_id}, {"account": user.customer.email}):
            town.rig.desk.limits.set(**subject, unit="concurrent", quota=1000)
            town.rig.desk.limits.set(**subject, unit="requests", quota=10**7, window_s=60)
        town.rig.close_desk()
        town.open()
        stopping = asyncio.Event()
        clients = [asyncio.create_task(come_back(town, user, aliases, stopping)) for _ in range(CLIENTS)]
        happened = await break_things(town, FAULTS)
        town.lift()
        await healed(town, user, aliases)
        whole = len(user.whole)
        stopping.set()
        await asyncio.gather(*clients)
        assert len(user.whole) >= whole > FAULTS, "it served between the faults"
        statuses = Counter(status for status, _ in user.refused)
        assert set(statuses) <= {502, 503}, statuses
        charged = await check_books(town.rig, user, upstreams, granted=GRANTED)
        town.rig.reconcile()
        print(  # noqa: T201
            f"{sum(happened.values())} faults: {dict(sorted(happened.items()))}\n{len(user.whole)} answers seen whole,"
            f" {len(charged)} charged, refused {dict(statuses)}; lost 0, doubled 0, left held 0; seed {seed}"
        )


def far_alias(town: Town, number: int, upstream: str) -> str:
    """The same model, behind the provider's door."""
    name, catalog = f"far-{number}", town.rig.desk.catalog
    catalog.add_model(name, context_tokens=64_000, max_output_tokens=8_192, published=True)
    catalog.add_route(name, provider="far", upstream_model=upstream)
    catalog.propose_price(name, input_usd=PRICE.input, output_usd=PRICE.output).publish(reason="test")
    return name


async def come_back(town: Town, user: Client, aliases: list[str], stopping: asyncio.Event) -> None:
    """A customer's program: it asks again and again, now here, now there, and waits a moment when it is refused."""
    while not stopping.is_set():
        async with client() as session:
            for _ in range(10):
                before = len(user.whole)
                url = town.chance.choice(town.machines).url
                await user.call(session, town.chance.choice(aliases), stream=town.chance.random() < 0.5, url=url)
                if len(user.whole) == before:
                    await asyncio.sleep(0.05)


async def break_things(town: Town, count: int) -> Counter[str]:
    """Now one thing, now two at once of different parts; quiet moments between, so that there is something to break."""
    chance, faults = town.chance, town.faults
    happened: Counter[str] = Counter()
    while (left := count - sum(happened.values())) > 0:
        parts = chance.sample(sorted(faults), min(left, 2 if chance.random() < 0.5 else 1))
        running = []
        for part in parts:
            name, fault = chance.choice(faults[part])
            happened[f"{part} {name}"] += 1
            running.append(fault(chance.choice([0.05, 0.2, 0.5, 1.0, 3.0])))
        await asyncio.gather(*running)
        await asyncio.sleep(chance.uniform(0.1, 0.5))
    return happened


async def healed(town: Town, user: Client, aliases: list[str]) -> None:
    """Each machine answers a paid request again, without a human hand."""
    deadline = time.monotonic() + _HEALED_WITHIN_S
    async with client() as session:
        for machine in town.machines:
            while True:
                before = set(user.whole)
                await user.call(session, aliases[0], stream=False, url=machine.url)
                if set(user.whole) - before:
                    break
                assert time.monotonic() < deadline, f"{machine.name} does not serve again"
                await asyncio.sleep(0.1)
