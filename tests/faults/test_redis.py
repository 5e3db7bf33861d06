"""Faults 26, 38, 39 and 44 with Redis: limits are exact over all workers, and without it never a hang, never unlimited."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.proxy import Proxy
from tests.rig import Answer, Customer, Price, Rig, start_rig
from tests.servers import OwnRedis, own_redis

pytestmark = pytest.mark.only("cluster")
HOUR_S = 3600


@dataclass(frozen=True)
class Limited:
    """A rig, its own Redis, and the door through which the gateway goes to it."""

    rig: Rig
    redis: OwnRedis
    door: Proxy

    def customer(self, upstream: str, unit: str, quota: int) -> tuple[Customer, str]:
        alias = self.rig.alias(upstream, settled=False)
        ada = self.rig.customer(models=[alias])
        window = {} if unit == "concurrent" else {"window_s": HOUR_S}
        self.rig.desk.limits.set(key=ada.key_id, unit=unit, quota=quota, **window)
        self.rig.settle_feed()
        return ada, alias

    def ways(self, kind: str) -> tuple[Callable[[], None], Callable[[], None]]:
        return {
            "frozen": (self.redis.freeze, self.redis.thaw),
            "killed": (self.redis.close, self.redis.start),
            "cut off": (self.door.cut, self.door.pass_on),
            "unreachable": (self.door.freeze, self.door.pass_on),
            "speechless": (self.door.freeze_answers, self.door.pass_on),
        }[kind]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    with (
        own_redis() as redis,
        Proxy(redis.url) as door,
        start_rig(tmp_path_factory.mktemp("limited"), redis_url=door.url) as rig,
    ):
        yield Limited(rig, redis, door)
        rig.reconcile()


async def everywhere(rig: Rig, ada: Customer, alias: str, each: int) -> list[tuple[Answer, float]]:
    """So many calls at each worker, one after the other at each, and how long they took."""

    async def ask_on(worker: int) -> list[tuple[Answer, float]]:
        found = []
        for _ in range(each):
            began = time.monotonic()
            found.append((await rig.at(worker, ada, alias), time.monotonic() - began))
        return found

    return [pair for pairs in await asyncio.gather(*map(ask_on, rig.workers.pids)) for pair in pairs]


def statuses(answered: list[tuple[Answer, float]]) -> Counter[int]:
    return Counter(answer.status for answer, _ in answered)


async def until_shared_again(rig: Rig) -> None:
    """Wait until every worker says at /readyz that its limits are those of all."""
    ready = [b'"shared"'] * len(rig.workers.pids)
    async with asyncio.timeout(10):
        while [pid for pid in rig.workers.pids if ready[0] not in rig.workers.ask(pid, "GET", "/readyz")[2]]:
            await asyncio.sleep(0.05)


# ── it is away ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["frozen", "killed", "cut off", "unreachable", "speechless"])
async def test_without_redis_nobody_waits_and_each_worker_admits_its_share(limited: Limited, kind: str) -> None:
    """Faults 38 and 39: 50 ms at most, once, then a local share; and it is asked again until it answers."""
    rig = limited.rig
    ada, alias = limited.customer(f"sim:words=1,tag={kind.replace(' ', '-')}", "requests", 1_000_000)
    bob, narrow = limited.customer(f"sim:words=1,tag=narrow-{kind.replace(' ', '-')}", "requests", 40)
    usual = sorted(took for _, took in await everywhere(rig, ada, alias, 100))
    begin, end = limited.ways(kind)
    begin()
    try:
        away = await everywhere(rig, ada, alias, 100)
        share = statuses(await everywhere(rig, bob, narrow, 60))
    finally:
        end()
    assert statuses(away) == {200: 200}
    slow = sorted(took for _, took in away)
    assert slow[197] - usual[197] <= 0.1, "the ninety-ninth percentile"
    assert slow[-1] < 1
    # Two workers, forty for both of them.
    assert set(share) == {200, 429}
    assert 20 <= share[200] <= 40
    await until_shared_again(rig)
    eve, exact = limited.customer(f"sim:words=1,tag=again-{kind.replace(' ', '-')}", "requests", 10)
    assert statuses(await everywhere(rig, eve, exact, 20)) == {200: 10, 429: 30}


async def test_a_flush_under_load_changes_no_balance_and_refuses_nobody(limited: Limited) -> None:
    """Faults 26: there is no money in Redis. Limits begin anew, and that is all."""
    rig = limited.rig
    upstream = "sim:words=2,tag=flush"
    ada, alias = limited.customer(upstream, "requests", 1_000_000)
    flushed = asyncio.Event()

    async def flush() -> None:
        with limited.redis.client() as client:
            for _ in range(20):
                await asyncio.to_thread(client.flushall)
                await asyncio.sleep(0.05)
        flushed.set()

    answered: list[tuple[Answer, float]] = []
    flushing = asyncio.create_task(flush())
    while not flushed.is_set():
        answered += await everywhere(rig, ada, alias, 10)
    await flushing
    assert statuses(answered) == {200: len(answered)}
    await rig.settled(ada, records=len(answered))
    usage = (await rig.provider.calls(upstream))[0]["usage"]
    assert rig.spent_nano(ada) == len(answered) * Price().charge_nano(usage["prompt"], usage["completion"])
    rig.reconcile()


# ── it is there ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with start_rig(tmp_path_factory.mktemp("three"), GATEWAY_WORKERS="3") as running:
        yield running
        running.reconcile()


async def test_three_workers_share_one_limit_exactly(three: Rig) -> None:
    """Faults 44: neither three times the limit nor a third of it."""
    assert len(three.workers.pids) == 3
    upstream = "sim:words=1,tag=three"
    alias = three.alias(upstream)
    ada = three.customer(models=[alias])
    three.desk.limits.set(key=ada.key_id, unit="requests", quota=90, window_s=HOUR_S)
    three.settle_feed()
    answered = await everywhere(three, ada, alias, 60)
    assert statuses(answered)[200] in (90, 91), "a little is back after a while"
    assert statuses(answered)[429] == 180 - statuses(answered)[200]
    assert len(await three.provider.calls(upstream)) == statuses(answered)[200]
    await three.settled(ada, records=statuses(answered)[200])


async def test_three_workers_have_as_many_running_at_once_as_one(three: Rig) -> None:
    """Faults 44."""
    upstream = "sim:words=2,gate,tag=places"
    alias = three.alias(upstream)
    ada = three.customer(models=[alias])
    three.desk.limits.set(key=ada.key_id, unit="concurrent", quota=30)
    three.settle_feed()
    for _ in range(2):
        running = [asyncio.create_task(three.chat(ada, alias, stream=i % 2 == 0)) for i in range(150)]
        await three.provider.wait(upstream, count=30, state="open")
        async with asyncio.timeout(20):
            while sum(call.done() for call in running) < 120:
                await asyncio.sleep(0.02)
        assert {call.result().status for call in running if call.done()} == {429}
        await three.provider.release(upstream)
        assert Counter(answer.status for answer in await asyncio.gather(*running)) == {200: 30, 429: 120}
        await three.settled(ada)


async def test_a_killed_worker_gives_its_places_back(three: Rig) -> None:
    """Faults 44: its lease runs out, and until then its places count as taken."""
    upstream = "sim:words=2,gate,tag=lease"
    alias = three.alias(upstream)
    ada = three.customer(models=[alias])
    three.desk.limits.set(key=ada.key_id, unit="concurrent", quota=1)
    three.settle_feed()
    victim, other, _ = three.workers.pids
    running = asyncio.create_task(three.at(victim, ada, alias))
    await three.provider.wait(upstream)
    assert (await three.at(other, ada, alias)).status == 429
    three.workers.kill(victim)
    killed = time.monotonic()
    assert isinstance((await asyncio.gather(running, return_exceptions=True))[0], Exception)
    # The next that is admitted waits at the gate; until then each answer is a refusal, at once.
    while not (await asyncio.wait([asking := asyncio.create_task(three.at(other, ada, alias))], timeout=0.5))[1]:
        assert asking.result().status == 429
        assert time.monotonic() - killed < 25
        await asyncio.sleep(0.2)
    await three.provider.release(upstream)
    assert (await asking).status == 200
    await three.settled(ada, within_s=60)
