"""Faults 31: `kill -9` of one worker, of the main process, of everything. What was seen whole is charged, once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.crashes import PRICE, Client, check_books
from tests.rig import ROOT, Rig, client, start_rig

STREAMS = 200
BACK_WITHIN_S = 3.0


class Crash:
    """A server with two hundred streams at the provider's gate, half of which the test lets through before it strikes."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.early, self.late = "sim:words=4,gate,tag=early", "sim:words=4,gate,tag=late"
        self.aliases = [rig.alias(upstream, price=PRICE, settled=False) for upstream in (self.early, self.late)]
        rig.settle_feed()
        self.user = Client(rig, rig.customer(models=self.aliases))
        self.streams: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        self._client = client()
        session = await self._client.__aenter__()
        self.streams = [
            asyncio.create_task(self.user.call(session, self.aliases[i % 2], stream=i % 4 < 3)) for i in range(STREAMS)
        ]
        for upstream in (self.early, self.late):
            await self.rig.provider.wait(upstream, count=STREAMS // 2, timeout=60)

    async def end(self) -> None:
        """The others are let through too, and everybody has heard how his answer ends."""
        await self.rig.provider.release(self.late)
        await asyncio.gather(*self.streams)
        await self._client.__aexit__(None, None, None)

    async def check(self) -> None:
        charged = await check_books(self.rig, self.user, [self.early, self.late], granted=1000)
        assert len(self.user.whole) >= STREAMS // 2
        # An answer can be whole and charged, and its last byte lost; that is rare, and here it is none.
        assert len(charged) <= len(self.user.whole) + 5
        self.rig.reconcile()


@pytest.fixture
async def crash(tmp_path: Path) -> AsyncIterator[Crash]:
    with start_rig(tmp_path, GATEWAY_COOLDOWN_AFTER="1000000") as rig:
        crashing = Crash(rig)
        await crashing.begin()
        await rig.provider.release(crashing.early)
        await rig.recorded(crashing.user.customer, STREAMS // 2)
        yield crashing


async def test_everything_is_killed_at_once(crash: Crash) -> None:
    """As when a machine loses its power. Started again at once, it gives back what was held."""
    crash.rig.kill()
    await crash.end()
    assert len(crash.user.whole) == STREAMS // 2
    assert not crash.user.refused
    await asyncio.to_thread(crash.rig.start)
    await crash.check()


@pytest.mark.only("cluster")
async def test_one_worker_is_killed_and_another_takes_its_place_while_the_others_serve_on(crash: Crash) -> None:
    rig = crash.rig
    victim, survivor = rig.workers.pids
    rig.workers.kill(victim)
    killed = time.monotonic()
    served = 0
    while not await asyncio.to_thread(has_another, rig, survivor):
        assert (await rig.at(survivor, crash.user.customer, "nothing")).status == 403
        served += 1
        await asyncio.sleep(0.05)
    took_s = time.monotonic() - killed
    # Where others keep the processors busy, to read a program takes longer, whoever starts it.
    assert took_s < max(BACK_WITHIN_S, BACK_WITHIN_S * await asyncio.to_thread(read_the_program))
    assert served > 0
    await crash.end()
    assert STREAMS // 2 < len(crash.user.whole) < STREAMS, "both of them had streams"
    assert not crash.user.refused
    await crash.check()


@pytest.mark.only("cluster")
async def test_the_main_process_is_killed_and_no_worker_outlives_it(crash: Crash) -> None:
    """Its port is free for the next one at once, and what the workers had running ends as at any other shutdown."""
    workers = crash.rig.workers.pids
    await asyncio.to_thread(crash.rig.server.kill)
    assert len(workers) == 2
    await crash.end()
    assert len(crash.user.whole) == STREAMS // 2
    # Whoever had seen nothing of his answer is told that it failed.
    assert {status for status, _ in crash.user.refused} == {502}
    await asyncio.to_thread(crash.rig.start)
    # They had the time to give back what they held: nobody has to wait for a lease.
    assert crash.rig.held_nano(crash.user.customer) == 0
    await crash.check()


@pytest.mark.only("cluster")
async def test_a_frozen_worker_stops_nobody_else_and_goes_on_when_it_wakes(crash: Crash) -> None:
    """Shorter than a lease: nobody takes it for dead, and its clients have only waited."""
    rig = crash.rig
    frozen, _ = rig.workers.pids
    rig.workers.freeze(frozen)
    for _ in range(30):
        began = time.monotonic()
        assert (await rig.chat(crash.user.customer, "nothing")).status == 403
        assert time.monotonic() - began < 1
    await rig.provider.release(crash.late)
    await rig.provider.wait(crash.late, count=STREAMS // 2, state="served")
    rig.workers.thaw(frozen)
    await crash.end()
    assert len(crash.user.whole) == STREAMS
    await crash.check()


def read_the_program() -> float:
    """How long it takes now to start Python with the gateway in it; a second on a quiet machine."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import gateway.server, gateway.app"], cwd=ROOT, check=True)
    return time.monotonic() - began


def has_another(rig: Rig, survivor: int) -> bool:
    """Whether another worker serves beside this one. One that is still starting accepts no connection."""
    others = [pid for pid in rig.workers.pids if pid != survivor]
    try:
        return bool(others) and rig.workers.ask(others[0], "GET", "/healthz", patience_s=0.1)[0] == 200
    except (OSError, AssertionError):
        return False
