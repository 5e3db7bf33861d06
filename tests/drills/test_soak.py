"""Faults 53, at length: mixed load at half of what the machine can do, while providers fail at random, leaves nothing behind.

Four minutes by default (SOAK_S), two hours with LONG=1. The seed is printed; SOAK_SEED repeats what is asked, in its order,
though never the moments.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from models.prices import NANO_PER_CREDIT
from tests.faults.books import metric
from tests.faults.crashes import GONE, PRICE, Client, check_books
from tests.faults.wire import CHAT, chat_body
from tests.rig import Customer, Rig, client, start_rig

SOAK_S = int(os.environ.get("SOAK_S") or (7_200 if os.environ.get("LONG") else 240))
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(10**6))
MEASURED_S, WARM_UP_S = 8, 20
AT_ONCE = 24
GRANTED = 1_000_000
# What a worker may seem to grow by in the second half, along the line that fits its samples best.
MOST_GROWTH_MIB = 8
TOOLS = [{"type": "function", "function": {"name": "note", "parameters": {"type": "object"}}}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo=" * 2_000}}
CALM = {
    "plain": ["sim:words=20,gap_ms=1"],
    "tools": ["sim:words=8,tools,gap_ms=1"],
    "thinks": ["sim:words=6,reasoning_text"],
}
# What befalls a provider; two of them have another to fall back on.
FAULTS = {
    "down, another answers": ["sim:words=5,status=500,flap=7", "sim:words=5"],
    "reset, another answers": ["sim:words=5,reset,flap=5", "sim:words=5"],
    "down": ["sim:status=503"],
    "limited": ["sim:status=429,retry_after=1"],
    "refuses": ["sim:status=400,error_code=context_length_exceeded"],
    "cut": ["sim:words=9,cut=4,gap_ms=1"],
    "reset in the middle": ["sim:words=9,cut=4,reset,gap_ms=1"],
    "error event": ["sim:words=9,error_event=4"],
    "stalls": ["sim:words=9,stall=4"],
    "no end": ["sim:words=9,no_finish"],
    "no JSON": ["sim:body=html"],
    "slow to start": ["sim:words=4,first_ms=300"],
    "tells no usage": ["sim:words=4,usage=none"],
}


class Pace:
    """Turns at a steady rate, whoever takes them; as fast as one likes without one."""

    def __init__(self, rate: float | None, seconds: float) -> None:
        self._step = 1 / rate if rate else 0.0
        self._next = time.monotonic()
        self._end = self._next + seconds
        self.turns = 0

    async def turn(self) -> bool:
        now = time.monotonic()
        if now >= self._end:
            return False
        # Late turns are not made up for: a slow moment does not become a burst.
        self._next = max(self._next + self._step, now - 1)
        self.turns += 1
        await asyncio.sleep(max(0.0, self._next - now))
        return True


class Soak:
    def __init__(self, rig: Rig, chance: random.Random) -> None:
        self.rig, self.chance = rig, chance
        self.upstreams: list[str] = []
        self.aliases = {name: self._alias(name, models) for name, models in (CALM | FAULTS).items()}
        rig.settle_feed()
        named = list(self.aliases.values())
        self.user = Client(rig, rig.customer(credits=str(GRANTED), models=named))
        self.leaver = rig.customer(credits=str(GRANTED), models=named)
        self.estimated = self.aliases["tells no usage"]
        self.asked: Counter[str] = Counter()

    def _alias(self, name: str, models: list[str]) -> str:
        tagged = [
            f"{model},tag={name.split(',', maxsplit=1)[0].replace(' ', '-')}-{i}" for i, model in enumerate(models)
        ]
        self.upstreams += tagged
        return self.rig.alias(*tagged, price=PRICE, settled=False)

    async def run(self, pace: Pace, *, faults: bool = True) -> None:
        async def one_after_another() -> None:
            async with client() as session:
                while await pace.turn():
                    await self._act(session, faults)

        await asyncio.gather(*[one_after_another() for _ in range(AT_ONCE)])

    async def _act(self, session: Any, faults: bool) -> None:
        kind = self.chance.choices(["asks", "fault", "leaves", "mistake"], [70, 15 * faults, 10, 5])[0]
        stream = self.chance.random() < 0.6
        if kind == "mistake":
            await self._mistake(session)
        elif kind == "leaves":
            await self._leave(session, self.aliases["plain"], self.chance.randrange(0, 20))
        else:
            name = self.chance.choice([*CALM] if kind == "asks" else [*FAULTS])
            await self.user.call(session, self.aliases[name], stream=stream, **self._fields(name))
            kind = name
        self.asked[kind] += 1

    def _fields(self, name: str) -> dict[str, Any]:
        if name == "tools":
            return {"tools": TOOLS, "parallel_tool_calls": False}
        if name == "plain" and self.chance.random() < 0.2:
            return {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, PICTURE]}]}
        return {"n": 2} if name == "thinks" else {}

    async def _mistake(self, session: Any) -> None:
        body, headers = self.chance.choice([
            (b"{", self.user.customer.headers), (chat_body("no-such-model"), self.user.customer.headers),
            (chat_body(self.aliases["plain"], n=0), self.user.customer.headers),
            (chat_body(self.aliases["plain"]), {"Authorization": "Bearer sk-unknown"}),
        ])  # fmt: skip
        async with session.post(
            self.rig.url + CHAT, data=body, headers={**headers, "Content-Type": "application/json"}
        ) as r:
            assert r.status in (400, 401, 403), await r.text()

    async def _leave(self, session: Any, alias: str, events: int) -> None:
        """Hang up after so many events."""
        headers = {**self.leaver.headers, "Content-Type": "application/json"}
        body = chat_body(alias, stream=True, max_tokens=100)
        with contextlib.suppress(*GONE):
            response = await session.post(self.rig.url + CHAT, data=body, headers=headers)
            while events and await response.content.readline():
                events -= 1
            response.close()

    async def check(self) -> None:
        """Every answer that was seen whole is charged once and exactly, and what was charged is what is gone."""
        rig = self.rig
        exact = [record for record in rig.records(self.user.customer) if record["model"] != self.estimated]
        charged = await check_books(rig, self.user, self.upstreams, granted=GRANTED)
        assert not any(record["estimated"] for record in exact)
        await rig.settled(self.leaver, within_s=30)
        left = rig.records(self.leaver)
        assert len({record["request_id"] for record in left}) == len(left)
        for record in left:
            if not record["estimated"]:
                full = PRICE.charge_nano(int(record["fresh_tokens"]), int(record["output_tokens"]))
                assert int(record["charge_nano"]) in (0, full)
        spent = int(Decimal(GRANTED) * NANO_PER_CREDIT) - rig.balance_nano(self.leaver)
        assert spent == sum(int(record["charge_nano"]) for record in left)
        print(f"{len(self.user.whole)} answers seen whole, {len(charged)} charged; {len(left)} left by their client")  # noqa: T201


@contextlib.contextmanager
def soaked(folder: Path) -> Iterator[Rig]:
    # Without cooldowns each fault befalls again and again, and not the first call alone.
    settings = {
        "GATEWAY_UPSTREAM_FIRST_BYTE_TIMEOUT_S": "3", "GATEWAY_UPSTREAM_IDLE_TIMEOUT_S": "1", "GATEWAY_DRAIN_S": "1",
        "GATEWAY_COOLDOWN_AFTER": "1000000",
    }  # fmt: skip
    with start_rig(folder, **settings) as rig:
        yield rig


@pytest.mark.drill
@pytest.mark.timeout(SOAK_S * 2 + 600)
async def test_hours_of_mixed_load_and_failing_providers_leave_nothing_behind(tmp_path: Path) -> None:
    print(f"SOAK_SEED={SEED} SOAK_S={SOAK_S}", flush=True)  # noqa: T201
    with soaked(tmp_path / "rig") as rig:
        soak = Soak(rig, random.Random(SEED))
        for subject in ({"key": soak.user.customer.key_id}, {"key": soak.leaver.key_id}):
            rig.desk.limits.set(**subject, unit="requests", quota=10**7, window_s=60)
        rig.settle_feed()
        measured = Pace(None, MEASURED_S)
        await soak.run(measured, faults=False)
        rate = measured.turns / MEASURED_S / 2
        await soak.run(Pace(rate, WARM_UP_S))
        await idle(rig, soak.leaver)
        files, workers = rig.workers.files, len(rig.workers.pids)
        load, samples = asyncio.create_task(soak.run(Pace(rate, SOAK_S))), []
        began = time.monotonic()
        while not load.done():
            samples.append((time.monotonic() - began, rig.workers.rss_mib / workers))
            await asyncio.wait([load], timeout=max(1, SOAK_S / 240))
        await load
        await idle(rig, soak.leaver)
        # What is kept on purpose (pages of the database, connections) fills up at first; a leak goes on.
        later = samples[len(samples) // 2 :]
        slope, _ = statistics.linear_regression(*zip(*later, strict=True))
        growth = slope * (later[-1][0] - later[0][0])
        minutes = [f"{mib:.1f}" for _, mib in samples[:: max(1, len(samples) // 12)]]
        print(  # noqa: T201
            f"{rate:.0f} requests a second for {SOAK_S} s: {json.dumps(soak.asked)}\n"
            f"memory of a worker in MiB: {', '.join(minutes)}, {samples[-1][1]:.1f} at last;"
            f" slope of the second half {slope * 3600:+.1f} MiB/h, {growth:+.2f} MiB in all\n"
            f"open files {files} before, {rig.workers.files} after; SOAK_SEED={SEED}",
            flush=True,
        )
        await soak.check()
        rig.reconcile()
        assert growth < MOST_GROWTH_MIB
        # A provider's connection is kept alive for the next call: as many as ran at once, and no more.
        assert rig.workers.files <= files + AT_ONCE * workers


async def idle(rig: Rig, leaver: Customer) -> None:
    """Nothing runs and nothing is drained any more."""
    await rig.settled(leaver, within_s=30)
    async with asyncio.timeout(30):
        while await metric(rig, "gateway_requests_running"):
            await asyncio.sleep(0.1)
