"""Two servers on one database and one Redis, as on two machines: one balance, one limit, one revoke, and a rolling restart."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.faults.crashes import PRICE, Client, check_books
from tests.faults.test_balance_races import ASKED, COUNTED, ONE, Burst, credits_of
from tests.faults.wire import chat_body
from tests.rig import Answer, Customer, Process, Rig, client, start_rig
from tests.workers import Workers

pytestmark = pytest.mark.only("cluster")


@dataclass(frozen=True)
class Pair:
    """A rig of two workers, and a second server with one."""

    rig: Rig
    second: Process
    workers: Workers

    @property
    def urls(self) -> list[str]:
        return [self.rig.url, self.second.url]

    async def everywhere(self, ada: Customer, alias: str) -> list[Answer]:
        """The same call at each worker of both."""
        headers = {**ada.headers, "Content-Type": "application/json"}
        (pid,) = self.workers.pids
        asking = asyncio.to_thread(self.workers.ask, pid, "POST", "/v1/chat/completions", chat_body(alias), headers)
        return [*await self.rig.everywhere(ada, alias), Answer(*await asking)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with (
        start_rig(tmp_path_factory.mktemp("pair"), GATEWAY_COOLDOWN_AFTER="1000000") as rig,
        rig.second_server(GATEWAY_WORKERS="1") as (second, workers),
    ):
        yield Pair(rig, second, workers)
        rig.reconcile()


async def test_a_balance_is_one_balance_on_two_machines(pair: Pair) -> None:
    """Faults 23: six hundred at once at both of them, on a balance for thirty."""
    rig, upstream = pair.rig, f"sim:{COUNTED},gate,tag=machines"
    alias = rig.alias(upstream)
    ada = rig.customer(credits=credits_of(30 * ONE), models=[alias])
    async with Burst(rig, ada, alias, 600, pair.urls, **ASKED) as burst:
        await rig.provider.wait(upstream, count=30, timeout=60)
        await burst.wait_for(570)
        await rig.provider.release(upstream)
        await burst.wait_for(600)
    assert burst.statuses == {402: 570, 200: 30}
    assert len(await rig.provider.calls(upstream)) == 30
    await rig.settled(ada, records=30)
    assert rig.balance_nano(ada) == 0


async def test_a_limit_is_one_limit_and_a_revoke_is_one_revoke(pair: Pair) -> None:
    """Faults 41 and 44."""
    rig = pair.rig
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    rig.desk.limits.set(key=ada.key_id, unit="requests", quota=20, window_s=3600)
    rig.settle_feed()
    answers = [answer for _ in range(20) for answer in await pair.everywhere(ada, alias)]
    assert Counter(answer.status for answer in answers) == {200: 20, 429: 40}
    rig.desk.keys.revoke(ada.key_id)
    revoked = time.monotonic()
    while {answer.status for answer in await pair.everywhere(ada, alias)} != {401}:
        assert time.monotonic() - revoked < 1


async def test_one_is_restarted_while_the_other_serves(pair: Pair) -> None:
    """Faults 30: who is sent to the other one notices nothing, and what ran is finished and charged."""
    rig, upstream = pair.rig, "sim:words=4,gate,tag=rolling"
    alias, quick = rig.alias(upstream, price=PRICE, settled=False), rig.alias("sim:words=2,tag=rolled", price=PRICE)
    user = Client(rig, rig.customer(models=[alias, quick]))
    async with client() as session:
        running = [asyncio.create_task(user.call(session, alias, stream=i % 2 == 0)) for i in range(40)]
        await rig.provider.wait(upstream, count=40)
        with rig.second_server() as (newer, workers):
            stopping = asyncio.create_task(asyncio.to_thread(rig.server.stop))
            headers = {**user.customer.headers, "Content-Type": "application/json"}
            for _ in range(10):
                for pid in workers.pids:
                    ask = asyncio.to_thread(workers.ask, pid, "POST", "/v1/chat/completions", chat_body(quick), headers)
                    assert (await ask)[0] == 200
            assert not stopping.done()
            await rig.provider.release(upstream)
            await asyncio.gather(*running)
            assert await stopping == 0
            assert newer.popen.poll() is None
    assert len(user.whole) == 40
    assert not user.refused
    rig.start()
    records = rig.records(user.customer)
    assert len(records) == 40 + 20
    await check_books(rig, user, [upstream, "sim:words=2,tag=rolled"], granted=1000)
