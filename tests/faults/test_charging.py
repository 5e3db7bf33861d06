"""Who pays when it goes wrong: what arrived whole is charged once and exactly; anything less of the provider's is free."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import pytest

from models.prices import NANO_PER_CREDIT
from tests.faults.books import PRICE, aliases, bill_nano, metric, record_of
from tests.rig import Answer, Price, Rig


@pytest.fixture(scope="module", autouse=True)
def _the_books_are_right_afterwards(rig: Rig) -> Iterator[None]:
    yield
    rig.reconcile()


def assert_failed_in_band(answer: Answer) -> None:
    """An error event alone, then the end: no `[DONE]`, and no finish reason that nobody gave."""
    assert answer.status == 200
    *delivered, error = answer.events
    assert set(error) == {"error"}
    assert error["error"]["code"] == "upstream_unavailable"
    assert not answer.is_done
    assert all(choice["finish_reason"] is None for event in delivered for choice in event["choices"])


# ── the provider fails ────────────────────────────────────────────────────────────────────────────────────────────

BROKEN_STREAMS = {
    "cut at 40 of 60 events, faults 5": ("sim:words=60,cut=40", 40),
    "reset at 40 of 60 events, faults 5": ("sim:words=60,cut=40,reset", 40),
    "silent in mid-stream, faults 6": ("sim:words=10,stall=5", 5),
    "an error event after status 200, faults 7": ("sim:words=10,error_event=5,gap_ms=5", 5),
    "a clean end without a finish": ("sim:words=10,no_finish,gap_ms=5", 10),
    "cumulative usage, then cut": ("sim:words=60,cut=40,usage=cumulative", 40),
}


async def test_a_stream_that_breaks_is_free_and_says_so_in_band(rig: Rig) -> None:
    """Faults 5, 6 and 7."""
    names = aliases(rig, *(model for model, _ in BROKEN_STREAMS.values()))
    ada = rig.customer(models=names)
    answers = await asyncio.gather(*(rig.chat(ada, name, stream=True) for name in names))
    await rig.settled(ada, records=len(names))
    for answer, (_, words) in zip(answers, BROKEN_STREAMS.values(), strict=True):
        assert_failed_in_band(answer)
        # What had come by then was passed on.
        assert len(answer.text.split()) == words
        record = record_of(rig, ada, answer)
        assert (record["outcome"], record["charge_nano"], record["output_tokens"]) == ("failed", 0, 0)
    assert rig.spent_nano(ada) == 0


async def test_an_answer_that_never_begins_or_breaks_before_its_first_word_is_a_502_and_free(rig: Rig) -> None:
    faulty = ["cut=0", "error_event=0", "stall=0", "status=500", "silent", "reset", "error_body", "cut=0,reset"]
    names = aliases(rig, *(f"sim:words=5,{fault},tag=begin" for fault in faulty))
    ada = rig.customer(models=names)
    streamed = asyncio.gather(*(rig.chat(ada, name, stream=True) for name in names))
    whole = asyncio.gather(*(rig.chat(ada, name) for name in names))
    for answer in await whole:
        assert (answer.status, answer.error["code"]) == (502, "upstream_unavailable")
    for answer in await streamed:
        if answer.status == 200:
            assert_failed_in_band(answer)
            assert answer.text == ""
        else:
            assert (answer.status, answer.error["code"]) == (502, "upstream_unavailable")
    await rig.settled(ada, records=2 * len(names))
    assert {record["outcome"] for record in rig.records(ada)} == {"failed"}
    assert rig.spent_nano(ada) == 0


async def test_a_whole_answer_that_is_no_completion_is_a_502_and_free(rig: Rig) -> None:
    bodies = [
        "[]",
        "7",
        "null",
        "{}",
        '{"choices":[]}',
        '{"choices":null}',
        '{"choices":{}}',
        '{"choices":[1]}',
        "<html>",
    ]
    bodies += ['{"error":"no","choices":[{"message":{"content":"x"}}]}', '{"choices":[{"message":{"content":"x"}}', ""]
    names = aliases(rig, *[await rig.provider.script(f"no-answer-{i}", chunks=[body]) for i, body in enumerate(bodies)])
    ada = rig.customer(models=names)
    for body, answer in zip(bodies, await asyncio.gather(*(rig.chat(ada, name) for name in names)), strict=True):
        assert (body, answer.status, answer.error["code"]) == (body, 502, "upstream_unavailable")
    await rig.settled(ada, records=len(names))
    assert rig.spent_nano(ada) == 0


async def test_a_huge_prompt_that_fails_is_not_charged_by_estimate(rig: Rig) -> None:
    """Faults 8."""
    [alias] = aliases(rig, "sim:words=60,cut=59,tag=huge")
    ada = rig.customer(models=[alias])
    messages = [{"role": "user", "content": "word " * 50_000}]
    assert_failed_in_band(await rig.chat(ada, alias, messages=messages, stream=True))
    assert (await rig.chat(ada, alias, messages=messages)).status == 502
    await rig.settled(ada, records=2)
    assert rig.spent_nano(ada) == 0


async def test_words_that_share_a_packet_with_an_error_are_delivered_and_free(rig: Rig) -> None:
    head = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    begun = [f'data: {head}{{"role":"assistant","content":"one"}},"finish_reason":null}}]}}\n\n']
    packet = f'data: {head}{{"content":" two"}},"finish_reason":null}}]}}\n\ndata: {{"error":{{"message":"no"}}}}\n\n'
    model = await rig.provider.script("shared-packet", chunks=[*begun, {"text": packet, "after_ms": 30}])
    [alias] = aliases(rig, model)
    ada = rig.customer(models=[alias])
    answer = await rig.chat(ada, alias, stream=True)
    assert_failed_in_band(answer)
    assert answer.text == "one two"
    await rig.settled(ada, records=1)
    assert rig.spent_nano(ada) == 0


async def test_nonsense_after_a_whole_answer_costs_neither_words_nor_the_charge(rig: Rig) -> None:
    """The words, their finish and nonsense in one packet: the client gets every word, and pays for what it got."""
    head = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    packet = (
        f'data: {head}{{"role":"assistant","content":"one two"}},"finish_reason":null}}]}}\n\n'
        f'data: {head}{{}},"finish_reason":"stop"}}]}}\n\ndata: {{"choices":[],"usage":{{"prompt_tokens":NaN}}}}\n\n'
    )
    [alias] = aliases(rig, await rig.provider.script("whole-then-nonsense", chunks=[packet]))
    ada = rig.customer(models=[alias])
    answer = await rig.chat(ada, alias, stream=True)
    assert answer.is_done
    assert answer.text == "one two"
    record = record_of(rig, ada, answer)
    assert (record["outcome"], record["estimated"], record["output_tokens"]) == ("served", True, 2)
    assert rig.spent_nano(ada) == record["charge_nano"] > 0


async def test_a_stream_with_one_of_two_choices_is_half_an_answer(rig: Rig) -> None:
    head = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    chunks = [
        f'data: {head}{{"role":"assistant","content":"one"}},"finish_reason":null}}]}}\n\n',
        f'data: {head}{{}},"finish_reason":"stop"}}]}}\n\n',
    ]
    [alias] = aliases(rig, await rig.provider.script("half", chunks=chunks, then="abort"))
    ada = rig.customer(models=[alias])
    both = await rig.chat(ada, alias, stream=True, n=2)
    assert not both.is_done
    assert both.events[-1]["error"]["code"] == "upstream_unavailable"
    # Asked for one choice, the same bytes are a whole answer: what broke afterwards was only the connection.
    one = await rig.chat(ada, alias, stream=True)
    assert one.is_done
    await rig.settled(ada, records=2)
    assert record_of(rig, ada, both)["outcome"] == "failed"
    assert rig.spent_nano(ada) == record_of(rig, ada, one)["charge_nano"] > 0


# ── served ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_is_charged_exactly_once_and_says_how_much(rig: Rig) -> None:
    model = "sim:words=9,tag=once"
    [alias] = aliases(rig, model)
    ada = rig.customer(models=[alias])
    whole = await rig.chat(ada, alias)
    streamed = await rig.chat(ada, alias, stream=True, stream_options={"include_usage": True})
    assert (whole.status, streamed.status) == (200, 200), (whole.body, streamed.body)
    bill = bill_nano((await rig.provider.calls(model))[0]["usage"])
    shown = [whole.headers["x-credits-charged"], streamed.events[-1]["usage"]["cost_credits"]]
    assert [int(Decimal(text) * NANO_PER_CREDIT) for text in shown] == [bill, bill]
    assert [record["charge_nano"] for record in rig.records(ada, "served")] == [bill, bill]
    # Committed before the last byte: no waiting is needed to see it.
    assert rig.spent_nano(ada) == 2 * bill
    assert rig.held_nano(ada) == 0


async def test_the_same_x_request_id_twice_is_charged_twice(rig: Rig) -> None:
    """Faults 40b: ids are ours alone."""
    model = "sim:words=3,tag=same-id"
    [alias] = aliases(rig, model)
    ada = rig.customer(models=[alias])
    ada.headers["X-Request-ID"] = "00000000-0000-7000-8000-000000000001"
    answers = [await rig.chat(ada, alias) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2
    assert ada.headers["X-Request-ID"] not in ids
    assert rig.spent_nano(ada) == 2 * bill_nano((await rig.provider.calls(model))[0]["usage"])


async def test_served_without_usage_is_estimated_from_its_text_and_flagged(rig: Rig) -> None:
    models = ["sim:words=50,usage=none", "sim:words=50,usage=none,tools", "sim:words=50,usage=none,reasoning_text"]
    names = aliases(rig, *models)
    ada = rig.customer(models=names)
    for name in names:
        for stream in (False, True):
            record = record_of(rig, ada, await rig.chat(ada, name, stream=stream, max_tokens=100))
            assert record["estimated"]
            assert record["outcome"] == "served"
            assert 40 <= record["output_tokens"] <= 100
            tokens = {"fresh": record["fresh_tokens"], "output": record["output_tokens"]}
            assert record["charge_nano"] == PRICE.charge_nano(**tokens) > 0
    assert await metric(rig, "gateway_estimated_requests_total", model=names[0]) == 2


async def test_an_estimate_is_never_above_the_hold(rig: Rig) -> None:
    """The provider ignores the bound that it was given, and counts nothing."""
    words = " ".join(f"incomprehensibilities{n}" for n in range(300))
    head = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    chunks = [
        f'data: {head}{{"role":"assistant","content":"{words}"}},"finish_reason":null}}]}}\n\n',
        f'data: {head}{{}},"finish_reason":"stop"}}]}}\n\ndata: [DONE]\n\n',
    ]
    [alias] = aliases(rig, await rig.provider.script("talkative", chunks=chunks))
    ada = rig.customer(models=[alias])
    answer = await rig.chat(ada, alias, stream=True, max_tokens=10)
    record = record_of(rig, ada, answer)
    assert answer.text == words
    assert record["estimated"]
    assert record["output_tokens"] > 300
    # The hold: 21 tokens of input at the dearest input rate, 10 of output.
    assert record["charge_nano"] == Price("0.33", "1.10").charge_nano(21, 10)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_lying_provider_takes_what_is_available_and_no_more(rig: Rig, stream: bool) -> None:
    """Faults 27: the balance never goes below zero, the rest is written off."""
    [alias] = aliases(rig, "sim:words=3,prompt=20,completion=1000000", price=Price("1", "2"))
    ada = rig.customer(models=[alias], credits="1")
    answer = await rig.chat(ada, alias, stream=stream, max_tokens=10)
    assert answer.is_done if stream else answer.status == 200
    asked = Price("1", "2").charge_nano(20, 1_000_000)
    record = record_of(rig, ada, answer)
    assert rig.balance_nano(ada) == 0
    assert (record["charge_nano"], record["writeoff_nano"]) == (NANO_PER_CREDIT, asked - NANO_PER_CREDIT)
    assert (await rig.chat(ada, alias, max_tokens=1)).status == 402


async def test_a_lying_provider_does_not_touch_what_is_held_for_others(rig: Rig) -> None:
    """Faults 27, with another request in flight: its hold stays its own, and is enough for it."""
    gated = "sim:words=2,gate,tag=spared"
    waiting, lying = aliases(rig, gated, "sim:words=3,completion=1000000", price=Price("1", "2"))
    ada = rig.customer(models=[waiting, lying], credits="1")
    running = asyncio.create_task(rig.chat(ada, waiting, max_tokens=10))
    await rig.provider.wait(gated)
    held = rig.held_nano(ada)
    assert held == Price("1", "2").charge_nano(21, 10)
    await rig.chat(ada, lying, max_tokens=10)
    assert rig.balance_nano(ada) == rig.held_nano(ada) == held
    await rig.provider.release(gated)
    served = record_of(rig, ada, await running)
    assert served["writeoff_nano"] == 0
    assert rig.balance_nano(ada) == held - served["charge_nano"]
