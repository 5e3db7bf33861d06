"""The official Python client against the gateway: whole and streamed, sync and async, and every class of error."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.clients.shelf import HELLO, Shelf
from tests.rig import Price, Rig

TOOL = {
    "type": "function",
    "function": {"name": "note", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def shelf(rig: Rig) -> Iterator[Shelf]:
    models = {
        "plain": "sim:words=7",
        "tools": "sim:words=4,tools",
        "reasoning": "sim:words=6,reasoning_text",
        "broken": "sim:status=500",
        "flaky": "sim:words=3,flaky=1",
        "refused": "sim:status=400,error_code=context_length_exceeded",
        "unprocessable": "sim:status=422",
        "cut": "sim:words=6,cut=3,gap_ms=10",
        "error_event": "sim:words=6,error_event=3,gap_ms=10",
        "untold": "sim:words=5,usage=none",
    }
    yield Shelf(rig, models)
    rig.reconcile()


class Counted(openai.DefaultHttpxClient):
    """Counts what goes over the wire, the retries that nobody sees included."""

    def __init__(self) -> None:
        self.sent_at: list[float] = []
        super().__init__(event_hooks={"request": [lambda _: self.sent_at.append(time.monotonic())]})


@pytest.fixture
def counted() -> Iterator[Counted]:
    with Counted() as client:
        yield client


def client_of(shelf: Shelf, key: str | None = None, **options: Any) -> OpenAI:
    return OpenAI(api_key=key or shelf.customer.key, base_url=shelf.rig.url + "/v1", timeout=20, **options)


@pytest.fixture
def client(shelf: Shelf) -> Iterator[OpenAI]:
    with client_of(shelf) as made:
        yield made


# ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_whole_answer_and_the_balance_falls_by_price_times_tokens(shelf: Shelf, client: OpenAI) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    raw = client.chat.completions.with_raw_response.create(model=shelf.alias["plain"], messages=HELLO, max_tokens=160)
    answer = raw.parse()
    assert answer.model == shelf.alias["plain"]
    assert answer.choices[0].message.content == "Thank you for telling me: Hello It"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    charge = Price().charge_nano(answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert shelf.rig.spent_nano(shelf.customer) - before == charge
    assert Decimal(raw.headers["x-credits-charged"]) * 10**9 == charge
    assert answer._request_id == raw.headers["x-request-id"]


def test_a_stream_with_its_usage_and_cost(shelf: Shelf, client: OpenAI) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    stream = client.chat.completions.create(
        model=shelf.alias["plain"], messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Thank you for telling me: Hello It"
    assert not last.choices
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (4, 7)
    charged = shelf.rig.spent_nano(shelf.customer) - before
    assert charged == Price().charge_nano(4, 7)
    assert Decimal(last.usage.to_dict()["cost_credits"]) * 10**9 == charged


async def test_async_whole_and_streamed_many_at_once(shelf: Shelf) -> None:
    async def whole(client: AsyncOpenAI) -> str:
        answer = await client.chat.completions.create(model=shelf.alias["plain"], messages=HELLO)
        return answer.choices[0].message.content or ""

    async def streamed(client: AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model=shelf.alias["plain"], messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    before = shelf.rig.spent_nano(shelf.customer)
    async with AsyncOpenAI(api_key=shelf.customer.key, base_url=shelf.rig.url + "/v1") as client:
        texts = await asyncio.gather(*(call(client) for call in [whole, streamed] * 10))
    assert set(texts) == {"Thank you for telling me: Hello It"}
    assert shelf.rig.spent_nano(shelf.customer) - before == 20 * Price().charge_nano(4, 7)


def test_the_streaming_helper_puts_the_whole_answer_together(shelf: Shelf, client: OpenAI) -> None:
    with client.chat.completions.stream(model=shelf.alias["plain"], messages=HELLO) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Thank you for telling me: Hello It"
    assert [event.type for event in events].count("content.done") == 1


def test_tools_whole_and_streamed(shelf: Shelf, client: OpenAI) -> None:
    model = shelf.alias["tools"]
    answer = client.chat.completions.create(model=model, messages=HELLO, tools=[TOOL], tool_choice="required")
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    with client.chat.completions.stream(model=model, messages=HELLO, tools=[TOOL]) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or []
    for one in (call, streamed):
        assert one.type == "function"
        assert one.function.name == "note"
        assert json.loads(one.function.arguments) == {"text": "Thank you for telling"}
    messages = [*HELLO, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "42"}]
    assert client.chat.completions.create(model=shelf.alias["plain"], messages=messages, tools=[TOOL]).choices


def test_two_choices_whole_and_streamed_are_both_charged(shelf: Shelf, client: OpenAI) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    answer = client.chat.completions.create(model=shelf.alias["plain"], messages=HELLO, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    texts = ["", ""]
    for chunk in client.chat.completions.create(model=shelf.alias["plain"], messages=HELLO, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]
    assert shelf.rig.spent_nano(shelf.customer) - before == 2 * Price().charge_nano(4, 14)


async def test_json_mode_and_the_other_parameters_reach_the_provider(shelf: Shelf) -> None:
    given: dict[str, Any] = {
        "response_format": {"type": "json_object"}, "temperature": 0, "top_p": 0.5, "seed": 7, "stop": ["END"],
        "presence_penalty": 0.1, "frequency_penalty": -0.1, "logit_bias": {"1": -100}, "logprobs": True,
        "top_logprobs": 2, "user": "ada", "reasoning_effort": "low", "max_completion_tokens": 99,
        "parallel_tool_calls": False, "metadata": {"a": "b"}, "store": False,
    }  # fmt: skip
    async with AsyncOpenAI(api_key=shelf.customer.key, base_url=shelf.rig.url + "/v1") as client:
        await client.chat.completions.create(
            model=shelf.alias["plain"],
            messages=HELLO,
            extra_body={"top_k": 40, "thinking": {"type": "disabled"}},
            **given,
        )
    sent = (await shelf.last_call("plain"))["body"]
    expected = {
        **given,
        "top_k": 40,
        "thinking": {"type": "disabled"},
        "messages": HELLO,
        "model": shelf.upstream["plain"],
    }
    assert sent == expected


def test_reasoning_is_there_beside_the_content(shelf: Shelf, client: OpenAI) -> None:
    message = client.chat.completions.create(model=shelf.alias["reasoning"], messages=HELLO).choices[0].message
    stream = client.chat.completions.create(model=shelf.alias["reasoning"], messages=HELLO, stream=True)
    deltas = [chunk.choices[0].delta.to_dict() for chunk in stream]
    assert message.to_dict()["reasoning_content"] == "Thank you for"
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Thank you for"
    assert "".join(delta.get("content") or "" for delta in deltas) == message.content


def test_usage_is_there_even_if_the_provider_told_none(shelf: Shelf, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=shelf.alias["untold"], messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    usage = list(stream)[-1].usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0


def test_models_are_listed_and_shown(shelf: Shelf, client: OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert listed == {alias for name, alias in shelf.alias.items()}
    assert client.models.retrieve(shelf.alias["plain"]).id == shelf.alias["plain"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such/model")


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
def test_each_error_has_its_class_and_what_cannot_be_mended_is_sent_once(
    shelf: Shelf, counted: Counted, stream: bool
) -> None:
    poor = shelf.rig.customer(credits="0", models=[shelf.alias["plain"]])
    good = shelf.customer.key
    cases: list[tuple[type[openai.APIStatusError], int, str, str, str]] = [
        (openai.AuthenticationError, 401, "invalid_api_key", "sk-wrong-0123456789abcdef", shelf.alias["plain"]),
        (openai.APIStatusError, 402, "insufficient_credits", poor.key, shelf.alias["plain"]),
        (openai.PermissionDeniedError, 403, "model_not_allowed", good, "no-such-model"),
        (openai.BadRequestError, 400, "context_length_exceeded", good, shelf.alias["refused"]),
        (openai.UnprocessableEntityError, 422, "invalid_request", good, shelf.alias["unprocessable"]),
    ]
    for kind, status, code, key, model in cases:
        counted.sent_at.clear()
        api = client_of(shelf, key, http_client=counted, max_retries=5)
        with pytest.raises(kind) as caught:
            api.chat.completions.create(model=model, messages=HELLO, stream=stream)
        error = caught.value
        assert (error.status_code, error.code) == (status, code)
        assert error.request_id
        assert isinstance(error.body, dict)
        assert error.body["message"] in str(error)
        assert len(counted.sent_at) == 1, kind


def test_a_rate_limit_is_waited_for_as_long_as_we_say(shelf: Shelf, counted: Counted) -> None:
    customer = shelf.rig.customer(models=[shelf.alias["plain"]])
    shelf.rig.desk.limits.set(key=customer.key_id, unit="requests", quota=1, window_s=2)
    shelf.rig.settle_feed()
    hasty = client_of(shelf, customer.key, http_client=counted, max_retries=0)
    hasty.chat.completions.create(model=shelf.alias["plain"], messages=HELLO)
    with pytest.raises(openai.RateLimitError) as caught:
        hasty.chat.completions.create(model=shelf.alias["plain"], messages=HELLO)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] in ("1", "2")
    patient = client_of(shelf, customer.key, http_client=counted)
    counted.sent_at.clear()
    assert patient.chat.completions.create(model=shelf.alias["plain"], messages=HELLO).choices
    refused, served = counted.sent_at
    assert 1 <= served - refused < 3
    assert len(shelf.rig.records(customer)) == 2


async def test_an_outage_is_retried_twice_at_most_and_never_charged(shelf: Shelf, counted: Counted) -> None:
    calls, before = len(await shelf.calls("broken")), shelf.rig.spent_nano(shelf.customer)

    def call() -> None:
        with pytest.raises(openai.InternalServerError) as caught:
            client_of(shelf, http_client=counted).chat.completions.create(model=shelf.alias["broken"], messages=HELLO)
        assert (caught.value.status_code, caught.value.code) == (502, "upstream_unavailable")

    await asyncio.to_thread(call)
    assert len(counted.sent_at) == 3
    assert len(await shelf.calls("broken")) - calls == 3
    assert shelf.rig.spent_nano(shelf.customer) == before


async def test_an_outage_that_passes_is_not_even_seen(shelf: Shelf, counted: Counted) -> None:
    api = client_of(shelf, http_client=counted)
    answer = await asyncio.to_thread(api.chat.completions.create, model=shelf.alias["flaky"], messages=HELLO)
    assert answer.choices[0].message.content == "Thank you for"
    assert len(counted.sent_at) == 2
    assert [call["state"] for call in await shelf.calls("flaky")] == ["failed", "served"]


@pytest.mark.parametrize("name", ["cut", "error_event"])
def test_a_stream_that_breaks_off_raises_and_costs_nothing(shelf: Shelf, client: OpenAI, name: str) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    words: list[str | None] = []

    def read() -> None:
        for chunk in client.chat.completions.create(model=shelf.alias[name], messages=HELLO, stream=True):
            words.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError) as caught:
        read()
    assert words == ["Thank", " you", " for"]
    assert "not charged" in caught.value.message
    assert caught.value.code == "upstream_unavailable"
    assert shelf.rig.spent_nano(shelf.customer) == before


def test_the_responses_api_says_what_to_use_instead(shelf: Shelf, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="chat completions"):
        client.responses.create(model=shelf.alias["plain"], input="Hello")


async def test_leaving_a_stream_early_leaves_the_connection_usable_for_others(shelf: Shelf) -> None:
    async with AsyncOpenAI(api_key=shelf.customer.key, base_url=shelf.rig.url + "/v1") as client:
        for _ in range(3):
            stream = await client.chat.completions.create(model=shelf.alias["plain"], messages=HELLO, stream=True)
            async for _chunk in stream:
                break
            await stream.close()
        answer = await client.chat.completions.create(model=shelf.alias["plain"], messages=HELLO)
        assert answer.choices
    await shelf.rig.settled(shelf.customer)
