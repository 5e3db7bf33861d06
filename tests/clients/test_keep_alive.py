"""Line 17 of the client list, and line 26: comments while a provider thinks, and clients that leave, on a rig of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from openai import AsyncOpenAI

from tests.clients.shelf import HELLO, Shelf
from tests.rig import Price, Rig, client, start_rig

KEEP_ALIVE = b": keep-alive\n\n"


@pytest.fixture(scope="module")
def slow_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Comments come after a second; a provider has three seconds to begin."""
    with start_rig(
        tmp_path_factory.mktemp("keep-alive"),
        GATEWAY_KEEP_ALIVE_S="1",
        GATEWAY_UPSTREAM_FIRST_BYTE_TIMEOUT_S="3",
        GATEWAY_UPSTREAM_IDLE_TIMEOUT_S="3",
        GATEWAY_COOLDOWN_AFTER="1000000",
        GATEWAY_DRAIN_S="2",
    ) as running:
        yield running
        running.reconcile()


@pytest.fixture(scope="module")
def shelf(slow_rig: Rig) -> Shelf:
    models = {
        "gated": "sim:words=3,gate",
        "late_headers": "sim:words=3,first_ms=2200",
        "late_words": "sim:words=3,think_ms=2200",
        "silent": "sim:silent",
        "stalled": "sim:stall=0",
        "leaving": "sim:words=200,gap_ms=50",
        "unhurried": "sim:words=3,first_ms=60000",
    }
    return Shelf(slow_rig, models)


async def blocks_of(shelf: Shelf, name: str) -> AsyncIterator[bytes]:
    """Everything that a stream says, a block each, as it comes."""
    url, headers = (
        shelf.rig.url + "/v1/chat/completions",
        {**shelf.customer.headers, "Content-Type": "application/json"},
    )
    async with client() as session, session.post(url, data=shelf.body(name, stream=True), headers=headers) as response:
        assert response.status == 200
        while block := await response.content.readuntil(b"\n\n"):
            yield block


async def all_blocks(shelf: Shelf, name: str) -> list[bytes]:
    return [block async for block in blocks_of(shelf, name)]


async def test_17_a_comment_comes_while_the_provider_pauses_between_words(shelf: Shelf) -> None:
    blocks = []
    async for block in blocks_of(shelf, "gated"):
        blocks.append(block)
        if block == KEEP_ALIVE:
            await shelf.rig.provider.release(shelf.upstream["gated"])
    assert blocks[0].startswith(b"data: {")
    assert blocks[1] == KEEP_ALIVE
    assert all(block.startswith(b"data: ") for block in blocks[2:])
    assert blocks[-1] == b"data: [DONE]\n\n"


async def test_17_comments_come_before_the_first_word_even_without_headers_from_the_provider(shelf: Shelf) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    for blocks in await asyncio.gather(all_blocks(shelf, "late_headers"), all_blocks(shelf, "late_words")):
        comments = [block for block in blocks if block == KEEP_ALIVE]
        assert 1 <= len(comments) <= 3
        assert blocks[: len(comments)] == comments
        assert blocks[-1] == b"data: [DONE]\n\n"
    assert shelf.rig.spent_nano(shelf.customer) - before == 2 * Price().charge_nano(4, 3)


async def test_17_after_comments_a_provider_that_stays_silent_becomes_an_error_in_the_stream(shelf: Shelf) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    for blocks in await asyncio.gather(all_blocks(shelf, "silent"), all_blocks(shelf, "stalled")):
        *comments, last = blocks
        assert comments
        assert set(comments) == {KEEP_ALIVE}
        assert last.startswith(b'data: {"error":{')
        assert b"upstream_unavailable" in last
    assert shelf.rig.spent_nano(shelf.customer) == before


async def test_17_the_official_client_reads_past_comments_and_whole_answers_have_none(shelf: Shelf) -> None:
    async def words() -> str:
        async with AsyncOpenAI(api_key=shelf.customer.key, base_url=shelf.rig.url + "/v1") as openai:
            stream = await openai.chat.completions.create(model=shelf.alias["late_words"], messages=HELLO, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    text, answer = await asyncio.gather(words(), shelf.chat("late_headers"))
    assert text == "Thank you for"
    assert answer.status == 200
    assert answer.body.startswith(b'{"id"')


# ── 26: disconnects ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
async def test_26_a_client_that_leaves_before_any_output_is_noticed_at_once_and_pays_nothing(
    shelf: Shelf, stream: bool
) -> None:
    rig, before, seen = shelf.rig, shelf.rig.spent_nano(shelf.customer), len(await shelf.calls("unhurried"))
    session = aiohttp.ClientSession()
    headers = {**shelf.customer.headers, "Content-Type": "application/json"}
    asking = session.post(
        rig.url + "/v1/chat/completions", data=shelf.body("unhurried", stream=stream), headers=headers, timeout=None
    )
    task = asyncio.ensure_future(asking)
    await rig.provider.wait(shelf.upstream["unhurried"], count=seen + 1)
    task.cancel()
    await session.close()
    # The provider would begin after a minute, and its timeout is three seconds away.
    await rig.provider.wait(shelf.upstream["unhurried"], count=seen + 1, state="left", timeout=2)
    await rig.settled(shelf.customer)
    assert rig.spent_nano(shelf.customer) == before


async def test_26_a_client_that_leaves_during_output_is_noticed_while_the_provider_is_still_talking(
    shelf: Shelf,
) -> None:
    """The whole answer would take ten seconds; it is read on for two, then cut and charged by estimate."""
    blocks = blocks_of(shelf, "leaving")
    assert (await anext(blocks)).startswith(b"data: {")
    await blocks.aclose()
    (call,) = await shelf.rig.provider.wait(shelf.upstream["leaving"], state="left", timeout=6)
    await shelf.rig.settled(shelf.customer)
    assert 1 < call["events_sent"] < 150
    (record,) = [one for one in shelf.rig.records(shelf.customer) if one["outcome"] == "left" and one["charge_nano"]]
    assert record["estimated"]
    assert 0 < record["output_tokens"] <= call["events_sent"] * 2
