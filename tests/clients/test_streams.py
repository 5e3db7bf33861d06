"""Lines 10 to 17 of the client list: events on the wire, as strict clients need them and from whatever providers send."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from tests.clients.shelf import Shelf, strict_events
from tests.rig import Answer, Price, Rig, client

ODD = {
    "plain": "sim:words=5",
    "tools": "sim:words=5,tools",
    "reasoning": "sim:words=6,reasoning_text",
    "null_usage": "sim:words=5,null_usage",
    "usage_twice": "sim:words=5,usage=twice",
    "empty_choice": "sim:words=5,usage=empty_choice",
    "crlf": "sim:words=5,crlf",
    "bom": "sim:words=5,bom",
    "comments": "sim:words=5,comments",
    "nospace": "sim:words=5,nospace",
    "everything": "sim:words=5,crlf,bom,comments,nospace,gzip,split_utf8,ids=vary,usage=twice,dup_finish,role_missing",
    "split_utf8": "sim:words=6,split_utf8",
    "gzip": "sim:words=5,gzip",
    "null_choices": "sim:words=5,null_choices",
    "role_missing": "sim:words=5,role_missing",
    "dup_finish": "sim:words=5,dup_finish",
    "no_done": "sim:words=5,no_done",
    "ids": "sim:words=5,ids=vary",
    "cumulative": "sim:words=5,usage=cumulative",
    "with_choices": "sim:words=5,usage=with_choices",
    "no_usage": "sim:words=5,usage=none",
    "big": "sim:words=3,big_event=1500000",
}
# These send something else when usage is asked for or not, or odd frames: compared by their text alone.
DIFFERENT = {"null_choices", "role_missing", "dup_finish", "ids", "cumulative", "with_choices", "everything"}
BROKEN = {
    "cut": "sim:words=6,gap_ms=10,cut=3",
    "reset": "sim:words=6,gap_ms=10,cut=3,reset",
    "stall": "sim:words=6,gap_ms=10,stall=3",
    "error_event": "sim:words=6,gap_ms=10,error_event=3",
    "no_finish": "sim:words=6,gap_ms=10,no_finish",
}
CHUNK = '{"id":"c-1","object":"chat.completion.chunk","created":1790000000,"model":"up","choices":[%s]}'
WORD = '{"index":0,"delta":{"content":"%s"},"finish_reason":null}'
FIRST = '{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}'
LAST = '{"index":0,"delta":{},"finish_reason":"stop"}'
FINISH, DONE = f"data: {CHUNK % LAST}\n\n", "data: [DONE]\n\n"


@pytest.fixture(scope="module")
def shelf(rig: Rig) -> Iterator[Shelf]:
    yield Shelf(rig, ODD | BROKEN | {"thinking": "sim:stall=0"})
    rig.reconcile()


@asynccontextmanager
async def open_stream(shelf: Shelf, name: str, **fields: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream of which only the headers have been read."""
    headers = {**shelf.customer.headers, "Content-Type": "application/json", "Accept": "application/json"}
    body = shelf.body(name, stream=True, **fields)
    url = shelf.rig.url + "/v1/chat/completions"
    async with client() as session, session.post(url, data=body, headers=headers) as response:
        yield response


async def events_of_the_provider(shelf: Shelf, name: str, **fields: Any) -> Answer:
    """What the provider says to somebody who asks it directly, without include_usage."""
    body = json.loads(shelf.body(name, stream=True, **fields)) | {"model": shelf.upstream[name]}
    async with client() as session, session.post(shelf.rig.provider.base_url + "/chat/completions", json=body) as r:
        return Answer(r.status, dict(r.headers), await r.read())


def comparable(shelf: Shelf, name: str, data: list[bytes]) -> list[bytes]:
    """The events, but for the model's name and what differs between any two calls."""
    text = b"\n".join(data).replace(shelf.upstream[name].encode(), shelf.alias[name].encode())
    text = re.sub(rb'"created":\d+', b'"created":0', text)
    return re.sub(rb"chatcmpl-sim-\d+", b"chatcmpl-sim", text).split(b"\n")


# ── 10: headers ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_10_the_headers_are_those_of_an_event_stream_and_accept_is_not_negotiated(shelf: Shelf) -> None:
    async with open_stream(shelf, "plain") as response:
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert "content-length" not in response.headers
        assert "content-encoding" not in response.headers
        assert (await response.read()).endswith(b"data: [DONE]\n\n")


async def test_10_the_headers_go_out_before_the_first_token(shelf: Shelf) -> None:
    async with open_stream(shelf, "thinking") as response:
        assert response.status == 200
        call = await shelf.last_call("thinking")
        assert (call["state"], call["events_sent"]) == ("open", 0)


# ── 11 to 14: the shape of a whole stream ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ODD)
async def test_11_12_14_16_whatever_a_provider_sends_goes_out_in_one_dialect(shelf: Shelf, name: str) -> None:
    answer = await shelf.chat(name, stream=True)
    strict_events(answer, shelf.alias[name])
    whole = (await shelf.chat(name)).json["choices"][0]["message"]
    assert answer.text == (whole["content"] or "")
    assert len(answer.text) > 5 or name == "tools"
    assert not any(event.get("usage") for event in answer.events)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", sorted(set(ODD) - DIFFERENT - {"crlf", "bom", "comments", "nospace", "no_done"}))
async def test_9_of_the_faults_the_clients_events_equal_the_providers_without_include_usage(
    shelf: Shelf, name: str, n: int
) -> None:
    answer = await shelf.chat(name, stream=True, n=n)
    direct = await events_of_the_provider(shelf, name, n=n)
    strict_events(answer, shelf.alias[name], n=n)
    assert comparable(shelf, name, answer.data) == comparable(shelf, name, direct.data)
    assert (await shelf.last_call(name))["body"].get("stream_options") is None
    ours = [call for call in await shelf.calls(name) if call["body"].get("stream_options")]
    assert ours[-1]["body"]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("name", ODD)
async def test_13_usage_comes_once_last_and_alone_when_asked_with_the_cost_in_it(shelf: Shelf, name: str) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    answer = await shelf.chat(name, stream=True, stream_options={"include_usage": True})
    *others, last = strict_events(answer, shelf.alias[name])
    assert not any(event.get("usage") for event in others)
    assert last["choices"] == []
    usage = last["usage"]
    assert isinstance(usage["cost_credits"], str)
    charged = shelf.rig.spent_nano(shelf.customer) - before
    assert Decimal(usage["cost_credits"]) * 10**9 == charged > 0
    if name != "no_usage":
        assert charged == Price().charge_nano(usage["prompt_tokens"], usage["completion_tokens"])
        told = (await shelf.last_call(name))["reported"][-1]
        assert {key: usage[key] for key in told} == told


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
async def test_13_usage_does_not_come_unasked(shelf: Shelf, options: Any) -> None:
    answer = await shelf.chat("plain", stream=True, stream_options=options)
    assert b"usage" not in answer.body
    assert (await shelf.last_call("plain"))["body"]["stream_options"] == {"include_usage": True}


async def test_12_nothing_follows_done(shelf: Shelf) -> None:
    await shelf.script(f"data: {CHUNK % FIRST}\n\n", FINISH + DONE + f"data: {CHUNK % (WORD % 'late')}\n\n", "junk")
    answer = await shelf.chat("scripted", stream=True)
    strict_events(answer, shelf.alias["scripted"])
    assert b"late" not in answer.body


async def test_12_a_stream_that_only_says_done_still_gets_its_finish_reason(shelf: Shelf) -> None:
    await shelf.script(f"data: {CHUNK % (WORD % 'Hi')}\n\n" + DONE)
    answer = await shelf.chat("scripted", stream=True)
    assert strict_events(answer, shelf.alias["scripted"])[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "stamp", ["id: 7\n", "retry: 3000\n", "event: message\n", "event:\nid:\n", "unknown: x\nline\n"]
)
async def test_11_lines_that_are_no_data_do_not_pass(shelf: Shelf, stamp: str) -> None:
    words = "".join(f"{stamp}data: {CHUNK % (WORD % word)}\n{stamp}\n" for word in ("one", "two"))
    await shelf.script(f"{stamp}\ndata:\n\ndata: \n\n" + words + FINISH + f"{stamp}\n" + DONE)
    answer = await shelf.chat("scripted", stream=True)
    strict_events(answer, shelf.alias["scripted"])
    assert answer.text == "onetwo"


async def test_16_an_event_in_several_data_lines_is_one(shelf: Shelf) -> None:
    head, tail = (CHUNK % (WORD % "both")).split(',"object"')
    await shelf.script(f'data: {head},\ndata: "object"{tail}\n\n' + FINISH + DONE)
    answer = await shelf.chat("scripted", stream=True)
    strict_events(answer, shelf.alias["scripted"])
    assert answer.text == "both"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
async def test_16_events_may_be_cut_by_packets_at_any_byte(shelf: Shelf, newline: str) -> None:
    whole = f"data: {CHUNK % (WORD % 'é🙂')}\n\n: keep\n\ndata: {CHUNK % (WORD % 'x')}\n\n" + FINISH + DONE
    pieces = [whole.replace("\n", newline).encode()[i : i + 7] for i in range(0, len(whole) + 60, 7)]
    await shelf.script(*({"base64": _base64(piece), "after_ms": i % 9 == 0} for i, piece in enumerate(pieces) if piece))
    answer = await shelf.chat("scripted", stream=True)
    strict_events(answer, shelf.alias["scripted"])
    assert answer.text == "é🙂x"


async def test_16_half_characters_written_as_escapes_do_not_break_a_stream(shelf: Shelf) -> None:
    """A token can end within an emoji: some providers then send each half of the pair in an event of its own."""
    halves = ["a", "b", "\\ud83d", "\\ude00", "c", "\\ud83d\\ude00", "\\uD83D"]
    sent = [f"data: {CHUNK % (WORD % half)}\n\n" for half in halves]
    for pieces in (sent, ["".join(sent)]):
        await shelf.script(f"data: {CHUNK % FIRST}\n\n", *pieces, FINISH, DONE)
        answer = await shelf.chat("scripted", stream=True)
        strict_events(answer, shelf.alias["scripted"])
        assert re.fullmatch("ab..c😀.", answer.text)


EXACT = [
    '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}',
    '{"index":0,"delta":{"content":"caf\\u00e9 \\/ \\" \\\\ \\n 日本"},"logprobs":{"content":[{"token":"a","logprob":'
    '-0.10000000000000000555111512312578270,"bytes":[97],"top_logprobs":[]}]},"finish_reason":null}',
    '{"index":0,"delta":{"content":null,"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f",'
    '"arguments":"{\\"big\\": 9007199254740993123456789, \\"x\\": 1e400}"}}]},"finish_reason":null}',
    '{"index":0,"delta":{"reasoning_content":"hm"},"seen":[9007199254740993,1.0,1E5,-0.0,{"a":{}}],"finish_reason":null}',
    '{"index":0,"delta":{"refusal":"no"},"finish_reason":null}',
    '{"index":0,"delta":{},"finish_reason":"content_filter","content_filter_results":{"hate":{"filtered":true}}}',
]  # fmt: skip


async def test_16_a_well_formed_event_passes_byte_by_byte_but_for_the_alias(shelf: Shelf) -> None:
    extra = '"usage_tier":"x","obfuscation":"abc","n":123456789012345678901234567890,"provider_data":{"model":"up"},"choices"'
    events = [CHUNK.replace('"choices"', extra) % choice for choice in EXACT]
    await shelf.script(*(f"data: {event}\n\n" for event in events), DONE)
    answer = await shelf.chat("scripted", stream=True)
    alias = json.dumps(shelf.alias["scripted"])
    expected = [event.replace('"model":"up"', f'"model":{alias}', 1) for event in events]
    assert [data.decode() for data in answer.data] == [*expected, "[DONE]"]


async def test_16_events_written_with_blanks_mean_the_same_afterwards(shelf: Shelf) -> None:
    events = [json.dumps(json.loads(CHUNK % (WORD % word))) for word in ("one", "two", "three", "four")]
    await shelf.script(
        "".join(f"data: {event}\n\n" for event in events[:2]), *(f"data: {e}\n\n" for e in events[2:]), FINISH
    )
    answer = await shelf.chat("scripted", stream=True)
    strict_events(answer, shelf.alias["scripted"])
    assert answer.text == "onetwothreefour"


# ── 15: what goes wrong after the first byte ──────────────────────────────────────────────────────────────────────


def assert_broken_off(answer: Answer) -> None:
    """The error stands alone in its event, nothing follows, and nothing before it looks like an end."""
    assert answer.status == 200
    *before, last = answer.data
    assert answer.body.endswith(b"\n\ndata: " + last + b"\n\n")
    assert set(json.loads(last)) == {"error"}
    assert set(json.loads(last)["error"]) == {"message", "type", "param", "code"}
    assert json.loads(last)["error"]["code"] == "upstream_unavailable"
    assert "not charged" in json.loads(last)["error"]["message"]
    assert len(before) >= 3
    for event in map(json.loads, before):
        assert "error" not in event
        assert all(choice["finish_reason"] is None for choice in event["choices"])


@pytest.mark.parametrize("name", BROKEN)
async def test_15_a_failure_after_the_first_byte_is_one_error_event_and_the_end(shelf: Shelf, name: str) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    assert_broken_off(await shelf.chat(name, stream=True, stream_options={"include_usage": True}))
    await shelf.rig.settled(shelf.customer)
    assert shelf.rig.spent_nano(shelf.customer) == before


@pytest.mark.parametrize(
    "bad", ["data: {not json}\n\n", 'data: {"choices":[{"index":"x"}]}\n\n', 'data: {"choices":7}\n\n', "data: oops\n\n",
            'data: {"choices":[{"index":0,"delta":[]}]}\n\n', 'event: error\ndata: {"error":"overloaded"}\n\n',
            'data: {"choices":[[]]}\n\n'],
)  # fmt: skip
async def test_15_an_event_that_is_no_chunk_breaks_the_stream_off(shelf: Shelf, bad: str) -> None:
    first, *words = [f"data: {CHUNK % choice}\n\n" for choice in (FIRST, WORD % "one", WORD % "two")]
    before = shelf.rig.spent_nano(shelf.customer)
    # The words come in one packet with what breaks the stream: they are the client's all the same.
    packet = "".join(words) + bad
    await shelf.script(first, {"text": packet, "after_ms": 50}, {"text": FINISH + DONE, "after_ms": 50})
    assert_broken_off(await shelf.chat("scripted", stream=True))
    assert shelf.rig.spent_nano(shelf.customer) == before


async def test_15_an_answer_that_was_finished_before_the_error_is_whole_to_its_last_word(shelf: Shelf) -> None:
    first, last = f"data: {CHUNK % FIRST}\n\n", f"data: {CHUNK % (WORD % 'last word')}\n\n"
    await shelf.script(first, {"text": last + FINISH + 'data: {"error":{"message":"too late"}}\n\n', "after_ms": 50})
    before = shelf.rig.spent_nano(shelf.customer)
    answer = await shelf.chat("scripted", stream=True)
    strict_events(answer, shelf.alias["scripted"])
    assert answer.text == "last word"
    assert b"too late" not in answer.body
    assert shelf.rig.spent_nano(shelf.customer) > before


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()
