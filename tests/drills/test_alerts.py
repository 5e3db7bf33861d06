"""Each alert: the thing that it is about is broken on a real server, and a real Prometheus sees its rule become true.

The rules are those of docker/prometheus/alerts.yml, looking back for seconds and not waiting before they fire.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.faults.outages import InFlight, Outage
from tests.own_servers import own_postgres
from tests.proxy import Proxy
from tests.rig import Customer, Rig, close_desks, start_rig
from tests.servers import OwnRedis, own_redis
from tests.stores import CLUSTER, on
from tests.watching.prometheus import Prometheus, in_a_hurry, watching

pytestmark = [pytest.mark.drill, pytest.mark.only("sqlite")]
# What a busy machine does to the first requests of a new server is no fault of the gateway's.
OF_TIME = {"GatewayAddsLatency", "GatewaySlowFirstByte"}
OLD_HOLD_S = 3600


@dataclass(frozen=True)
class Watched:
    outage: Outage
    redis: OwnRedis
    prometheus: Prometheus
    door: Proxy  # between Prometheus and the server

    @property
    def rig(self) -> Rig:
        return self.outage.rig


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    close_desks()
    folder = tmp_path_factory.mktemp("alerts")
    with contextlib.ExitStack() as stack:
        stack.enter_context(on(CLUSTER))
        postgres = stack.enter_context(own_postgres())
        door = stack.enter_context(Proxy(postgres.url))
        redis = stack.enter_context(own_redis())
        rig = stack.enter_context(
            start_rig(
                folder,
                database_url=postgres.url,
                redis_url=redis.url,
                GATEWAY_DATABASE_URL=door.url,
                GATEWAY_COOLDOWN_S="1",
            )
        )
        front = stack.enter_context(Proxy(rig.url))
        prometheus = stack.enter_context(watching(front.url.removeprefix("http://"), folder))
        yield Watched(Outage(rig, postgres, door), redis, prometheus, front)
    close_desks()


@contextlib.asynccontextmanager
async def calling(rig: Rig, customer: Customer, *models: str, pause_s: float = 0.1) -> AsyncIterator[None]:
    """Somebody calls each of these models all the time, whatever the answer is."""

    async def call(model: str) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await rig.chat(customer, model)
            await asyncio.sleep(pause_s)

    tasks = [asyncio.create_task(call(model)) for model in models]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_server_in_use_wakes_nobody(watched: Watched) -> None:
    rig = watched.rig
    good = rig.alias("sim:words=3,tag=good")
    async with calling(rig, rig.customer(models=[good]), good):
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert watched.prometheus.firing() <= OF_TIME
            await asyncio.sleep(0.2)
        # It was not for want of numbers.
        assert watched.prometheus.value('sum(rate(gateway_requests_total{status="200"}[5s]))') > 0


async def test_a_provider_that_fails(watched: Watched) -> None:
    rig, alerts = watched.rig, ("GatewayErrors", "GatewayModelUnavailable", "GatewayRoutesRest")
    broken = rig.alias("sim:status=500,tag=a", "sim:status=503,tag=b")
    await watched.prometheus.is_quiet(*alerts)
    async with calling(rig, rig.customer(models=[broken]), broken, pause_s=0.05):
        await watched.prometheus.fires("GatewayErrors", "GatewayModelUnavailable", "GatewayRoutesRest")
    await watched.prometheus.is_quiet("GatewayModelUnavailable", "GatewayErrors")


async def test_a_provider_that_is_slow(watched: Watched) -> None:
    rig = watched.rig
    slow = rig.alias("sim:words=2,first_ms=10500")
    ada = rig.customer(models=[slow])
    await watched.prometheus.is_quiet("GatewaySlowFirstByte")

    async def call_after(seconds: float) -> None:
        await asyncio.sleep(seconds)
        assert (await rig.chat(ada, slow)).status == 200

    calls = [asyncio.create_task(call_after(n)) for n in range(6)]
    await watched.prometheus.fires("GatewaySlowFirstByte")
    await asyncio.gather(*calls)


async def test_a_provider_that_does_not_count(watched: Watched) -> None:
    rig = watched.rig
    uncounted = rig.alias("sim:words=3,usage=none")
    await watched.prometheus.is_quiet("GatewayEstimatesMuch")
    async with calling(rig, rig.customer(models=[uncounted]), uncounted):
        await watched.prometheus.fires("GatewayEstimatesMuch")


async def test_a_database_that_is_slow(watched: Watched) -> None:
    rig = watched.rig
    model = rig.alias("sim:words=3,tag=slowed")
    await watched.prometheus.is_quiet("GatewayAddsLatency")
    watched.outage.door.slow_down(0.04)
    try:
        async with calling(rig, rig.customer(models=[model]), model):
            await watched.prometheus.fires("GatewayAddsLatency")
    finally:
        watched.outage.door.slow_down(0)


async def test_a_database_that_is_away(watched: Watched) -> None:
    """The change feed stands still, heartbeats stop, and what was served waits on disk, ever longer."""
    rig = watched.rig
    alerts = ("GatewayChangeFeedStale", "GatewayLeaseLost", "GatewaySpoolDoesNotEmpty", "GatewaySettlementLag")
    flight = InFlight(rig)
    ada = flight.customer()
    await watched.prometheus.is_quiet(*alerts)
    await flight.begin([ada], 4)
    with watched.outage.of("cut off"):
        await flight.release()
        await watched.prometheus.fires("GatewaySpoolDoesNotEmpty")
        await watched.prometheus.fires("GatewayChangeFeedStale", "GatewayLeaseLost")
        await watched.prometheus.fires("GatewaySettlementLag")
    await watched.outage.over()
    assert {answer.status for answer in await asyncio.gather(*flight.calls)} == {200}
    await rig.settled(ada, records=4)
    await watched.prometheus.is_quiet("GatewayChangeFeedStale", "GatewaySpoolDoesNotEmpty", "GatewaySettlementLag")


async def test_a_hold_that_nobody_gives_back(watched: Watched) -> None:
    rig, upstream = watched.rig, "sim:words=3,gate,tag=held"
    model = rig.alias(upstream)
    ada = rig.customer(models=[model])
    await watched.prometheus.is_quiet("GatewayHoldsOld")
    call = asyncio.create_task(rig.chat(ada, model))
    await rig.provider.wait(upstream)
    rig.sql("UPDATE hold SET at_us = at_us - ? WHERE status = 'open'", OLD_HOLD_S * 1_000_000)
    await watched.prometheus.fires("GatewayHoldsOld")
    await rig.provider.release(upstream)
    assert (await call).status == 200
    await watched.prometheus.is_quiet("GatewayHoldsOld")


async def test_a_settlement_that_the_database_refuses(watched: Watched) -> None:
    rig, upstream = watched.rig, "sim:words=3,gate,tag=refused"
    model = rig.alias(upstream)
    ada = rig.customer(models=[model])
    await watched.prometheus.is_quiet("GatewayQuarantine")
    call = asyncio.create_task(rig.chat(ada, model))
    await rig.provider.wait(upstream)
    rig.sql("ALTER TABLE transfer ADD CONSTRAINT broken CHECK (kind <> 'charge') NOT VALID")
    try:
        await rig.provider.release(upstream)
        assert (await call).status == 503
    finally:
        rig.sql("ALTER TABLE transfer DROP CONSTRAINT broken")
    await watched.prometheus.fires("GatewayQuarantine")
    listed = rig.run("quarantine").stdout
    assert "Capture" in listed
    closed = rig.run("quarantine", "--close", listed.split()[0], "--reason", "a drill")
    assert closed.returncode == 0, closed.stderr
    await watched.prometheus.is_quiet("GatewayQuarantine")


async def test_a_redis_that_hangs(watched: Watched) -> None:
    await watched.prometheus.is_quiet("GatewayLimiterFallback")
    watched.redis.freeze()
    try:
        await watched.prometheus.fires("GatewayLimiterFallback")
    finally:
        watched.redis.thaw()
    await watched.prometheus.is_quiet("GatewayLimiterFallback")


async def test_a_month_to_come_without_its_partition(watched: Watched) -> None:
    rig = watched.rig
    await watched.prometheus.is_quiet("GatewayPartitionsMissing")
    ((last,),) = rig.sql(
        "SELECT MAX(c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = '\"usage\"'::regclass AND c.relname <> 'usage_default'"
    )
    rig.sql(f"DROP TABLE {last}")
    await watched.prometheus.fires("GatewayPartitionsMissing")
    assert rig.run("migrate").returncode == 0
    await watched.prometheus.is_quiet("GatewayPartitionsMissing")


async def test_workers_that_die(watched: Watched) -> None:
    rig = watched.rig
    await watched.prometheus.is_quiet("GatewayWorkersMissing", "GatewayWorkersDie")
    for number in range(4):
        before = set(rig.workers.pids)
        psutil.Process(max(before)).kill()
        if number == 0:
            await watched.prometheus.fires("GatewayWorkersMissing")
            assert "GatewayWorkersDie" not in watched.prometheus.firing()
        async with asyncio.timeout(20):
            while len(rig.workers.pids) < 2 or set(rig.workers.pids) == before:
                await asyncio.sleep(0.05)
    await watched.prometheus.fires("GatewayWorkersDie")
    await watched.prometheus.is_quiet("GatewayWorkersMissing")


async def test_a_server_that_does_not_answer(watched: Watched) -> None:
    await watched.prometheus.is_quiet("GatewayDown")
    watched.door.cut()
    try:
        await watched.prometheus.fires("GatewayDown")
    finally:
        watched.door.pass_on()
    await watched.prometheus.is_quiet("GatewayDown")


def test_every_alert_has_its_drill() -> None:
    source = Path(__file__).read_text()
    drilled = {name for call in re.findall(r"\.fires\(([^)]*)\)", source) for name in re.findall(r'"(\w+)"', call)}
    assert drilled == {rule["alert"] for rule in in_a_hurry()["groups"][0]["rules"]}
