"""What is counted is what is billed: every provider's usage shape, streamed or not, and counts that cannot be right."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from models.prices import NANO_PER_CREDIT
from tests.faults.books import PRICE, aliases, bill_nano, record_of
from tests.faults.wire import chat_body
from tests.rig import Answer, Customer, Rig

COUNTS = "words=20,prompt=1000,cached=300,completion=50,reasoning=20"
CHARGE = PRICE.charge_nano(fresh=700, cached=300, output=50)
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module", autouse=True)
def _the_books_are_right_afterwards(rig: Rig) -> Iterator[None]:
    yield
    rig.reconcile()


async def ask_each(rig: Rig, customer: Customer, names: list[str], **fields: Any) -> list[Answer]:
    return await asyncio.gather(*(rig.chat(customer, name, **fields) for name in names))


async def test_every_usage_shape_has_the_same_bill(rig: Rig) -> None:
    """Faults 9, 10, 11, 14 and 19b: one request, counted in the words of each provider, streamed and not."""
    shapes = ["openai", "deepseek", "anthropic", "xai", "gemini", "cumulative", "with_choices", "empty_choice", "twice"]
    names = aliases(rig, *(f"sim:{COUNTS},usage={shape}" for shape in shapes))
    ada = rig.customer(models=names)
    for fields in ({}, {"stream": True}, WITH_USAGE):
        for shape, answer in zip(shapes, await ask_each(rig, ada, names, **fields), strict=True):
            assert answer.status == 200
            record = record_of(rig, ada, answer)
            meters = [record[f"{name}_tokens"] for name in ("fresh", "cached", "cache_write", "output")]
            assert (shape, meters, record["charge_nano"]) == (shape, [700, 300, 0, 50], CHARGE)
            assert not record["estimated"]
    assert rig.spent_nano(ada) == 3 * len(shapes) * CHARGE


async def test_tokens_written_to_a_cache_have_their_own_price(rig: Rig) -> None:
    names = aliases(rig, *(f"sim:{COUNTS},written=100,usage={shape}" for shape in ("openai", "anthropic", "deepseek")))
    ada = rig.customer(models=names)
    for fields in ({}, {"stream": True}):
        await ask_each(rig, ada, names, **fields)
    right = PRICE.charge_nano(fresh=600, cached=300, written=100, output=50)
    assert [record["charge_nano"] for record in rig.records(ada)] == [right] * 6


async def test_usage_is_asked_of_the_provider_and_hidden_from_who_did_not_ask(rig: Rig) -> None:
    """Faults 9: the client's events are those of the provider, had the client asked it directly."""
    model = "sim:words=12,null_usage,tag=hidden"
    [alias] = aliases(rig, model)
    ada = rig.customer(models=[alias])
    mine = await rig.chat(ada, alias, stream=True, temperature=0)
    call = (await rig.provider.calls(model))[0]
    assert call["body"]["stream_options"] == {"include_usage": True}
    bound = call["body"]["max_tokens"]
    async with aiohttp.ClientSession() as session:
        body = chat_body(model, stream=True, temperature=0, max_tokens=bound)
        async with session.post(rig.provider.base_url + "/chat/completions", data=body) as response:
            direct = Answer(200, {}, await response.read())
    assert [event["choices"] for event in mine.events] == [event["choices"] for event in direct.events]
    assert not any("usage" in event for event in mine.events)
    assert b'"usage"' not in mine.body
    assert mine.is_done
    assert rig.spent_nano(ada) == bill_nano(call["usage"])


async def test_usage_that_was_asked_for_comes_once_and_last_with_its_charge(rig: Rig) -> None:
    shapes = ["openai", "cumulative", "with_choices", "empty_choice", "twice", "none", "nan"]
    names = aliases(rig, *(f"sim:{COUNTS},usage={shape}" for shape in shapes))
    ada = rig.customer(models=names)
    for answer in await ask_each(rig, ada, names, **WITH_USAGE):
        assert answer.is_done
        *others, last = answer.events
        assert last["choices"] == []
        assert not any(event.get("usage") for event in others)
        assert all(event["choices"] for event in others)
        record = record_of(rig, ada, answer)
        assert Decimal(last["usage"]["cost_credits"]) * NANO_PER_CREDIT == record["charge_nano"] > 0
        assert last["usage"]["completion_tokens"] == record["output_tokens"]


async def test_an_explicit_zero_is_a_number_and_free(rig: Rig) -> None:
    """Faults 12."""
    [alias] = aliases(rig, "sim:words=20,usage=zero")
    ada = rig.customer(models=[alias])
    for fields in ({}, {"stream": True}):
        answer = await rig.chat(ada, alias, **fields)
        record = record_of(rig, ada, answer)
        assert (record["charge_nano"], record["estimated"], record["outcome"]) == (0, False, "served")
    assert (await rig.chat(ada, alias)).headers["x-credits-charged"] == "0"
    assert rig.spent_nano(ada) == 0


async def test_counts_that_cannot_be_right_are_estimated_and_flagged_and_stop_nobody(rig: Rig) -> None:
    """Faults 13."""
    shapes = ["negative", "nan", "bool", "string", "huge", "cached_above_prompt", "none"]
    names = aliases(rig, *(f"sim:words=20,usage={shape}" for shape in shapes), "sim:words=20,tag=honest")
    ada = rig.customer(models=names)
    *odd, honest = names
    for fields in ({}, {"stream": True}, WITH_USAGE):
        for answer in await ask_each(rig, ada, odd, max_tokens=100, **fields):
            assert answer.status == 200
            assert not fields or answer.is_done
            record = record_of(rig, ada, answer)
            assert record["estimated"]
            assert record["outcome"] == "served"
            assert 1 <= record["fresh_tokens"] <= 21
            assert 20 <= record["output_tokens"] <= 30
            tokens = {"fresh": record["fresh_tokens"], "output": record["output_tokens"]}
            assert record["charge_nano"] == PRICE.charge_nano(**tokens)
        # Billing of everybody else goes on, exactly.
        assert not record_of(rig, ada, await rig.chat(ada, honest))["estimated"]


FUZZED = [
    '{"prompt_tokens":-5,"completion_tokens":3}',
    '{"prompt_tokens":5,"completion_tokens":-3}',
    '{"prompt_tokens":1e30,"completion_tokens":3}',
    '{"prompt_tokens":9223372036854775808,"completion_tokens":3}',
    '{"prompt_tokens":5.5,"completion_tokens":3}',
    '{"prompt_tokens":"5","completion_tokens":3}',
    '{"prompt_tokens":true,"completion_tokens":3}',
    '{"prompt_tokens":[5],"completion_tokens":{"a":3}}',
    '{"prompt_tokens":5,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":6}}',
    '{"prompt_tokens":5,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":-1}}',
    '{"prompt_tokens":5,"completion_tokens":3,"total_tokens":-8}',
    "{}",
    "7",
    '"many"',
    "[]",
    "false",
]


async def test_a_fuzz_of_usage_never_fails_a_request_and_never_bills_nonsense(rig: Rig) -> None:
    """Faults 13: sixteen kinds of nonsense over the wire, as JSON and at the end of a stream."""
    head = '{"id":"c","object":"chat.completion%s","created":1,"model":"m","choices":[{"index":0,%s}]%s}'
    models = []
    for i, usage in enumerate(FUZZED):
        message = '"message":{"role":"assistant","content":"one two three"},"finish_reason":"stop"'
        whole = head % ("", message, f',"usage":{usage}')
        models.append(await rig.provider.script(f"whole-{i}", chunks=[whole]))
        delta = '"delta":{"role":"assistant","content":"one two three"},"finish_reason":"stop"'
        first = head % (".chunk", delta, "")
        last = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":%s}' % usage  # noqa: UP031
        models.append(
            await rig.provider.script(f"stream-{i}", chunks=[f"data: {first}\n\ndata: {last}\n\ndata: [DONE]\n\n"])
        )
    names = aliases(rig, *models)
    ada = rig.customer(models=names)
    whole_answers = await ask_each(rig, ada, names[::2])
    streamed = await ask_each(rig, ada, names[1::2], stream=True)
    assert {answer.status for answer in whole_answers + streamed} == {200}
    assert all(answer.is_done and answer.text == "one two three" for answer in streamed)
    for usage, *answers in zip(FUZZED, whole_answers, streamed, strict=True):
        for answer in answers:
            record = record_of(rig, ada, answer)
            assert (usage, record["estimated"], record["output_tokens"]) == (usage, True, 3)
            assert 1 <= record["fresh_tokens"] <= 21


async def test_three_hundred_requests_of_one_token_cost_three_hundred_times_one(rig: Rig) -> None:
    """Faults 19, through the whole machine; a million of them are a test of the pure rules."""
    [alias] = aliases(rig, "sim:words=1,prompt=1,completion=1,calls=off")
    ada = rig.customer(models=[alias])
    one = PRICE.charge_nano(fresh=1, output=1)
    answers = await asyncio.gather(*(rig.chat(ada, alias, max_tokens=1) for _ in range(300)))
    assert {answer.status for answer in answers} == {200}
    assert rig.spent_nano(ada) == 300 * one
