"""Faults 30: SIGTERM. Nobody is admitted, what runs is finished and charged; past the bound it is cut and free."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import aiohttp
import pytest

from tests.faults.wire import CHAT, chat_body, connect, events_of
from tests.rig import Answer, Customer, Rig, client, start_rig


@pytest.fixture(scope="module")
def own_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with start_rig(tmp_path_factory.mktemp("shutdown"), GATEWAY_DRAIN_S="20") as running:
        yield running


@pytest.fixture
def rig(own_rig: Rig) -> Iterator[Rig]:
    """Running before each test, reconciled after it."""
    if own_rig.server.popen.poll() is not None:
        own_rig.start()
    yield own_rig
    own_rig.reconcile()


def terminate(rig: Rig) -> list[int]:
    """SIGTERM, with a line to every worker, which are returned."""
    workers = rig.workers.call()
    rig.server.popen.send_signal(signal.SIGTERM)
    return workers


async def ended(rig: Rig, within_s: float) -> int:
    return await asyncio.to_thread(rig.server.stop, within_s=within_s)


async def stopping(rig: Rig, workers: list[int]) -> None:
    """Wait until every worker says that it stops, or answers no more."""
    async with asyncio.timeout(1):
        for worker in workers:
            with contextlib.suppress(OSError, http.client.HTTPException):
                while (await asyncio.to_thread(rig.workers.ask, worker, "GET", "/readyz"))[0] != 503:
                    pass


class Reader:
    """A client that reads a stream and keeps what it saw."""

    def __init__(self, rig: Rig, session: aiohttp.ClientSession, ada: Customer, alias: str) -> None:
        self.data: list[bytes] = []
        self._events = events_of(session, rig, ada, alias)

    async def first(self) -> None:
        self.data.append(await anext(self._events))

    async def rest(self) -> None:
        async for data in self._events:
            self.data.append(data)

    async def leave(self) -> None:
        await self._events.aclose()  # type: ignore[attr-defined]

    @property
    def is_whole(self) -> bool:
        return self.data[-1] == b"[DONE]"


async def refused(rig: Rig, session: aiohttp.ClientSession, ada: Customer, alias: str) -> bool:
    """Whether a new request gets 503 or no connection, at once."""
    began = time.monotonic()
    headers = {**ada.headers, "Content-Type": "application/json"}
    try:
        async with session.post(rig.url + CHAT, data=chat_body(alias), headers=headers) as response:
            answer = Answer(response.status, {}, await response.read())
            assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
    except aiohttp.ClientError:
        pass
    return time.monotonic() - began < 1


async def test_two_hundred_streams_are_finished_and_charged_and_nobody_else_is_admitted(rig: Rig) -> None:
    """Faults 30. Twenty of the clients have left: what is drained for them is charged, too."""
    upstream = "sim:words=6,gate,tag=term"
    alias = rig.alias(upstream)
    ada, bob = (rig.customer(models=[alias]) for _ in range(2))
    async with client() as session, client() as kept_alive:
        async with kept_alive.get(rig.url + "/healthz") as response:
            assert response.status == 200
        readers = [Reader(rig, session, ada, alias) for _ in range(220)]
        await asyncio.gather(*[reader.first() for reader in readers])
        whole = asyncio.create_task(rig.chat(ada, alias))
        await rig.provider.wait(upstream, count=221)
        await asyncio.gather(*[reader.leave() for reader in readers[200:]])
        await stopping(rig, terminate(rig))
        for new in (kept_alive, session):
            assert await refused(rig, new, bob, alias)
        await rig.provider.release(upstream)
        await asyncio.gather(*[reader.rest() for reader in readers[:200]])
        assert (await whole).status == 200
    assert await ended(rig, 10) == 0
    assert all(reader.is_whole for reader in readers[:200])
    records = rig.records(ada)
    [last_used] = rig.desk.keys.list(ada.email)["last_used_at"]
    assert abs(last_used - max(record["at"] for record in records)) < timedelta(seconds=1)
    assert Counter(record["outcome"] for record in records) == {"served": 201, "left": 20}
    assert len({record["charge_nano"] for record in records if record["outcome"] == "served"}) == 1
    assert rig.spent_nano(ada) == sum(record["charge_nano"] for record in records)
    assert all(record["charge_nano"] > 0 for record in records)
    assert rig.held_nano(ada) == rig.spent_nano(bob) == 0


async def test_past_its_bound_a_stream_ends_with_an_error_and_nothing_is_charged(rig: Rig) -> None:
    """Faults 30: the bound is one second; the provider never goes on, and no other route is begun after it."""
    rig.server.stop()
    rig.start(GATEWAY_SHUTDOWN_S="1")
    upstream, other = "sim:words=6,gate,tag=bound", "sim:words=1,tag=beyond-the-bound"
    alias = rig.alias(upstream, other)
    ada = rig.customer(models=[alias])
    async with client() as session:
        readers = [Reader(rig, session, ada, alias) for _ in range(30)]
        await asyncio.gather(*[reader.first() for reader in readers])
        whole = [asyncio.create_task(rig.chat(ada, alias)) for _ in range(5)]
        await rig.provider.wait(upstream, count=35)
        began = time.monotonic()
        terminate(rig)
        await asyncio.gather(*[reader.rest() for reader in readers])
        answers = await asyncio.gather(*whole, return_exceptions=True)
    assert await ended(rig, 10) == 0
    assert time.monotonic() - began < 6
    for reader in readers:
        assert set(json.loads(reader.data[-1])["error"]) == {"message", "type", "param", "code"}
        assert len(reader.data) == 2
    for answer in answers:
        assert isinstance(answer, Answer), answer
        assert (answer.status, answer.error["code"]) in ((502, "upstream_unavailable"), (503, "service_unavailable"))
    assert rig.spent_nano(ada) == rig.held_nano(ada) == 0
    assert {record["outcome"] for record in rig.records(ada)} <= {"failed"}
    await rig.provider.wait(upstream, count=35, state="left")
    assert await rig.provider.calls(other) == []
    assert "Traceback" not in rig.server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_server_is_gone_in_five_seconds_whoever_is_connected(rig: Rig, number: signal.Signals) -> None:
    """Idle connections, half a request, and a second signal change nothing."""
    connections = [await connect(rig.url) for _ in range(20)]
    for _, writer in connections[10:]:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    async with client() as session:
        async with session.get(rig.url + "/healthz") as response:
            assert response.status == 200
        began = time.monotonic()
        rig.server.popen.send_signal(number)
        rig.server.popen.send_signal(number)
        assert await ended(rig, 5) == 0
        assert time.monotonic() - began < 5
    for _, writer in connections:
        writer.transport.abort()
