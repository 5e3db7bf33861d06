"""Faults 24 and 36 at length: PostgreSQL away for half a minute under load, and a worker that sleeps through its own death."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from gateway.workers import HUNG_AFTER_S
from tests.faults.books import logged, metric
from tests.faults.crashes import EXPIRED_WITHIN_S, PRICE, Client, check_books
from tests.faults.outages import start_outage
from tests.rig import client, start_rig
from tests.stores import WORKERS

pytestmark = [pytest.mark.drill, pytest.mark.only("cluster")]
AWAY_S = 30
CLIENTS = 24


async def test_postgresql_is_away_for_half_a_minute_under_load(tmp_path: Path) -> None:
    """Faults 36: refusals come within a second, running answers finish, each charge arrives once, nobody lends a hand."""
    with start_outage(tmp_path, GATEWAY_COOLDOWN_AFTER="1000000") as outage:
        rig = outage.rig
        upstreams = [
            "sim:words=3",
            "sim:words=40,gap_ms=100",
            "sim:words=20,first_ms=500,gap_ms=20",
            "sim:words=6,cut=3",
        ]
        aliases = [rig.alias(upstream, price=PRICE, settled=False) for upstream in upstreams]
        rig.settle_feed()
        user = Client(rig, rig.customer(credits="100000", models=aliases))
        chance, stopping = random.Random(36), asyncio.Event()

        async def come_back() -> None:
            async with client() as session:
                while not stopping.is_set():
                    before = len(user.refused)
                    await user.call(session, chance.choice(aliases), stream=chance.random() < 0.6)
                    if len(user.refused) > before:
                        await asyncio.sleep(0.2)

        clients = [asyncio.create_task(come_back()) for _ in range(CLIENTS)]
        await asyncio.sleep(5)
        began = time.monotonic()
        with outage.of("crashed"):
            # Within a second nobody is admitted any more; from then on the providers are left alone.
            await asyncio.sleep(2)
            called = [len(await rig.provider.calls(upstream)) for upstream in upstreams]
            refused = len(user.refused)
            await asyncio.sleep(AWAY_S - (time.monotonic() - began))
            assert [len(await rig.provider.calls(upstream)) for upstream in upstreams] == called
            assert len(user.refused) > refused
        whole = len(user.whole)
        await outage.over()
        await asyncio.sleep(5)
        stopping.set()
        await asyncio.gather(*clients)
        assert len(user.whole) > whole, "it serves again"
        assert await metric(rig, "gateway_replayed_settlements_total") > 0
        assert await metric(rig, "gateway_quarantined_total") == 0
        assert {status for status, _ in user.refused} <= {502, 503}
        slowest = max(took for status, took in user.refused if status == 503)
        assert slowest <= 1.0
        await rig.settled(user.customer, within_s=EXPIRED_WITHIN_S)
        charged = await check_books(rig, user, upstreams, granted=100_000)
        print(f"{len(user.whole)} whole, {len(charged)} charged, 503 after at most {slowest:.2f} s")  # noqa: T201
        rig.reconcile()


async def test_a_worker_that_was_taken_for_dead_wakes_up_and_settles_late(tmp_path: Path) -> None:
    """Faults 31: frozen for longer than its lease, on another machine; what it served is charged, once, when it is back."""
    with start_rig(tmp_path) as rig, rig.second_server(GATEWAY_WORKERS="1") as (sleeper, workers):
        upstream = "sim:words=4,gate,tag=asleep"
        alias = rig.alias(upstream, price=PRICE)
        user = Client(rig, rig.customer(models=[alias]))
        there, url = user.customer, rig.url
        async with client() as session:
            rig.url = sleeper.url
            asked = [asyncio.create_task(user.call(session, alias, stream=i % 2 == 0)) for i in range(30)]
            await rig.provider.wait(upstream, count=30)
            rig.url = url
            (pid,) = workers.pids
            workers.freeze(pid)
            await rig.provider.release(upstream)
            async with asyncio.timeout(EXPIRED_WITHIN_S):
                while rig.held_nano(there):
                    await asyncio.sleep(0.2)
            statuses = Counter(row[0] for row in rig.sql("SELECT status FROM hold"))
            assert statuses == {"expired": 30}
            assert rig.spent_nano(there) == 0
            workers.thaw(pid)
            await asyncio.gather(*asked)
        assert len(user.whole) == 30
        await rig.recorded(there, 30)
        await check_books(rig, user, [upstream], granted=1000)
        assert Counter(row[0] for row in rig.sql("SELECT status FROM hold")) == {"captured": 30}
        # It begins a new life, and admits again.
        async with client() as session:
            rig.url = sleeper.url
            before = len(user.whole)
            async with asyncio.timeout(10):
                while len(user.whole) == before:
                    asking = asyncio.create_task(user.call(session, alias, stream=False))
                    await asyncio.sleep(0.3)
                    await rig.provider.release(upstream)
                    await asking
            rig.url = url
        await rig.settled(there)
        rig.reconcile()


async def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    """Frozen, or caught in a loop, it would keep every connection that it has accepted; nobody has to notice that."""
    with start_rig(tmp_path) as rig:
        alias = rig.alias("sim:words=1", price=PRICE)
        ada = rig.customer(models=[alias])
        hung = rig.workers.pids[0]
        rig.workers.freeze(hung)
        async with asyncio.timeout(HUNG_AFTER_S + 20):
            while hung in rig.workers.pids or len(rig.workers.pids) < WORKERS:
                await asyncio.sleep(0.1)
        assert {answer.status for answer in await rig.everywhere(ada, alias)} == {200}
        await logged(rig, "a worker died, another takes its place")
        rig.reconcile()
