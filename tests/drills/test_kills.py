"""Faults 31: `kill -9`, again and again. What a client saw whole is charged once, nothing else is, and nothing stays held."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import ops
from models.prices import NANO_PER_CREDIT
from tests.faults.wire import CHAT, chat_body
from tests.rig import Customer, Price, Rig, client, start_rig

pytestmark = pytest.mark.drill
ROUNDS = 20
STREAMS = 100
PRICE = Price("1", "2")
GONE = (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)


@pytest.fixture
def own_rig(tmp_path: Path) -> Iterator[Rig]:
    with start_rig(tmp_path / "rig", GATEWAY_COOLDOWN_AFTER="1000000") as running:
        yield running


@dataclass
class Client:
    """Calls on behalf of a customer, and remembers which answers it saw whole."""

    rig: Rig
    customer: Customer
    whole: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    async def call(self, session: aiohttp.ClientSession, alias: str, *, stream: bool) -> None:
        """One answer, whole or not; a server that is gone is no fault here."""
        headers = {**self.customer.headers, "Content-Type": "application/json"}
        with contextlib.suppress(*GONE):
            body = chat_body(alias, stream=stream, max_tokens=100)
            async with session.post(self.rig.url + CHAT, data=body, headers=headers) as response:
                said = await response.read()
                if response.status != 200:
                    self.refused.append(response.status)
                elif not stream or said.endswith(b"data: [DONE]\n\n"):
                    self.whole.append(response.headers["x-request-id"])


class Granter:
    """An operator's notebook, which grants one credit after the other while the server lives and dies."""

    def __init__(self, rig: Rig, email: str) -> None:
        self.granted = 0
        self.error: BaseException | None = None
        self._rig, self._email = rig, email
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Granter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            desk = ops.connect(self._rig.database_url, operator="notebook")
            while not self._done.wait(0.01):
                key = f"notebook-{self._email}-{self.granted}"
                desk.credits.grant(self._email, credits="1", reason="drill", grant_key=key)
                self.granted += 1
            desk.close()
        except BaseException as error:
            self.error = error


async def check_books(rig: Rig, user: Client, upstreams: list[str], *, granted: int) -> dict[str, Any]:
    """After a restart: nothing held, every whole answer charged once, and no more charged than the provider served."""
    ada = user.customer
    assert rig.held_nano(ada) == 0
    records = {record["request_id"]: record for record in rig.records(ada)}
    charged = {id_: record for id_, record in records.items() if record["charge_nano"]}
    assert len(set(user.whole)) == len(user.whole)
    assert set(user.whole) <= set(charged), "seen whole, and not charged"
    calls = [call for upstream in upstreams for call in await rig.provider.calls(upstream)]
    assert len(charged) <= sum(call["state"] == "served" for call in calls), "charged, and not served by the provider"
    for record in charged.values():
        assert record["outcome"] == "served"
        assert record["charge_nano"] == PRICE.charge_nano(record["fresh_tokens"], record["output_tokens"])
    spent = int(Decimal(granted) * NANO_PER_CREDIT) - rig.balance_nano(ada)
    assert spent == sum(record["charge_nano"] for record in records.values())
    return charged


async def test_killed_twenty_times_with_a_hundred_streams_in_flight(own_rig: Rig) -> None:
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
                # From the first words of all to the last words of most.
                await asyncio.sleep(chance.uniform(0, 0.8))
                rig.server.kill()
                await asyncio.gather(*streams)
            interrupted += STREAMS - (len(user.whole) - before)
            rig.start()
            assert rig.held_nano(user.customer) == 0
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
            await asyncio.sleep(chance.uniform(0.05, 0.5))
            rig.server.kill()
            await asyncio.to_thread(rig.start)
        stopping.set()
        await asyncio.gather(*clients)
    await rig.settled(user.customer)
    assert set(user.refused) <= {502}
    assert len(user.whole) > 500
    charged = await check_books(rig, user, upstreams, granted=100_000 + notebook.granted)
    print(f"{len(user.whole)} whole, {len(charged)} charged, {notebook.granted} grants")  # noqa: T201
    rig.reconcile()
