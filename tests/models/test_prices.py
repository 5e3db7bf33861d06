"""What tokens cost: list prices convert exactly, tiers and windows choose rates, and what makes no sense is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadInput
from models.price_terms import price_from_usd
from models.prices import (
    Meters,
    PriceVersion,
    credits_text,
    nano_from_credits,
    price_from_row,
    rate_from_usd,
    rate_to_usd,
    schedule_to_json,
)

MINUTE_US = 60_000_000
TIERED = price_from_usd(
    input_usd="0.30",
    cached_input_usd="0.03",
    output_usd="2.50",
    tiers=[{"above_tokens": 200_000, "input_usd": "0.60", "output_usd": "5.00"}],
)
NIGHTLY = price_from_usd(
    input_usd="0.28",
    output_usd="0.42",
    windows=[{"start": "16:30", "end": "00:30", "input_usd": "0.14", "output_usd": "0.21"}],
)


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        ("0.27", 27_000),
        ("0.07", 7_000),
        (1, 100_000),
        (Decimal("1.10"), 110_000),
        ("0.00001", 1),
        ("0", 0),
        ("1e1", 10**6),
    ],
)
def test_usd_per_million_tokens_is_an_exact_integer_per_token(usd: Any, nano: int) -> None:
    assert rate_from_usd(usd, field="input_usd") == nano
    assert rate_to_usd(nano) == Decimal(str(usd))


@pytest.mark.parametrize("usd", [0.27, True, None, "", "abc", "NaN", "inf", "-0.1", "0.000001", "10000.1", "0,27"])
def test_a_price_that_is_not_exact_or_not_sane_is_refused_by_name(usd: Any) -> None:
    with pytest.raises(BadInput, match="input_usd") as refusal:
        rate_from_usd(usd, field="input_usd")
    assert refusal.value.field == "input_usd"


@given(st.integers(0, 10**9))
def test_every_rate_survives_the_way_to_usd_and_back(nano: int) -> None:
    assert rate_from_usd(rate_to_usd(nano), field="x") == nano


@given(st.integers(-(2**62), 2**62))
def test_credits_survive_being_written_as_text(nano: int) -> None:
    if abs(nano) < 2**62:
        assert nano_from_credits(credits_text(nano)) == nano


@pytest.mark.parametrize(("tokens", "rate"), [(200_000, 30_000), (200_001, 60_000)])
def test_a_tier_begins_above_its_tokens(tokens: int, rate: int) -> None:
    assert TIERED.charge_nano(Meters(fresh=tokens), 0) == tokens * rate


def test_cached_and_written_input_count_towards_the_tier() -> None:
    meters = Meters(fresh=1, cached=150_000, written=50_000)
    assert TIERED.charge_nano(meters, 0) == meters.input * 60_000


@pytest.mark.parametrize(
    ("minute", "rate"), [(0, 14_000), (29, 14_000), (30, 28_000), (989, 28_000), (990, 14_000), (1439, 14_000)]
)
def test_a_window_holds_from_its_start_to_before_its_end_past_midnight(minute: int, rate: int) -> None:
    days = 20_000 * 1440 * MINUTE_US
    assert NIGHTLY.charge_nano(Meters(fresh=1), days + minute * MINUTE_US) == rate
    assert NIGHTLY.charge_nano(Meters(fresh=1), days + minute * MINUTE_US + MINUTE_US - 1) == rate


@given(
    st.sampled_from([TIERED, NIGHTLY]),
    st.integers(0, 400_000),
    st.integers(0, 400_000),
    st.integers(0, 400_000),
    st.integers(0, 10_000),
    st.integers(0, 2_000 * MINUTE_US),
)
def test_no_charge_is_above_the_ceiling_that_was_held(
    price: PriceVersion, fresh: int, cached: int, written: int, output: int, at_us: int
) -> None:
    meters = Meters(fresh, cached, written, output)
    input_rate, output_rate = price.dearest(at_us, meters.input)
    assert price.charge_nano(meters, at_us) <= meters.input * input_rate + output * output_rate


@pytest.mark.parametrize("price", [TIERED, NIGHTLY])
def test_a_price_survives_being_stored(price: PriceVersion) -> None:
    base = price.tiers[0].rates
    row = {
        "id": price.id,
        "effective_us": price.effective_us,
        "input_nano": base.fresh,
        "cached_input_nano": base.cached,
        "cache_write_nano": base.written,
        "output_nano": base.output,
        "schedule": schedule_to_json(price),
    }
    assert price_from_row(row) == price


def test_cached_input_and_cache_writes_cost_what_input_does_unless_given() -> None:
    rates = price_from_usd(input_usd="0.27", output_usd="1").tiers[0].rates
    assert rates.cached == rates.written == rates.fresh == 27_000
    assert price_from_usd(input_usd="1", output_usd="1", cache_write_usd="1.25").tiers[0].rates.written == 125_000


WINDOW = {"start": "01:00", "end": "02:00", "input_usd": "1", "output_usd": "1"}


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"tiers": [{"above_tokens": 0, "input_usd": "1", "output_usd": "1"}]}, "tiers[0].above_tokens"),
        ({"tiers": [{"above_tokens": 5, "input_usd": "1"}]}, "tiers[0].output_usd"),
        ({"tiers": [{"above_tokens": n, "input_usd": "1", "output_usd": "1"} for n in (9, 9)]}, "tiers"),
        ({"tiers": [{"above": 5, "input_usd": "1", "output_usd": "1"}]}, "tiers[0]"),
        ({"tiers": {"above_tokens": 5}}, "tiers"),
        ({"windows": [WINDOW | {"start": "1:00"}]}, "windows[0].start"),
        ({"windows": [WINDOW | {"end": "25:00"}]}, "windows[0].end"),
        ({"windows": [WINDOW | {"end": "01:00"}]}, "windows[0]"),
        ({"windows": [WINDOW, WINDOW | {"start": "01:59", "end": "00:10"}]}, "windows[1]"),
        ({"windows": [WINDOW | {"output_usd": 1.5}]}, "windows[0].output_usd"),
        ({"windows": [WINDOW | {"tiers": [{"above_tokens": True}]}]}, "windows[0].tiers[0].above_tokens"),
    ],
)
def test_tiers_and_windows_that_make_no_sense_are_refused_by_name(terms: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as refusal:
        price_from_usd(input_usd="1", output_usd="1", **terms)
    assert refusal.value.field == field
