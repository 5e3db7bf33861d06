"""Owns what the outage tests share: a rig whose PostgreSQL can be taken away in several ways, and requests in flight."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.books import aliases, bill_nano, metric
from tests.own_servers import OwnPostgres, own_postgres
from tests.proxy import Proxy
from tests.rig import Answer, Customer, Rig, start_rig

_tag = itertools.count(1)


class InFlight:
    """Requests that wait at the provider's gate, so that their settlements come when the test says so."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.upstream = f"sim:words=3,gate,tag=flight-{next(_tag)}"
        self.quick_upstream = f"sim:words=3,tag=quick-{next(_tag)}"
        self.alias, self.quick = aliases(rig, self.upstream, self.quick_upstream)
        self.calls: list[asyncio.Task[Answer]] = []

    def customer(self) -> Customer:
        return self.rig.customer(models=[self.alias, self.quick])

    async def begin(self, customers: list[Customer], count: int) -> None:
        """Half of them streamed, the customers in turn; all of them are at the provider when this returns."""
        self.calls = [
            asyncio.create_task(
                self.rig.chat(customers[i % len(customers)], self.alias, stream=bool(i // 2 % 2), max_tokens=50)
            )
            for i in range(count)
        ]
        await self.rig.provider.wait(self.upstream, count=len(self.calls))

    async def release(self) -> None:
        await self.rig.provider.release(self.upstream)

    async def bill(self) -> int:
        """What each of them costs."""
        return bill_nano((await self.rig.provider.calls(self.upstream))[0]["usage"])


@dataclass(frozen=True)
class Outage:
    """A rig, its PostgreSQL, and the door through which the gateway goes to it. The desk has a way of its own."""

    rig: Rig
    postgres: OwnPostgres
    door: Proxy

    @contextlib.contextmanager
    def of(self, kind: str) -> Iterator[None]:
        begin, end = self._ways[kind]
        self.rig.close_desk()
        begin()
        try:
            yield
        finally:
            end()

    @property
    def _ways(self) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
        return {
            "crashed": (self.postgres.stop, self.postgres.start),
            "frozen": (self.postgres.freeze, self.postgres.thaw),
            "cut off": (self.door.cut, self.door.pass_on),
            "unreachable": (self.door.freeze, self.door.pass_on),
            "speechless": (self.door.freeze_answers, self.door.pass_on),
        }

    async def over(self, within_s: float = 30) -> None:
        """Wait until every worker admits again, and nothing waits on disk."""
        async with asyncio.timeout(within_s):
            while await metric(self.rig, "gateway_spooled_settlements") or not self._is_ready():
                await asyncio.sleep(0.1)
        assert self.spooled == 0

    def _is_ready(self) -> bool:
        return all(self.rig.workers.ask(pid, "GET", "/readyz")[0] == 200 for pid in self.rig.workers.pids)

    @property
    def spooled(self) -> int:
        """Settlements in the spool files; each file begins with a line about whose it is."""
        folder = Path(self.rig.environment["GATEWAY_SPOOL_DIR"])
        lines = [[x for x in file.read_bytes().split(b"\n") if x] for file in folder.glob("*.spool")]
        return sum(max(0, len(each) - 1) for each in lines)


@contextlib.contextmanager
def start_outage(folder: Path, *, max_connections: int = 100, **settings: str) -> Iterator[Outage]:
    with (
        own_postgres(max_connections=max_connections) as postgres,
        Proxy(postgres.url) as door,
        start_rig(folder, database_url=postgres.url, GATEWAY_DATABASE_URL=door.url, **settings) as rig,
    ):
        yield Outage(rig, postgres, door)


async def timed(rig: Rig, worker: int, customer: Customer, alias: str) -> tuple[Answer, float]:
    """An answer of this worker, and how long it took."""
    began = time.monotonic()
    answer = await rig.at(worker, customer, alias)
    return answer, time.monotonic() - began


async def refused_for(rig: Rig, customer: Customer, alias: str, seconds: float) -> float:
    """Ask every worker for so long: all that is heard is 503. The longest that anybody waited for it."""
    until = time.monotonic() + seconds
    waited: list[float] = []
    heard: Counter[int] = Counter()

    async def ask_on(worker: int) -> None:
        while time.monotonic() < until:
            answer, took_s = await timed(rig, worker, customer, alias)
            heard[answer.status] += 1
            waited.append(took_s)
            assert answer.status != 503 or answer.error["code"] == "service_unavailable"

    await asyncio.gather(*map(ask_on, rig.workers.pids))
    assert set(heard) == {503}
    return max(waited)
