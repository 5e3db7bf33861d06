"""What operators look at before they act: customers and their ledger, limits, quarantine, and the months of reports."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest

import ops
from models.database import Database, open_database, parse_url
from models.ids import DAY_US, SECOND_US, to_us
from models.prices import Meters
from models.records import Quarantine
from tests.models.shop import Shop, open_shop, sqlite_only
from tests.ops.test_reports import serve

ADA, BO = "ada@example.com", "bo@example.com"
MINUTE_US = 60 * SECOND_US


def with_shop(address: str, work: Callable[[Shop], Awaitable[None]]) -> None:
    async def go(database: Database) -> None:
        await work(await open_shop(database))

    async def opened() -> None:
        async with open_database(parse_url(address), pool=1) as database:
            await go(database)

    asyncio.run(opened())


def test_a_customer_is_found_by_a_part_of_their_address_or_name(desk: ops.Desk) -> None:
    desk.accounts.create(BO, name="Bo's Bakery")
    assert desk.accounts.find("BAKE")["email"].to_list() == [BO]
    assert desk.accounts.find("@example.com")["email"].to_list() == [ADA, BO]
    ada = desk.accounts.find("ada").iloc[0]
    assert (ada["available"], ada["held"], ada["balance"]) == (Decimal(1000), 0, Decimal(1000))
    assert desk.accounts.find("nobody").empty


def test_a_ledger_shows_the_newest_movements_and_the_balance_after_each(desk: ops.Desk) -> None:
    desk.credits.grant(ADA, credits="0.5", reason="thanks", grant_key="g-1")
    desk.credits.take_back(ADA, credits="100", reason="a slip", grant_key="g-2", kind="correction")
    ledger = desk.accounts.ledger(ADA, limit=2)
    assert ledger["amount"].to_list() == [Decimal(-100), Decimal("0.5")]
    assert ledger["balance"].to_list() == [Decimal("900.5"), Decimal("1000.5")]
    assert ledger["note"].to_list() == ["a slip", "thanks"]
    with pytest.raises(ops.NotFound):
        desk.accounts.ledger(BO)


def test_without_usage_a_ledger_reaches_back_to_what_people_gave(desk: ops.Desk, address: str) -> None:
    async def use(shop: Shop) -> None:
        start_us = to_us(desk.accounts.find(ADA)["created_at"].iloc[0].to_pydatetime()) // DAY_US * DAY_US
        for day in range(1, 4):
            await serve(shop, start_us + day * DAY_US, 5, Meters(fresh=1_000))

    with_shop(address, use)
    assert set(desk.accounts.ledger(ADA, limit=3)["kind"]) == {"usage"}
    assert desk.accounts.ledger(ADA, limit=3, usage=False)["kind"].to_list() == ["grant"]


def test_the_busiest_window_stands_beside_the_limit(desk: ops.Desk, address: str) -> None:
    desk.limits.set(account=ADA, unit="requests", quota=4)
    desk.limits.set(default="key", unit="tokens", quota=10_000, window_s=120)
    desk.limits.set(default="account", unit="requests", quota=1)
    desk.limits.set(account=ADA, unit="concurrent", quota=1)
    begin_us = (
        to_us(desk.catalog.prices()["effective_from"].iloc[0].to_pydatetime()) // (2 * MINUTE_US) * (2 * MINUTE_US)
    )
    begin_us += 2 * MINUTE_US

    async def use(shop: Shop) -> None:
        for second in (0, 30, 59, 60):
            await serve(shop, begin_us + second * SECOND_US, 5, Meters(fresh=900, output=100))

    with_shop(address, use)
    peaks = desk.limits.peaks()
    # The account has a limit of its own, so the default of accounts is nobody's; one that counts at once has no window.
    assert peaks[["subject", "unit", "limit", "used", "quota", "percent"]].to_numpy().tolist() == [
        ["account", "requests", "own", 3, 4, Decimal("75.0")],
        ["key", "tokens", "default", 4_000, 10_000, Decimal("40.0")],
    ]
    assert peaks["name"].to_list()[0] == ADA
    assert to_us(peaks["at"].iloc[0].to_pydatetime()) == begin_us
    assert desk.limits.peaks(until="2020-01-01").empty


def test_quarantine_names_what_was_refused_and_why(desk: ops.Desk, address: str) -> None:
    assert desk.quarantine.list().empty

    async def refuse(shop: Shop) -> None:
        await Quarantine.create(at_us=1_000_000, request_id="r-1", error="overdrawn", command="{}")

    with_shop(address, refuse)
    row = desk.quarantine.list().iloc[0]
    assert (row["request_id"], row["error"], row["command"]) == ("r-1", "overdrawn", "{}")
    assert not desk.reconcile().set_index("number").loc[12, "ok"]


@sqlite_only
def test_what_was_done_reads_as_a_sentence(desk: ops.Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repr(desk.credits.grant(ADA, credits="5", reason="thanks", grant_key="g")) == (
        "5 credits moved, grant_key 'g'; balance of ada@example.com: 1005 credits"
    )
    assert "were moved before" in repr(desk.credits.grant(ADA, credits="5", reason="thanks", grant_key="g"))
    monkeypatch.setenv("OPS_APPROVAL_ABOVE", "10")
    waits = repr(desk.credits.grant(ADA, credits="50", reason="thanks", grant_key="h"))
    assert waits.startswith("Nothing has moved: grant_key 'h' waits for a second operator as number 1;")


@sqlite_only
def test_a_business_without_usage_is_looked_at_in_its_running_month(desk: ops.Desk) -> None:
    month = desk.reports.billing_month()
    assert month.status == "provisional"
    assert month.since < month.until
    assert desk.reports.billing_month("2025-02").days == 28
    assert repr(desk.reports.billing_month("2025-02")) == "2025-02 (final): 2025-02-01 00:00 to 2025-03-01 00:00 UTC"
    costs = desk.reports.provider_costs(month.name)
    assert (costs["requests"].sum(), costs["amount_usd"].sum()) == (0, 0)
    assert ops.practice_invoice(desk, costs["provider"].iloc[0], month.name).ok
