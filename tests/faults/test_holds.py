"""The hold covers the most that a request can cost, before any provider is called, and bounds what is asked of it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from models.prices import NANO_PER_CREDIT, credits_text
from tests.faults.books import aliases, record_of
from tests.rig import Answer, Customer, Price, Rig

# "Hello" in one message: 5 bytes and 16 for the message. Writing to the cache is the dearest thing input can do.
INPUT_TOKENS = 21
PRICE = Price("1", "2", cached="0.1", written="1.25")
DEAREST = Price("1.25", "2")


@pytest.fixture(scope="module", autouse=True)
def _the_books_are_right_afterwards(rig: Rig) -> Iterator[None]:
    yield
    rig.reconcile()


def credits(nano: int) -> str:
    return credits_text(nano)


async def held_while_running(
    rig: Rig, customer: Customer, upstream: str, alias: str, **fields: Any
) -> tuple[int, Answer]:
    """What is held while the provider is at work, and the answer after that."""
    before = len(await rig.provider.calls(upstream))
    running = asyncio.create_task(rig.chat(customer, alias, **fields))
    try:
        await rig.provider.wait(upstream, count=before + 1)
    except AssertionError as error:
        raise AssertionError(f"{error}; the answer: {running.result() if running.done() else 'none yet'}") from None
    held = rig.held_nano(customer)
    await rig.provider.release(upstream)
    return held, await running


def assert_refused(answer: Answer, needed_nano: int, available_nano: int, *, bounded: bool = True) -> None:
    """The text alone must say what to do: most clients show nothing else. `bounded`: the client gave max_tokens."""
    assert (answer.status, answer.error["code"]) == (402, "insufficient_credits")
    message = answer.error["message"]
    assert f"{'can cost' if bounded else 'needs at least'} {credits(needed_nano)} credits" in message
    assert f"{credits(available_nano)} are available" in message
    assert "Top up" in message
    assert ("max_tokens" in message) is bounded
    assert answer.headers["x-should-retry"] == "false"


# ── how much is held ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_hold_is_the_dearest_input_and_all_the_output_that_was_asked_for(rig: Rig) -> None:
    upstream = "sim:words=3,gate,tag=held"
    [alias] = aliases(rig, upstream, price=PRICE, max_output_tokens=1000)
    ada = rig.customer(models=[alias])
    cases: list[tuple[dict[str, Any], int, int]] = [
        ({"max_tokens": 100}, 100, 100),
        ({"max_completion_tokens": 100, "max_tokens": 900}, 100, 100),
        ({"max_tokens": 100, "n": 3}, 300, 100),
        ({"max_tokens": 5_000}, 1000, 1000),  # above the alias's cap is sent as the cap
        ({}, 1000, 1000),  # absent: the cap, when the balance covers it
        ({"max_tokens": None}, 1000, 1000),
    ]
    for fields, output, bound in cases:
        held, answer = await held_while_running(rig, ada, upstream, alias, **fields)
        assert (fields, held) == (fields, DEAREST.charge_nano(INPUT_TOKENS, output))
        body = (await rig.provider.calls(upstream))[-1]["body"]
        name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
        assert [body.get(field) for field in ("max_tokens", "max_completion_tokens") if field in body] == [bound]
        assert body[name] == bound
        assert answer.status == 200
    assert rig.held_nano(ada) == 0


async def test_media_is_counted_by_the_part_and_its_base64_never(rig: Rig) -> None:
    upstream = "sim:words=3,gate,tag=media"
    [alias] = aliases(rig, upstream, price=Price("1", "2"), context_tokens=1_000_000)
    ada = rig.customer(models=[alias])
    data = base64.b64encode(bytes(600_000)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    file = {"type": "file", "file": {"file_data": data}}
    content = [{"type": "text", "text": "Hello"}, image, image, sound, file]
    held, answer = await held_while_running(
        rig, ada, upstream, alias, max_tokens=10, messages=[{"role": "user", "content": content}]
    )
    assert held == Price("1", "2").charge_nano(INPUT_TOKENS + 4 * 8_192, 10)
    assert answer.status == 200


async def test_input_is_bytes_of_utf8_and_tools_and_never_more_than_the_context(rig: Rig) -> None:
    upstream = "sim:words=3,gate,tag=bytes"
    sizes = {"price": Price("1", "2"), "max_output_tokens": 100, "settled": False}
    wide, narrow = (rig.alias(upstream, context_tokens=tokens, **sizes) for tokens in (64_000, 200))
    rig.settle_feed()
    ada = rig.customer(models=[wide, narrow])
    messages = [{"role": "system", "content": "日本語"}, {"role": "user", "content": "é" * 100}]
    held, _ = await held_while_running(rig, ada, upstream, wide, max_tokens=10, messages=messages)
    assert held == Price("1", "2").charge_nano(9 + 200 + 2 * 16, 10)
    held, _ = await held_while_running(rig, ada, upstream, narrow, max_tokens=10, messages=messages)
    assert held == Price("1", "2").charge_nano(200, 10)
    tools = [{"type": "function", "function": {"name": "look", "description": "x" * 500, "parameters": {}}}]
    held, _ = await held_while_running(rig, ada, upstream, wide, max_tokens=10, tools=tools)
    assert held > Price("1", "2").charge_nano(INPUT_TOKENS + 500, 10)


# ── refused, before any provider is called ────────────────────────────────────────────────────────────────────────


async def test_a_request_is_served_with_exactly_what_it_needs_and_refused_with_one_nano_less(rig: Rig) -> None:
    upstream = "sim:words=3,tag=exact"
    [alias] = aliases(rig, upstream, price=PRICE)
    needed = DEAREST.charge_nano(INPUT_TOKENS, 50)
    poor = rig.customer(models=[alias], credits=credits(needed - 1))
    exact = rig.customer(models=[alias], credits=credits(needed))
    for stream in (False, True):
        assert_refused(await rig.chat(poor, alias, max_tokens=50, stream=stream), needed, needed - 1)
    assert await rig.provider.calls(upstream) == []
    assert rig.records(poor) == []
    assert rig.balance_nano(poor) == needed - 1
    assert (await rig.chat(exact, alias, max_tokens=50)).status == 200


async def test_without_max_tokens_the_last_credit_can_be_spent_and_the_provider_is_told_how_much(rig: Rig) -> None:
    upstream = "sim:words=5000,prompt=21,tag=last"
    [alias] = aliases(rig, upstream, price=Price("1", "2"))
    least = Price("1", "2").charge_nano(INPUT_TOKENS, 1)
    granted = Price("1", "2").charge_nano(INPUT_TOKENS, 300) + 1
    ada = rig.customer(models=[alias], credits=credits(granted))
    answer = await rig.chat(ada, alias)
    call = (await rig.provider.calls(upstream))[-1]
    assert call["body"]["max_tokens"] == 300
    assert call["usage"]["completion"] == 300
    assert answer.json["choices"][0]["finish_reason"] == "length"
    assert rig.balance_nano(ada) == 1
    assert_refused(await rig.chat(ada, alias), least, 1, bounded=False)
    assert len(await rig.provider.calls(upstream)) == 1
    # With two choices, both of them have to be covered by what there is.
    twin = rig.customer(models=[alias], credits=credits(granted))
    assert (await rig.chat(twin, alias, n=2)).status == 200
    assert (await rig.provider.calls(upstream))[-1]["body"]["max_tokens"] == 150


async def test_price_zero_is_admitted_at_balance_zero_and_no_price_is_not(rig: Rig) -> None:
    """Faults 17."""
    free, paid, unpriced = "sim:words=3,tag=free", "sim:words=3,tag=paid", "sim:words=3,tag=unpriced"
    names = [
        rig.alias(free, price=Price("0", "0"), settled=False),
        rig.alias(paid, price=Price("1", "2"), settled=False),
        rig.alias(unpriced, price=None, settled=False),
    ]
    rig.settle_feed()
    ada = rig.customer(models=names, credits="0")
    answer = await rig.chat(ada, names[0])
    assert (answer.status, answer.headers["x-credits-charged"]) == (200, "0")
    assert (await rig.chat(ada, names[0], stream=True)).is_done
    assert {record["charge_nano"] for record in rig.records(ada)} == {0}
    assert_refused(await rig.chat(ada, names[1]), Price("1", "2").charge_nano(INPUT_TOKENS, 1), 0, bounded=False)
    refused = await rig.chat(ada, names[2])
    assert (refused.status, refused.error["code"]) == (403, "model_not_allowed")
    assert await rig.provider.calls(paid) == await rig.provider.calls(unpriced) == []


async def test_a_large_request_that_is_refused_takes_no_small_one_with_it(rig: Rig) -> None:
    """Faults 29: members of a batch are decided one by one, in the order in which they came."""
    upstream = "sim:words=2,prompt=21,completion=2,gate,tag=mixed"
    [alias] = aliases(rig, upstream, price=Price("1", "2"))
    small, large = (Price("1", "2").charge_nano(INPUT_TOKENS, size) for size in (2, 4000))
    ada = rig.customer(models=[alias], credits=credits(10 * small))
    sizes = [4000 if i % 3 == 0 else 2 for i in range(15)]
    asked = [asyncio.create_task(rig.chat(ada, alias, max_tokens=size)) for size in sizes]
    await rig.provider.wait(upstream, count=10)
    assert rig.held_nano(ada) == 10 * small
    await rig.provider.release(upstream)
    answers = await asyncio.gather(*asked)
    assert [answer.status for answer in answers] == [402 if size == 4000 else 200 for size in sizes]
    assert all(f"can cost {credits(large)} credits" in a.error["message"] for a in answers if a.status == 402)
    assert rig.balance_nano(ada) == 0


# ── what cannot be billed ─────────────────────────────────────────────────────────────────────────────────────────

ODD_NUMBERS: list[Any] = [-1, 0, 2**31, 2**63, 10**400, 1.5, True, "9", [], {}]
UNBILLABLE: dict[str, Any] = {
    "models": ["a", "b"], "provider": {"order": ["x"]}, "route": "fallback", "fallbacks": ["b"], "plugins": [{"id": "web"}],
    "api_base": "http://127.0.0.1:1/", "base_url": "http://127.0.0.1:1/", "api_key": "sk-other",
    "extra_headers": {"x": "y"}, "web_search_options": {}, "audio": {"voice": "a", "format": "wav"},
    "modalities": ["text", "audio"], "service_tier": "priority", "tools": [{"type": "web_search"}],
}  # fmt: skip


async def test_numbers_that_would_slip_past_the_hold_are_refused_by_name(rig: Rig) -> None:
    """Faults 16."""
    upstream = "sim:words=3,tag=numbers"
    [alias] = aliases(rig, upstream)
    ada = rig.customer(models=[alias])
    for name in ("max_tokens", "max_completion_tokens", "n"):
        for value in ODD_NUMBERS:
            answer = await rig.chat(ada, alias, **{name: value})
            assert (name, value, answer.status) == (name, value, 400)
            assert answer.error["param"] == name
    # Both of them are looked at, though one of them is what counts.
    assert (await rig.chat(ada, alias, max_completion_tokens=5, max_tokens=-1)).error["param"] == "max_tokens"
    assert await rig.provider.calls(upstream) == []
    assert (rig.spent_nano(ada), rig.held_nano(ada)) == (0, 0)
    assert (await rig.chat(ada, alias, max_tokens=None, n=None, stream=None, stream_options=None)).status == 200


async def test_fields_that_would_change_what_a_request_costs_are_refused_by_name(rig: Rig) -> None:
    """Faults 15."""
    upstream = "sim:words=3,tag=fields"
    [alias] = aliases(rig, upstream)
    ada = rig.customer(models=[alias])
    for name, value in UNBILLABLE.items():
        answer = await rig.chat(ada, alias, **{name: value})
        assert (name, answer.status, answer.error["param"].split("[")[0]) == (name, 400, name)
    for tier in ("flex", "scale", "batch", "Default", 7, ["auto"], {}):
        assert (await rig.chat(ada, alias, service_tier=tier)).error["param"] == "service_tier"
    assert await rig.provider.calls(upstream) == []
    assert (rig.spent_nano(ada), rig.held_nano(ada)) == (0, 0)
    fine: list[dict[str, Any]] = [{"service_tier": tier} for tier in (None, "auto", "default")]
    fine += [{"modalities": ["text"]}, {"models": None, "provider": None, "audio": None}]
    for fields in fine:
        assert (await rig.chat(ada, alias, **fields)).status == 200


async def test_credits_are_exact_to_the_last_nano(rig: Rig) -> None:
    """Faults 19: what was granted is what was charged and what is left."""
    [alias] = aliases(rig, "sim:words=7,prompt=13,completion=7", price=Price("0.00001", "0.00003"))
    ada = rig.customer(models=[alias], credits="0.000001")
    charges = [record_of(rig, ada, await rig.chat(ada, alias, max_tokens=7))["charge_nano"] for _ in range(5)]
    assert charges == [13 + 3 * 7] * 5
    assert Decimal(rig.balance_nano(ada)) / NANO_PER_CREDIT == Decimal("0.000001") - Decimal(5 * 34) / NANO_PER_CREDIT
