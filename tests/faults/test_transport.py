"""Faults 50 to 53: what the defaults of libraries break, and where memory and connections leak."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.books import metric
from tests.faults.wire import CHAT, MIB, chat_body, chat_request
from tests.rig import Customer, Rig, client, start_rig


@pytest.fixture(scope="module", autouse=True)
def _the_books_are_right_afterwards(rig: Rig) -> Any:
    yield
    rig.reconcile()


# ── faults 50: every timeout and limit is set on purpose ──────────────────────────────────────────────────────────


async def test_an_answer_may_last_longer_than_every_timeout_as_long_as_it_goes_on(rig: Rig) -> None:
    """Faults 50, scaled: the rig waits 2 s for a first byte and 2 s for a next one; these answers take 3 s and more."""
    alias = rig.alias("sim:words=8,gap_ms=500")
    slow_start = rig.alias("sim:words=2,first_ms=1500,think_ms=1500")
    ada = rig.customer(models=[alias, slow_start])
    streamed, *thinking = await asyncio.gather(
        rig.chat(ada, alias, stream=True), *[rig.chat(ada, slow_start, stream=stream) for stream in (True, False)]
    )
    assert streamed.is_done
    assert len(streamed.text.split()) == 8
    assert [answer.status for answer in thinking] == [200, 200]
    assert thinking[0].is_done
    await rig.settled(ada, records=3)
    assert all(record["outcome"] == "served" for record in rig.records(ada))


async def test_three_hundred_at_once_all_reach_the_provider(rig: Rig) -> None:
    """Faults 50: an HTTP client library's default is 100 connections."""
    upstream = "sim:words=2,gate,tag=three-hundred"
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    running = [asyncio.create_task(rig.chat(ada, alias, stream=i % 2 == 0, max_tokens=2)) for i in range(300)]
    calls = await rig.provider.wait(upstream, count=300, timeout=30)
    assert Counter(call["state"] for call in calls) == {"open": 300}
    await rig.provider.release(upstream)
    answers = await asyncio.gather(*running)
    assert {answer.status for answer in answers} == {200}
    assert all(answer.is_done for answer in answers[::2])
    await rig.settled(ada, records=300)


async def test_an_event_of_a_mebibyte_and_an_answer_of_eight_pass(rig: Rig) -> None:
    """Faults 50: a line of a stream is limited to 512 KiB by default."""
    alias = rig.alias(f"sim:words=3,big_event={MIB}", settled=False)
    large = rig.alias(f"sim:words=3,big_event={8 * MIB}")
    ada = rig.customer(models=[alias, large])
    streamed = await rig.chat(ada, alias, stream=True)
    assert streamed.is_done
    assert len(streamed.text) >= MIB
    whole = await rig.chat(ada, large)
    assert len(whole.json["choices"][0]["message"]["content"]) >= 8 * MIB
    await rig.settled(ada, records=2)


async def test_requests_of_every_size_reach_the_provider_whole(rig: Rig) -> None:
    """A small body goes out with the headers, a large one after them, however the library does it."""
    upstream = "sim:words=1,tag=sizes"
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    texts = ["é" * size for size in (1, 15_000, 16_300, 17_000, 100_000)]
    for text in texts:
        for stream in (False, True):
            body = chat_body(alias, messages=[{"role": "user", "content": text}], stream=stream)
            assert (await rig.post(ada.headers, body)).status == 200
    came = [call["body"]["messages"][0]["content"] for call in await rig.provider.calls(upstream)]
    assert came == [text for text in texts for _ in range(2)]


async def test_a_gust_of_events_arrives_whole_and_in_order(rig: Rig) -> None:
    """What a quick provider sends meanwhile is passed on as one; no word is lost or turned about by it."""
    alias = rig.alias("sim:words=500")
    ada = rig.customer(models=[alias])
    whole, *streamed = await asyncio.gather(*[rig.chat(ada, alias, stream=number > 0) for number in range(5)])
    assert {answer.text for answer in streamed} == {whole.json["choices"][0]["message"]["content"]}
    assert all(answer.is_done for answer in streamed)
    assert len(streamed[0].text.split()) == 500


# ── faults 51: a line without an end ──────────────────────────────────────────────────────────────────────────────


async def test_an_endless_line_is_an_error_and_not_memory(rig: Rig) -> None:
    """Faults 51. Four at once, each cut off at the largest event there may be; the next route answers."""
    upstream = "sim:endless_line"
    alias, alone = rig.alias(upstream, "sim:words=2,tag=after-endless", settled=False), rig.alias(upstream)
    ada = rig.customer(models=[alias, alone])
    before = rig.workers.rss_mib
    answers = await asyncio.gather(*[rig.chat(ada, alias, stream=True) for _ in range(4)])
    assert all(answer.is_done and answer.text for answer in answers)
    broken = await rig.chat(ada, alone, stream=True)
    # As a status, should the limit be reached within the moment before a stream's headers go out; else in band.
    failure = broken.error if broken.status == 502 else broken.events[-1]["error"]
    assert failure["code"] == "upstream_unavailable"
    assert b"[DONE]" not in broken.body
    assert rig.workers.rss_mib - before < 160
    await rig.provider.wait(upstream, count=5, state="left")
    await rig.settled(ada, records=5)
    assert len(rig.records(ada, "failed")) == 1


async def test_an_endless_json_answer_is_an_error_and_not_memory(rig: Rig) -> None:
    """Faults 51."""
    alias = rig.alias("sim:endless_line,tag=json")
    ada = rig.customer(models=[alias])
    before = most = rig.workers.rss_mib
    running = [asyncio.create_task(rig.chat(ada, alias)) for _ in range(4)]
    while not all(call.done() for call in running):
        await asyncio.wait(running, timeout=0.02)
        most = max(most, rig.workers.rss_mib)
    for call in running:
        assert (call.result().status, call.result().error["code"]) == (502, "upstream_unavailable")
    assert most - before < 200
    await rig.settled(ada)
    assert rig.spent_nano(ada) == 0


# ── faults 52: a client that does not read ────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def impatient_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A client may stop reading for three seconds; then it counts as gone."""
    folder = tmp_path_factory.mktemp("impatient")
    with start_rig(folder, GATEWAY_WRITE_TIMEOUT_S="3", GATEWAY_DRAIN_S="0") as running:
        yield running
        running.reconcile()


async def test_clients_that_do_not_read_slow_their_providers_down_and_are_given_up(impatient_rig: Rig) -> None:
    """Faults 52: eight answers of 40 MiB wait at the provider, not in our memory; then the clients are gone."""
    rig = impatient_rig
    upstream = await rig.provider.script("flood", chunks=[_event({"padding": "x" * 65_536})] * 640)
    # Counting tokens by ourselves loads a vocabulary, once a worker: that is not what is measured here.
    alias, quick = rig.alias(upstream), rig.alias("sim:words=2,usage=none")
    ada = rig.customer(models=[alias, quick])
    assert all(answer.is_done for answer in await rig.everywhere(ada, quick, stream=True))
    before = rig.workers.rss_mib
    readers = [_deaf_client(rig) for _ in range(8)]
    for reader in readers:
        reader.sendall(chat_request(ada, chat_body(alias, stream=True)))
    await rig.provider.wait(upstream, count=8)
    events = [0]
    while (now := [call["events_sent"] for call in await rig.provider.calls(upstream)]) != events:
        events = now
        await asyncio.sleep(0.3)
    assert all(0 < sent < 640 for sent in events), "each provider was stopped in the middle of its answer"
    assert rig.workers.rss_mib - before < 40
    assert (await rig.chat(ada, quick, stream=True)).is_done, "whoever reads is served meanwhile"
    await rig.provider.wait(upstream, count=8, state="left", timeout=20)
    assert rig.workers.rss_mib - before < 40
    for reader in readers:
        reader.close()
    await rig.settled(ada, records=9 + len(rig.workers.pids))
    left = rig.records(ada, "left")
    assert len(left) == 8
    assert all(record["estimated"] and record["charge_nano"] > 0 for record in left)


def _event(delta: dict[str, Any]) -> str:
    chunk = {"id": "1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
    return f"data: {json.dumps(chunk)}\n\n"


def _deaf_client(rig: Rig) -> socket.socket:
    """Its kernel takes a little for it, and it reads nothing."""
    address = urllib.parse.urlsplit(rig.url)
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect((address.hostname, address.port))
    return deaf


# ── faults 53: sessions and connections ───────────────────────────────────────────────────────────────────────────


async def test_requests_leave_no_connections_files_or_memory_behind(rig: Rig) -> None:
    """Faults 53, scaled: 300 requests to warm up, and 900 that add nothing. The drills make it many more."""
    await keep_flat(rig, 300, 900, mib=12)


async def keep_flat(rig: Rig, warm_up: int, count: int, *, mib: float) -> None:
    """Every kind of ending, 30 at once; then each worker has as many open files as before, and not much more memory."""
    upstreams = ["sim:words=3", "sim:words=3,cut=2", "sim:status=500", "sim:status=400", "sim:reset"]
    aliases = [rig.alias(upstream, settled=False) for upstream in upstreams]
    rig.settle_feed()
    ada = rig.customer(models=aliases)
    await _many(rig, ada, aliases, warm_up)
    files, memory = rig.workers.files, rig.workers.rss_mib
    await _many(rig, ada, aliases, count)
    await rig.settled(ada)
    # A provider's connection is kept alive for the next call: as many as ran at once, and no more.
    workers = len(rig.workers.pids)
    assert rig.workers.files <= files + 30 * workers
    assert rig.workers.rss_mib - memory < mib * workers
    assert await metric(rig, "gateway_requests_running") == 0


async def _many(rig: Rig, ada: Customer, aliases: list[str], count: int) -> None:
    turns = iter(range(count))
    headers = {**ada.headers, "Content-Type": "application/json"}

    async def one_after_another() -> None:
        async with client() as session:
            for turn in turns:
                body = chat_body(aliases[turn % len(aliases)], stream=turn % 2 == 0)
                async with session.post(rig.url + CHAT, data=body, headers=headers) as response:
                    await response.read()

    await asyncio.gather(*[one_after_another() for _ in range(30)])


async def test_a_large_answer_leaves_nothing_to_run_out_on_the_connection_that_is_used_again(tmp_path: Path) -> None:
    """Read on after its end, its connection waited for more; when that ran out, the next request on it failed at once."""
    with start_rig(tmp_path, GATEWAY_UPSTREAM_IDLE_TIMEOUT_S="0.3") as rig:
        large, small = (rig.alias(upstream) for upstream in ("sim:words=1,big_event=200000", "sim:words=2"))
        ada = rig.customer(models=[large, small])
        for _ in range(4):
            assert (await rig.chat(ada, large, n=3)).status == 200
            # Longer than a silence may be, and shorter than a connection is kept: the trouble has no event to wait for.
            await asyncio.sleep(0.5)
            assert (await rig.chat(ada, small)).status == 200
        rig.reconcile()
