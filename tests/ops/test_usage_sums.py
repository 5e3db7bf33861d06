"""Usage by groups, margin with what nobody knows named, percentiles, changes, unusual days and runway; on either database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

import ops
from models.ids import DAY_US, now_us, to_datetime
from models.prices import Meters
from models.spend import Spend, Sums
from ops.trends import Unusual, movers, unusual_days
from tests.models.shop import Shop, sqlite_only
from tests.ops.test_replay import live

COST_NANO = 5_000_000_000  # of a million tokens, which the shop sells for 27 credits


async def two_days(shop: Shop) -> None:
    """Today four served, one of them estimated, and one that failed but was not free; the day before one."""
    now = now_us()
    for ms in (100, 200, 900, 300):
        await shop.serve(
            Meters(fresh=10**6), at_us=now, estimated=ms == 200, cost_nano=COST_NANO, first_byte_ms=ms, total_ms=2 * ms
        )
    await shop.serve(Meters(), outcome="failed", at_us=now, cost_nano=7)
    await shop.serve(Meters(fresh=10**6), at_us=now - DAY_US, cost_nano=COST_NANO)


def today() -> date:
    return to_datetime(now_us()).date()


def test_margin_is_what_was_charged_less_what_the_providers_took(desk: ops.Desk, address: str) -> None:
    desk.catalog.set_route(int(desk.catalog.routes().loc[0, "id"]), cost_input_usd="0.05", cost_output_usd="0.2")
    live(address, two_days)
    row = desk.usage.by("model", since=today()).iloc[0]
    assert (row["model"], row["requests"], row["fresh_tokens"]) == ("small-chat", 5, 4 * 10**6)
    assert (row["credits"], row["uncosted"]) == (Decimal(108), Decimal(0))
    assert (row["cost"], row["failed_cost"]) == (Decimal("20.000000007"), Decimal("0.000000007"))
    assert row["margin"] == row["credits"] - row["cost"]
    assert (row["margin_percent"], row["error_percent"], row["estimated_percent"]) == (81.48, 20.0, 20.0)
    assert desk.usage.uncosted().empty


async def served(shop: Shop) -> None:
    await shop.serve(Meters(fresh=10**6), cost_nano=0)


def test_a_route_without_costs_is_in_no_margin_and_named(desk: ops.Desk, address: str) -> None:
    live(address, served)
    (row,) = desk.usage.by("model").to_dict("records")
    assert (row["credits"], row["uncosted"], row["margin"], row["margin_percent"]) == (
        Decimal(27),
        Decimal(27),
        0,
        None,
    )
    (unknown,) = desk.usage.uncosted().to_dict("records")
    assert (unknown["route"], unknown["requests"], unknown["uncosted"]) == ("acme/acme-1-small", 1, Decimal(27))
    # A route that is free is one whose cost is known.
    desk.catalog.set_route(int(desk.catalog.routes().loc[0, "id"]), cost_input_usd="0", cost_output_usd="0")
    assert desk.usage.uncosted().empty


@pytest.mark.parametrize("by", ["day", "hour", "model", "account", "key", "route", "outcome"])
def test_every_grouping_adds_up_to_the_same(desk: ops.Desk, address: str, by: str) -> None:
    live(address, two_days)
    whole, groups = desk.usage.by().iloc[0], desk.usage.by(by)
    for name in ("requests", "credits", "cost", "margin", "uncosted"):
        assert sum(groups[name]) == whole[name]
    assert groups[by].notna().all()


def test_percentiles_are_times_that_a_request_really_took(desk: ops.Desk, address: str) -> None:
    live(address, two_days)
    (row,) = desk.usage.latency("model", since=today()).to_dict("records")
    assert row["requests"] == 4
    assert [row[f"first_byte_p{p}_ms"] for p in (50, 90, 99)] == [200, 900, 900]
    assert [row[f"total_p{p}_ms"] for p in (50, 90, 99)] == [400, 1_800, 1_800]
    assert desk.usage.latency(since="2040-01-01").empty


async def fallbacks(shop: Shop) -> None:
    failed = {"route": shop.route_id, "status": 503, "ms": 250, "cost_nano": 11}
    served = {"route": shop.route_id, "status": 200, "ms": 500, "cost_nano": 40}
    broken = {"route": shop.route_id, "status": 200, "ms": 750, "cost_nano": 0}
    await shop.serve(Meters(fresh=10), attempts=[failed, served])
    await shop.serve(Meters(), outcome="failed", attempts=[failed, broken])


def test_failed_attempts_are_counted_with_their_time_and_cost(desk: ops.Desk, address: str) -> None:
    live(address, fallbacks)
    found = desk.usage.attempts().set_index(["failed", "status"])
    assert found.loc[(False, 200), ["attempts", "seconds", "cost"]].tolist() == [1, 0.5, Decimal("0.00000004")]
    assert found.loc[(True, 503), ["attempts", "seconds", "cost"]].tolist() == [2, 0.5, Decimal("0.000000022")]
    assert found.loc[(True, 200), ["attempts", "seconds", "cost"]].tolist() == [1, 0.75, Decimal(0)]


def test_the_runway_is_what_is_left_at_the_pace_of_seven_days(desk: ops.Desk, address: str) -> None:
    live(address, two_days)
    until = date.fromordinal(today().toordinal() + 1)
    (row,) = desk.usage.runway(until).to_dict("records")
    # 5 × 27 credits in the six days before midnight, of 1,000.
    assert (row["available"], row["per_day"]) == (Decimal(865), Decimal("22.5"))
    assert row["days_left"] == Decimal("38.4")


@sqlite_only
def test_a_desk_without_usage_has_empty_tables_and_no_errors(desk: ops.Desk) -> None:
    period = desk.usage.period(7)
    assert period.days == 7
    assert desk.usage.by("day", "model").empty
    assert desk.usage.movers(period.since, period.until).empty
    assert desk.usage.anomalies().empty
    assert desk.usage.attempts().empty
    assert desk.usage.runway()["days_left"].isna().all()


@sqlite_only
@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda usage: usage.by("colour"), "by"),
        (lambda usage: usage.latency("colour"), "by"),
        (lambda usage: usage.by("day", since="yesterday"), "since"),
        (lambda usage: usage.movers("2026-09-02", "2026-09-01"), "until"),
        (lambda usage: usage.period(0), "days"),
    ],
)
def test_what_cannot_be_meant_is_named(desk: ops.Desk, ask: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(ops.BadInput, match=named):
        ask(desk.usage)


# ── the rules alone ───────────────────────────────────────────────────────────────────────────────────────────────

MONDAY_US = 20_003 * DAY_US


def days(charges: list[int], failed: dict[int, int] | None = None) -> list[Spend]:
    return [
        Spend(
            {"day": MONDAY_US + n * DAY_US}, {}, Sums(requests=100, failed=(failed or {}).get(n, 0), charge_nano=charge)
        )
        for n, charge in enumerate(charges)
    ]


def weeks(number: int) -> list[int]:
    return [100, 104, 98, 101, 97, 40, 42] * number


def test_weekends_and_usual_noise_are_not_unusual() -> None:
    assert to_datetime(MONDAY_US).weekday() == 0
    assert unusual_days(days(weeks(6)), None) == []


def test_a_day_that_leaves_its_band_is_unusual_and_the_band_is_told() -> None:
    charges = weeks(6)
    charges[37] = 190
    (found,) = unusual_days(days(charges), None)
    assert found == Unusual("", MONDAY_US + 37 * DAY_US, "credits", 190, 75, 125)


def test_a_day_without_requests_between_others_is_one_of_nothing() -> None:
    rows = days(weeks(6))
    del rows[37]
    (found,) = unusual_days(rows, None)
    assert (found.day_us, found.value) == (MONDAY_US + 37 * DAY_US, 0)


def test_failures_count_from_ten_a_day_and_two_points_on() -> None:
    found = unusual_days(days(weeks(6), {30: 9, 37: 30}), None)
    assert [(each.what, each.value) for each in found] == [("error percent", 3_000)]


def test_movers_know_who_came_and_who_left() -> None:
    def spent(name: str, charge: int) -> Spend:
        return Spend({"account": hash(name)}, {"account": name}, Sums(charge_nano=charge))

    found = movers([spent("left", 50), spent("same", 9)], [spent("same", 9), spent("came", 70)], "account")
    assert [(each.name, each.now_nano - each.before_nano) for each in found] == [
        ("came", 70),
        ("left", -50),
        ("same", 0),
    ]
