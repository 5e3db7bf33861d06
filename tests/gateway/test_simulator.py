"""The simulated provider does over real HTTP what its table of options promises, so that other tests can trust it."""

import asyncio
import gzip
import json
import math
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.simulator import (
    Options,
    RunningSimulator,
    answer_words,
    count_prompt_tokens,
    describe_options,
    parse_options,
    serve_simulator,
)
from gateway.simulator.call_log import MOST_BODY_BYTES, MOST_CALLS, CallLog

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "red green blue"}]
PROMPT_TOKENS = 2 + 3 + 3 + 3


@dataclass
class Provider:
    """A running simulator and a client for it."""

    simulator: RunningSimulator
    http: aiohttp.ClientSession

    def ask(self, model: str, **more: Any) -> Any:
        body = {"model": model, "messages": MESSAGES} | more
        url = f"{self.simulator.base_url}/chat/completions"
        return self.http.post(url, json=body, headers={"Authorization": "Bearer key-of-ours"}, allow_redirects=False)

    def stream(self, model: str, **more: Any) -> Any:
        return self.ask(model, **({"stream": True, "stream_options": {"include_usage": True}} | more))

    async def document(self, model: str, **more: Any) -> Any:
        async with self.ask(model, **more) as response:
            return json.loads(await response.read())

    async def raw(self, model: str, **more: Any) -> bytes:
        async with self.stream(model, **more) as response:
            return bytes(await response.read())

    async def chunks(self, model: str, **more: Any) -> list[Any]:
        """The events of a whole stream, [DONE] as None."""
        return parse_events(await self.raw(model, **more))

    async def call(self, model: str, state: str, count: int = 1) -> Any:
        query = {"model": model, "state": state, "count": str(count)}
        async with self.http.get(f"{self.simulator.url}/calls/wait", params=query) as response:
            assert response.status == 200, await response.text()
            return (await response.json())[-1]

    async def release(self, model: str) -> Any:
        response = await self.http.post(f"{self.simulator.url}/release", params={"model": model})
        return (await response.json())["released"]


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[Provider]:
    simulator = await serve_simulator()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(auto_decompress=False, read_bufsize=2**24, connector=connector) as http:
        yield Provider(simulator, http)
    await simulator.close()


def parse_events(raw: bytes) -> list[Any]:
    data = [line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith(b"data: ")]
    return [None if one == b"[DONE]" else json.loads(one) for one in data]


def text_of(chunks: list[Any], key: str = "content", index: int = 0) -> str:
    choices = [choice for chunk in chunks if chunk for choice in chunk.get("choices") or []]
    return "".join(choice["delta"].get(key) or "" for choice in choices if choice.get("index") == index)


async def read_until_broken(response: aiohttp.ClientResponse) -> bytes:
    received = b""
    try:
        async for piece in response.content.iter_any():
            received += piece
    except (aiohttp.ClientPayloadError, aiohttp.ClientOSError):
        return received
    raise AssertionError("the answer ended as if it were whole")


async def test_a_plain_answer_echoes_the_question_and_counts_honestly(provider: Provider) -> None:
    document = await provider.document("sim")
    content = document["choices"][0]["message"]["content"]
    assert content == " ".join(answer_words(MESSAGES, 12))
    assert "red green blue" in content
    assert (document["choices"][0]["finish_reason"], document["model"]) == ("stop", "sim")
    usage = document["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] == PROMPT_TOKENS + 12
    assert count_prompt_tokens(MESSAGES) == PROMPT_TOKENS
    call = await provider.call("sim", "served")
    assert call["usage"] == {"prompt": 11, "cached": 0, "written": 0, "completion": 12, "reasoning": 0}
    assert call["reported"] == [usage]
    assert call["headers"]["authorization"] == "Bearer key-of-ours"
    assert call["body"] == json.loads(call["body_text"]) == {"model": "sim", "messages": MESSAGES}


async def test_a_stream_has_an_event_for_each_word_then_finish_usage_and_done(provider: Provider) -> None:
    async with provider.stream("sim:words=5") as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Transfer-Encoding"] == "chunked"
        pieces = [piece async for piece, _ in response.content.iter_chunks() if piece]
    assert len(pieces) == 8
    assert pieces[0].startswith(b'data: {"id":"chatcmpl-sim-')
    *words, finish, usage, done = parse_events(b"".join(pieces))
    assert text_of(words) == " ".join(answer_words(MESSAGES, 5))
    assert words[0]["choices"][0]["delta"]["role"] == "assistant"
    assert finish["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert usage["choices"] == []
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (PROMPT_TOKENS, 5)
    assert done is None
    assert len({chunk["id"] for chunk in [*words, finish, usage]}) == 1
    assert (await provider.call("sim:words=5", "served"))["events_sent"] == 7


async def test_a_stream_reports_usage_only_when_asked(provider: Provider) -> None:
    chunks = await provider.chunks("sim", stream_options=None)
    assert all("usage" not in chunk for chunk in chunks if chunk)
    assert (await provider.call("sim", "served"))["usage"]["completion"] == 12


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_a_bound_on_tokens_shortens_the_answer(provider: Provider, field: str) -> None:
    document = await provider.document("sim", **{field: 4})
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["usage"]["completion_tokens"] == 4
    assert (await provider.chunks("sim", **{field: 4}))[4]["choices"][0]["finish_reason"] == "length"


async def test_every_choice_is_answered_and_counted(provider: Provider) -> None:
    document = await provider.document("sim:words=4", n=3)
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2]
    chunks = await provider.chunks("sim:words=4", n=3)
    assert len({text_of(chunks, index=index) for index in range(3)}) == 1
    assert document["usage"]["completion_tokens"] == chunks[-2]["usage"]["completion_tokens"] == 12


async def test_tool_calls_and_reasoning(provider: Provider) -> None:
    tools = [{"type": "function", "function": {"name": "paint"}}]
    document = await provider.document("sim:words=3,tools", tools=tools)
    function = document["choices"][0]["message"]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("paint", {"text": "Thank you for"})
    chunks = await provider.chunks("sim:words=3,tools", tools=tools)
    pieces = [chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] for chunk in chunks[:3]]
    assert "".join(pieces) == function["arguments"]
    assert chunks[3]["choices"][0]["finish_reason"] == "tool_calls"
    reasoned = await provider.chunks("sim:words=5,reasoning_text")
    assert (text_of(reasoned, "reasoning_content"), text_of(reasoned)) == ("Thank you", "for telling me:")
    assert reasoned[-2]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert reasoned[-2]["usage"]["completion_tokens"] == 5


async def test_an_order_is_obeyed_once_and_the_tools_answer_is_told(provider: Provider) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("paint", "read")]
    order = {"role": "user", "content": 'Please CALL read {"path": "a b.txt", "n": 1}, then tell me.'}
    document = await provider.document("sim:obey", messages=[order], tools=tools)
    chunks = await provider.chunks("sim:obey", messages=[order], tools=tools)
    message = document["choices"][0]["message"]
    deltas = [choice["delta"] for chunk in chunks if chunk for choice in chunk["choices"]]
    streamed = "".join(call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", []))
    assert message["tool_calls"][0]["function"]["name"] == "read"
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == json.loads(streamed)
    assert json.loads(streamed) == {"path": "a b.txt", "n": 1}
    answered = [order, message, {"role": "tool", "tool_call_id": "c", "content": "lemons"}]
    for messages, named in ((answered, tools), ([order], tools[:1]), ([order], [])):
        document = await provider.document("sim:obey", messages=messages, tools=named)
        assert document["choices"][0]["finish_reason"] == "stop"
    told = (await provider.document("sim:obey", messages=answered, tools=tools))["choices"][0]["message"]["content"]
    assert told.startswith("Thank you for telling me: lemons")


async def test_json_mode_says_its_words_in_an_object(provider: Provider) -> None:
    document = await provider.document("sim:words=3,json")
    chunks = await provider.chunks("sim:words=3,json")
    streamed = "".join(choice["delta"].get("content", "") for chunk in chunks if chunk for choice in chunk["choices"])
    assert json.loads(document["choices"][0]["message"]["content"]) == json.loads(streamed) == {"text": "Thank you for"}


async def test_delays_come_where_they_were_asked_for(provider: Provider) -> None:
    clock = asyncio.get_running_loop().time
    begun = clock()
    async with provider.stream("sim:words=2,first_ms=60,think_ms=60,gap_ms=60") as response:
        headers_s = clock() - begun
        first = await response.content.readany()
        first_s = clock() - begun
        await response.read()
    assert first.count(b"data:") == 1
    assert 0.06 <= headers_s < first_s - 0.05
    assert clock() - begun >= first_s + 0.1


@pytest.mark.parametrize(
    ("options", "status", "kind", "body"),
    [
        ("status=400,error_code=context_length_exceeded", 400, "application/json", '"code":"context_length_exceeded"'),
        ("status=429,retry_after=7", 429, "application/json", '"type":"invalid_request_error"'),
        ("status=401,echo_key", 401, "application/json", "key-of-ours"),
        ("status=503,body=html", 503, "text/html", "<h1>503</h1>"),
        ("status=500,body=json", 500, "application/json", '{"detail":'),
        ("body=string", 200, "application/json", '{"error":"'),
        ("error_body", 200, "application/json", '{"error":{'),
        ("redirect", 302, "application/octet-stream", ""),
        ("status=502,body=empty", 502, "application/octet-stream", ""),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors(provider: Provider, options: str, status: int, kind: str, body: str, stream: bool) -> None:
    async with provider.ask(f"sim:{options}", stream=stream) as response:
        text = await response.text()
        assert (response.status, response.content_type) == (status, kind)
        assert body in text if body else not text
        assert response.headers.get("Retry-After") == ("7" if "retry_after" in options else None)
    assert (await provider.call(f"sim:{options}", "failed"))["usage"] is None


async def test_flaky_fails_first_and_flap_alternates(provider: Provider) -> None:
    async def statuses(model: str, calls: int) -> list[int]:
        return [(await provider.ask(model)).status for _ in range(calls)]

    assert await statuses("sim:flaky=2,status=503", 4) == [503, 503, 200, 200]
    assert await statuses("sim:flap=1", 4) == [500, 200, 500, 200]
    assert await statuses("sim:flaky=1,tag=other", 2) == [500, 200]
    with pytest.raises(aiohttp.ClientError):
        await statuses("sim:flaky=1,reset", 1)
    assert await statuses("sim:flaky=1,reset", 1) == [200]


@pytest.mark.parametrize("stream", [False, True])
async def test_reset_breaks_the_connection_unanswered(provider: Provider, stream: bool) -> None:
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await provider.ask("sim:reset", stream=stream)
    assert (await provider.call("sim:reset", "cut"))["events_sent"] == 0


@pytest.mark.parametrize("options", ["words=60,cut=40", "words=60,cut=40,reset", "cut=0"])
async def test_a_cut_stream_ends_after_its_events_without_an_end(provider: Provider, options: str) -> None:
    events = 40 if "40" in options else 0
    async with provider.stream(f"sim:{options}") as response:
        received = await read_until_broken(response)
    assert len(parse_events(received)) == events
    call = await provider.call(f"sim:{options}", "cut")
    assert (call["events_sent"], call["usage"]["completion"]) == (events, events)


async def test_a_cut_document_is_shorter_than_announced(provider: Provider) -> None:
    async with provider.ask("sim:cut=1") as response:
        received = await read_until_broken(response)
        assert int(response.headers["Content-Length"]) == len(received) + 100
    await provider.call("sim:cut=1", "cut")


@pytest.mark.parametrize(
    ("options", "stream"),
    [("silent", True), ("silent", False), ("stall=3", True), ("stall=3", False), ("think_ms=60000", True)],
)
async def test_silence_lasts_until_the_client_leaves(provider: Provider, options: str, stream: bool) -> None:
    model = f"sim:{options}"
    asking = asyncio.create_task(provider.raw(model) if stream else provider.document(model))
    await provider.call(model, "open")
    done, _ = await asyncio.wait([asking], timeout=0.1)
    assert not done
    asking.cancel()
    call = await provider.call(model, "left")
    assert call["events_sent"] == (3 if stream and "stall" in options else 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_endless_line_has_no_newline(provider: Provider, stream: bool) -> None:
    async with provider.ask("sim:endless_line", stream=stream) as response:
        assert b"\n" not in await response.content.readexactly(1_000_000)
        response.close()
    await provider.call("sim:endless_line", "left")


async def test_an_error_event_ends_the_stream(provider: Provider) -> None:
    chunks = await provider.chunks("sim:error_event=2,error_code=overloaded")
    assert len(chunks) == 3
    assert chunks[2]["error"]["code"] == "overloaded"
    await provider.call("sim:error_event=2,error_code=overloaded", "failed")
    assert "error" in await provider.document("sim:error_event=2")


async def test_streams_that_end_oddly(provider: Provider) -> None:
    assert None not in await provider.chunks("sim:no_done")
    unfinished = await provider.chunks("sim:no_finish")
    assert len(unfinished) == 12
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in unfinished)
    await provider.call("sim:no_finish", "cut")
    async with provider.stream("sim:json_for_sse") as response:
        assert response.content_type == "application/json"
        assert (await response.json())["object"] == "chat.completion"
    finishes = [chunk for chunk in await provider.chunks("sim:dup_finish") if chunk and chunk["choices"]]
    assert [chunk["choices"][0]["finish_reason"] for chunk in finishes][-3:] == [None, "stop", "stop"]


NUMBERS = "prompt=100,cached=60,written=10,completion=50,reasoning=20"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("openai", {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}),
        ("deepseek", {"prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 40, "completion_tokens": 50}),
        ("anthropic", {"input_tokens": 30, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 10}),
        ("xai", {"completion_tokens": 30, "total_tokens": 150}),
        ("gemini", {"completion_tokens": 30, "total_tokens": 150}),
        ("total_only", {"completion_tokens": 30, "total_tokens": 150}),
        ("zero", {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        ("negative", {"prompt_tokens": -100, "completion_tokens": -50}),
        ("bool", {"prompt_tokens": True, "completion_tokens": True}),
        ("string", {"prompt_tokens": "100", "completion_tokens": "50"}),
        ("huge", {"prompt_tokens": 1e30, "completion_tokens": 1e30}),
        ("cached_above_prompt", {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 200}}),
    ],
)
async def test_usage_shapes_report_the_same_truth(provider: Provider, shape: str, expected: dict[str, Any]) -> None:
    model = f"sim:usage={shape},{NUMBERS}"
    usage = (await provider.document(model))["usage"]
    assert usage.items() >= expected.items()
    last = (await provider.chunks(model))[-2]
    assert (last["choices"], last["usage"]) == ([], usage)
    call = await provider.call(model, "served", count=2)
    assert call["usage"] == {"prompt": 100, "cached": 60, "written": 10, "completion": 50, "reasoning": 20}


async def test_usage_that_is_missing_or_comes_in_odd_places(provider: Provider) -> None:
    assert "usage" not in await provider.document("sim:usage=none")
    assert all("usage" not in chunk for chunk in await provider.chunks("sim:usage=none") if chunk)
    running = await provider.chunks("sim:words=3,usage=cumulative", stream_options=None)
    assert [chunk["usage"]["completion_tokens"] for chunk in running[:-1]] == [1, 2, 3, 3]
    scaled = await provider.chunks("sim:words=10,usage=cumulative,completion=100")
    assert [chunk["usage"]["completion_tokens"] for chunk in scaled[:-1]] == [*range(10, 101, 10), 100]
    riding = await provider.chunks("sim:usage=with_choices", stream_options=None)
    assert riding[-2]["choices"][0]["finish_reason"] == "stop"
    assert riding[-2]["usage"]["completion_tokens"] == 12
    assert (await provider.chunks("sim:usage=empty_choice"))[-2]["choices"] == [{}]
    twice = await provider.chunks("sim:usage=twice")
    assert twice[-2] == twice[-3]
    assert math.isnan((await provider.document("sim:usage=nan"))["usage"]["prompt_tokens"])
    assert (await provider.call("sim:usage=nan", "served"))["reported"][0]["prompt_tokens"] == "NaN"
    hidden = (await provider.document("sim:words=5,reasoning=7"))["usage"]
    assert (hidden["completion_tokens"], hidden["completion_tokens_details"]["reasoning_tokens"]) == (12, 7)
    nulls = await provider.chunks("sim:null_usage")
    assert [chunk["usage"] for chunk in nulls[:13]] == [None] * 13


async def test_odd_dress_on_the_wire(provider: Provider) -> None:
    assert (await provider.raw("sim:crlf")).count(b"\r\n\r\n") == 15
    assert (await provider.raw("sim:bom")).startswith(b"\xef\xbb\xbfdata: {")
    commented = await provider.raw("sim:comments")
    assert commented.startswith(b": keep\n\ndata: {")
    assert b"\n\n: keep\ndata: {" in commented
    assert (await provider.raw("sim:nospace")).endswith(b"data:[DONE]\n\n")
    assert max(map(len, (await provider.raw("sim:big_event=1500000")).splitlines())) > 1_500_000
    nulls = await provider.chunks("sim:null_choices")
    assert nulls[0]["choices"] is None
    assert "choices" not in nulls[1]
    assert "role" not in (await provider.chunks("sim:role_missing"))[0]["choices"][0]["delta"]
    varied = await provider.chunks("sim:ids=vary")
    assert len({chunk["id"] for chunk in varied if chunk}) == 14


async def test_a_character_is_split_between_two_writes(provider: Provider) -> None:
    async with provider.stream("sim:words=1,split_utf8") as response:
        pieces = [piece async for piece, _ in response.content.iter_chunks()]
    with pytest.raises(UnicodeDecodeError):
        pieces[0].decode()
    assert text_of(parse_events(b"".join(pieces))) == "naïve"


@pytest.mark.parametrize("stream", [False, True])
async def test_gzip_comes_unasked(provider: Provider, stream: bool) -> None:
    async with provider.ask("sim:gzip", stream=stream) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        plain = gzip.decompress(await response.read())
    assert plain.startswith(b'data: {"id"' if stream else b'{"id"')
    assert plain.endswith(b"data: [DONE]\n\n" if stream else b"}")


async def test_gated_streams_wait_for_their_release(provider: Provider) -> None:
    responses = await asyncio.gather(*(provider.stream("sim:gate") for _ in range(50)))
    firsts = await asyncio.gather(*(response.content.readuntil(b"\n\n") for response in responses))
    assert all(first.startswith(b"data: ") for first in firsts)
    assert (await provider.call("sim:gate", "open", count=50))["events_sent"] == 1
    assert await provider.release("sim:another") == 0
    assert await provider.release("sim:gate") == 50
    rests = await asyncio.gather(*(response.read() for response in responses))
    assert all(rest.endswith(b"data: [DONE]\n\n") for rest in rests)
    asking = asyncio.create_task(provider.document("sim:gate,tag=json"))
    await provider.call("sim:gate,tag=json", "open")
    await provider.release("sim:gate,tag=json")
    assert (await asking)["object"] == "chat.completion"


async def test_a_thousand_streams_at_once(provider: Provider) -> None:
    model = "sim:words=3,gate,tag=crowd"
    reading = [asyncio.create_task(provider.raw(model)) for _ in range(1000)]
    await provider.call(model, "open", count=1000)
    assert await provider.release(model) == 1000
    streams = await asyncio.gather(*reading)
    assert all(one.endswith(b"data: [DONE]\n\n") for one in streams)
    await provider.call(model, "served", count=1000)


async def test_scripts_are_replayed_to_the_byte(provider: Provider) -> None:
    async def upload(name: str, script: object) -> int:
        return (await provider.http.put(f"{provider.simulator.url}/scripts/{name}", json=script)).status

    chunks = [{"text": "data: ü\r"}, {"base64": "AP8=", "after_ms": 5}]
    assert await upload("odd", {"status": 203, "headers": {"X-Odd": "1"}, "chunks": chunks}) == 204
    async with provider.stream("script:odd") as response:
        assert (response.status, response.headers["X-Odd"]) == (203, "1")
        assert await response.read() == "data: ü\r".encode() + b"\x00\xff"
    assert (await provider.call("script:odd", "served"))["events_sent"] == 2
    await upload("torn", {"chunks": chunks, "then": "abort"})
    async with provider.ask("script:torn") as response:
        assert (await read_until_broken(response)).endswith(b"\x00\xff")
    await provider.call("script:torn", "cut")
    await upload("hung", {"chunks": chunks, "then": "hang"})
    async with provider.ask("script:hung") as response:
        await response.content.readexactly(11)
        response.close()
    await provider.call("script:hung", "left")
    assert await upload("bad", {"chunks": [{}]}) == 400
    assert await upload("bad", {"then": "explode"}) == 400
    assert (await provider.document("script:unknown"))["error"]["code"] == "model_not_found"


async def test_the_log_can_be_filtered_cleared_and_left_out(provider: Provider) -> None:
    async def calls(**query: str) -> Any:
        return await (await provider.http.get(f"{provider.simulator.url}/calls", params=query)).json()

    for model in ("sim", "sim:words=2", "sim:calls=off", "nobody"):
        await provider.document(model)
    assert [call["model"] for call in await calls()] == ["sim", "sim:words=2", "nobody"]
    assert [call["state"] for call in await calls(model="nobody")] == ["failed"]
    assert len(await calls(state="served")) == 2
    await (await provider.http.delete(f"{provider.simulator.url}/calls", params={"model": "sim"})).read()
    assert [call["n"] for call in await calls()] == [2, 4]
    await (await provider.http.delete(f"{provider.simulator.url}/calls")).read()
    assert await calls() == []
    query = {"model": "sim", "count": "2", "timeout": "0.01"}
    async with provider.http.get(f"{provider.simulator.url}/calls/wait", params=query) as response:
        assert response.status == 408
        assert "0 of 2 calls" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"model": "sim:wrods=3", "messages": MESSAGES}, 400, "wrods"),
        ({"model": "sim:words=many", "messages": MESSAGES}, 400, "words"),
        ({"model": "sim:words=-1", "messages": MESSAGES}, 400, "words"),
        ({"model": "sim:usage=odd", "messages": MESSAGES}, 400, "usage"),
        ({"model": "sim:crlf=yes", "messages": MESSAGES}, 400, "crlf"),
        ({"model": "gpt", "messages": MESSAGES}, 404, "gpt"),
        ({"model": "sim", "messages": []}, 400, "messages"),
        ({"model": "sim", "messages": MESSAGES, "n": 0}, 400, "n"),
        ({"messages": MESSAGES}, 400, "model"),
        ([], 400, "object"),
    ],
)
async def test_bad_requests_are_refused_by_name(provider: Provider, body: object, status: int, named: str) -> None:
    response = await provider.http.post(f"{provider.simulator.url}/chat/completions", json=body)
    assert response.status == status
    assert named in (await response.json())["error"]["message"]


async def test_models_health_and_unknown_paths(provider: Provider) -> None:
    async def get(path: str) -> tuple[int, Any]:
        response = await provider.http.get(provider.simulator.url + path)
        return response.status, await response.json()

    assert [model["id"] for model in (await get("/v1/models"))[1]["data"]] == ["sim"]
    assert (await get("/healthz"))[0] == 200
    assert (await get("/nowhere"))[1]["error"]["code"] == "not_found"
    assert (await get("/v1/chat/completions"))[0] == 405


async def test_the_command_prints_its_address_and_ends_on_sigterm() -> None:
    program = "from gateway.simulator import run_simulator; run_simulator('127.0.0.1', 0)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert re.fullmatch(r"simulated provider on http://127\.0\.0\.1:[0-9]+/v1\n", line)
    async with aiohttp.ClientSession() as http, http.get(f"{line.split()[-1]}/models") as response:
        assert response.status == 200
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 5) == 0


def test_the_log_keeps_the_latest_calls_only() -> None:
    log = CallLog()
    for _ in range(MOST_CALLS + 3):
        log.open("sim", {}, b"{}")
    assert (len(log.find()), log.find()[0].n) == (MOST_CALLS, 4)
    half = bytes(MOST_BODY_BYTES // 2 + 1)
    assert [log.open("sim", {}, half).n for _ in range(2)][1:] == [call.n for call in log.find()]


def test_the_table_names_every_option_and_the_parser_takes_each() -> None:
    table = describe_options()
    for option in fields(Options):
        kind = option.metadata["kind"]
        value = {"": "", "N": "=7", "TEXT": "=word"}.get(kind) or f"={kind.split('|')[0]}" * bool(kind)
        assert f"\n  {option.name}" in table
        assert getattr(parse_options(f"sim:{option.name}{value}"), option.name) is not None
