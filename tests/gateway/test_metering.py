"""Every provider's way of counting becomes the same disjoint meters, and what cannot be a count never reaches a price."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering import MOST_TOKENS, estimate_tokens, meters_from_usage
from models.prices import Meters, Rates


def read(usage: Any) -> Meters | None:
    return meters_from_usage(json.dumps(usage).encode())


# ── the shapes of real providers, one request seen by each ────────────────────────────────────────────────────────

ALIKE = Meters(fresh=600, cached=300, written=100, output=50)
SHAPES: dict[str, dict[str, Any]] = {
    "openai": {
        "prompt_tokens": 1000,
        "completion_tokens": 50,
        "total_tokens": 1050,
        "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 100, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 20},
    },
    "deepseek": {
        "prompt_tokens": 1000,
        "completion_tokens": 50,
        "total_tokens": 1050,
        "prompt_cache_hit_tokens": 300,
        "prompt_cache_miss_tokens": 700,
        "cache_write_tokens": 100,
        "completion_tokens_details": {"reasoning_tokens": 20},
    },
    "anthropic": {
        "input_tokens": 600,
        "cache_read_input_tokens": 300,
        "cache_creation_input_tokens": 100,
        "output_tokens": 50,
    },
    "anthropic behind an OpenAI-compatible address": {
        "prompt_tokens": 1000,
        "completion_tokens": 50,
        "total_tokens": 1050,
        "prompt_tokens_details": {"cached_tokens": 300, "cache_creation_tokens": 100},
        "cache_read_input_tokens": 300,
        "cache_creation_input_tokens": 100,
    },
    "responses": {
        "input_tokens": 1000,
        "input_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 100},
        "output_tokens": 50,
        "output_tokens_details": {"reasoning_tokens": 20},
        "total_tokens": 1050,
    },
    "xai and gemini, reasoning beside the completion": {
        "prompt_tokens": 1000,
        "completion_tokens": 30,
        "total_tokens": 1050,
        "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 100},
        "completion_tokens_details": {"reasoning_tokens": 20},
    },
    "nulls where a provider has nothing to say": {
        "prompt_tokens": 1000,
        "completion_tokens": 50,
        "total_tokens": None,
        "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 100},
        "completion_tokens_details": None,
        "reasoning_tokens": None,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_request_has_the_same_meters_in_every_shape(shape: str) -> None:
    assert read(SHAPES[shape]) == ALIKE


def test_hits_and_misses_alone_are_the_whole_prompt() -> None:
    usage = {"prompt_cache_hit_tokens": 300, "prompt_cache_miss_tokens": 700, "completion_tokens": 50}
    assert read(usage) == Meters(fresh=700, cached=300, output=50)


def test_reasoning_is_added_only_where_the_total_says_that_it_stands_beside_the_completion() -> None:
    inside = {"prompt_tokens": 100, "completion_tokens": 60, "completion_tokens_details": {"reasoning_tokens": 40}}
    assert read(inside | {"total_tokens": 160}) == Meters(fresh=100, output=60)
    assert read(inside | {"total_tokens": 200}) == Meters(fresh=100, output=100)
    assert read(inside) == Meters(fresh=100, output=60)
    outside = {"prompt_tokens": 9, "completion_tokens": 2, "reasoning_tokens": 300, "total_tokens": 311}
    assert read(outside) == Meters(fresh=9, output=302)


def test_zero_is_a_number() -> None:
    assert read({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}) == Meters()


# ── what cannot be right ──────────────────────────────────────────────────────────────────────────────────────────

RIGHT = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}}


@pytest.mark.parametrize("odd", [-1, -(10**30), 1.5, 12.0, True, "12", [], {}, 1e30, MOST_TOKENS + 1, 2**63, 2**64])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"])
def test_a_count_that_is_no_count_makes_the_whole_usage_an_estimate(name: str, odd: Any) -> None:
    usage: dict[str, Any] = json.loads(json.dumps(RIGHT))
    place = usage["prompt_tokens_details"] if name == "cached_tokens" else usage
    place[name] = odd
    assert read(usage) is None


@pytest.mark.parametrize(
    "raw",
    [b"null", b"[]", b"7", b'"12"', b"true", b"{}", b"{", b"", b"NaN", b'{"prompt_tokens":NaN,"completion_tokens":1}',
     b'{"prompt_tokens":1e999,"completion_tokens":1}', b'{"prompt_tokens":5}', b'{"completion_tokens":5}',
     b'{"prompt_tokens":Infinity,"completion_tokens":1}', b'{"total_tokens":5}', b'\xff',
     b'{"prompt_tokens":10,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":11}}',
     b'{"prompt_tokens":10,"completion_tokens":1,"cached_tokens":6,"cache_write_tokens":5}'],
)  # fmt: skip
def test_usage_that_is_missing_or_nonsense_is_refused(raw: bytes) -> None:
    assert meters_from_usage(raw) is None


def test_details_of_the_wrong_kind_say_nothing() -> None:
    assert read(RIGHT | {"prompt_tokens_details": "none"}) == Meters(fresh=100, output=10)
    assert read(RIGHT | {"completion_tokens_details": [1]}) == Meters(fresh=60, cached=40, output=10)


# ── whatever comes ────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = (
    "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "cached_tokens",
    "prompt_cache_hit_tokens", "prompt_cache_miss_tokens", "cache_read_input_tokens", "cache_write_tokens",
    "cache_creation_input_tokens", "cache_creation_tokens", "reasoning_tokens",
)  # fmt: skip
DETAILS = (
    "prompt_tokens_details",
    "input_tokens_details",
    "completion_tokens_details",
    "output_tokens_details",
)
counts = st.one_of(
    st.integers(0, 2000), st.integers(), st.sampled_from([0, -1, True, None, 1.5, "3", MOST_TOKENS, 2**63])
)
flat = st.dictionaries(st.sampled_from(NAMES), counts)
usages = st.builds(
    lambda top, details: top | details, flat, st.dictionaries(st.sampled_from(DETAILS), st.one_of(flat, counts))
)


def _numbers(value: Any) -> int:
    """All whole numbers of a usage object, added up."""
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    return value if type(value) is int and value > 0 else 0


@given(usages)
def test_meters_are_never_negative_and_never_more_than_was_reported(usage: dict[str, Any]) -> None:
    meters = read(usage)
    if meters is None:
        return
    assert min(meters.fresh, meters.cached, meters.written, meters.output) >= 0
    assert meters.total == meters.input + meters.output <= _numbers(usage)
    assert meters.total <= 6 * MOST_TOKENS
    # No price can turn them into more than the ledger's 64 bits, or below zero.
    assert 0 <= Rates(10**9, 10**9, 10**9, 10**9).charge_nano(meters) < 2**62


@given(
    fresh=st.integers(0, 10**6),
    cached=st.integers(0, 10**6),
    written=st.integers(0, 10**6),
    output=st.integers(0, 10**6),
    reasoning=st.integers(0, 10**6),
)
def test_every_token_stands_in_one_meter_whatever_the_shape(
    fresh: int, cached: int, written: int, output: int, reasoning: int
) -> None:
    """Faults 14: cached tokens are never billed twice."""
    reasoning = min(reasoning, output)
    prompt = fresh + cached + written
    details = {"cached_tokens": cached, "cache_write_tokens": written}
    openai = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    anthropic = {
        "input_tokens": fresh,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "output_tokens": output,
    }
    responses = {"input_tokens": prompt, "input_tokens_details": details, "output_tokens": output}
    beside = openai | {"completion_tokens": output - reasoning}
    expected = Meters(fresh, cached, written, output)
    assert [read(usage) for usage in (openai, anthropic, responses, beside)] == [expected] * 4


@given(st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_million_requests_of_one_token_cost_what_one_of_a_million_does(rate: int, count: int) -> None:
    """Faults 19: no rounding exists."""
    rates = Rates(rate, rate, rate, rate)
    assert sum([rates.charge_nano(Meters(output=1))] * count) == rates.charge_nano(Meters(output=count))


def test_an_estimate_counts_tokens_and_not_letters() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("Hello world") == 2
    assert 1000 <= estimate_tokens("word " * 1000) <= 1002
    assert estimate_tokens("naïve 日本語 🙂👍 \ud800 <|endoftext|>".encode("utf-8", "replace").decode()) > 5
