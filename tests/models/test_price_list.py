"""Many prices at once, prices taken back before they take effect, and prices made from costs."""

from __future__ import annotations

import asyncio
import sys
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.catalog import add_model
from models.errors import BadInput, Conflict, NotFound
from models.ids import SECOND_US, now_us
from models.invariants import check_invariants
from models.markup import marked_up
from models.price_list import CANCEL_AHEAD_US, Order, cancel_price, price_at, price_rows, publish_price, publish_prices
from models.price_terms import price_from_usd
from models.prices import Meters, PriceVersion
from models.records import Price, PriceCancelled
from models.routes import RouteInfo
from tests.models.shop import Shop, last_change, trace

DEARER = price_from_usd(input_usd="0.54", output_usd="2.20")
HOUR_US = 3_600 * SECOND_US


async def ahead(shop: Shop, by_us: int = HOUR_US, price: PriceVersion = DEARER) -> PriceVersion:
    return await publish_price(shop.database, "olga", "small-chat", price, reason="list", effective_us=now_us() + by_us)


async def test_a_cancelled_price_never_takes_effect_and_the_one_before_goes_on(shop: Shop) -> None:
    first, second = await ahead(shop), await ahead(shop, 2 * HOUR_US)
    await cancel_price(shop.database, "paul", first.id, reason="too early")
    assert await last_change() == ("catalog", 0)
    assert await price_at(shop.database, "small-chat", first.effective_us) == shop.price
    assert await price_at(shop.database, "small-chat", second.effective_us) == second
    rows = await price_rows(shop.database, history=True)
    assert [row["status"] for row in rows] == ["current", "cancelled", "scheduled"]
    assert (rows[1]["cancelled_by"], rows[1]["cancelled_reason"]) == ("paul", "too early")
    assert [row["status"] for row in await price_rows(shop.database)] == ["current", "scheduled"]


async def test_cancelling_twice_is_cancelling_once(shop: Shop) -> None:
    price = await ahead(shop)
    await cancel_price(shop.database, "olga", price.id, reason="no")
    before = await trace()
    assert await cancel_price(shop.database, "olga", price.id, reason="no") == price
    assert await trace() == before
    assert await PriceCancelled.all().count() == 1


async def test_a_price_that_is_in_force_or_about_to_be_is_not_cancelled(shop: Shop) -> None:
    soon = await ahead(shop, CANCEL_AHEAD_US - SECOND_US)
    before = await trace()
    for price in (shop.price, soon):
        with pytest.raises(BadInput, match="publish another price instead"):
            await cancel_price(shop.database, "olga", price.id, reason="no")
    with pytest.raises(NotFound, match="no price version 999"):
        await cancel_price(shop.database, "olga", 999, reason="no")
    with pytest.raises(BadInput, match="reason"):
        await cancel_price(shop.database, "olga", soon.id, reason="")
    assert (await trace(), await PriceCancelled.all().count()) == (before, 0)


async def test_the_books_find_a_charge_by_a_cancelled_price(shop: Shop) -> None:
    price = await ahead(shop)
    shop.price, right = price, shop.price
    await shop.serve(Meters(fresh=10), at_us=price.effective_us + 1)
    shop.price = right
    await shop.serve(Meters(fresh=10))

    async def wrong() -> list[str]:
        return [finding.name for finding in await check_invariants(shop.database) if not finding.ok]

    assert await wrong() == []
    await cancel_price(shop.database, "olga", price.id, reason="no")
    assert await wrong() == ["every charge is tokens × pinned price"]


async def orders(shop: Shop, *aliases: str, **seen: Any) -> list[Order]:
    for alias in aliases:
        if alias.startswith("new"):
            await add_model(shop.database, "olga", alias, context_tokens=9, max_output_tokens=9)
    return [Order(alias, DEARER, **seen) for alias in aliases]


async def test_many_prices_are_published_at_once_in_their_order(shop: Shop) -> None:
    listed = await orders(shop, "new-1", "small-chat", "new-2")
    published = await publish_prices(shop.database, "olga", listed, reason="list")
    assert [await price_at(shop.database, order.model) for order in listed] == published
    assert await publish_prices(shop.database, "olga", [], reason="list") == []


async def test_one_that_cannot_be_published_stops_all(shop: Shop) -> None:
    listed, before = await orders(shop, "new-1", "small-chat"), await trace()
    stale = Order("small-chat", DEARER, replaces_id=0)
    wrong: list[tuple[Order, type[Exception]]] = [
        (Order("no-such", DEARER), NotFound),
        (stale, Conflict),
        (Order("small-chat", DEARER, last_seen_id=99), Conflict),
        (Order("small-chat", DEARER, effective_us=now_us() - HOUR_US), BadInput),
    ]
    for order, error in wrong:
        with pytest.raises(error):
            await publish_prices(shop.database, "olga", [*listed, order], reason="list")
        assert (await trace(), await Price.all().count()) == (before, 1)


async def test_a_price_that_replaces_another_than_was_seen_is_a_conflict(shop: Shop) -> None:
    """One that was to take effect before it was cancelled: the newest version is the same, what would be replaced is not."""
    middle, last = await ahead(shop), await ahead(shop, 3 * HOUR_US)
    order = Order("small-chat", DEARER, now_us() + 2 * HOUR_US, last_seen_id=last.id, replaces_id=middle.id)
    await cancel_price(shop.database, "olga", middle.id, reason="no")
    with pytest.raises(Conflict, match="propose again"):
        await publish_prices(shop.database, "olga", [order], reason="list")


KILLED = """
import asyncio, os, sys
import models.price_list
from models.database import open_database, parse_url
from models.price_list import Order, publish_prices
from models.price_terms import price_from_usd

async def main(url: str) -> None:
    price, told = price_from_usd(input_usd="1", output_usd="2"), models.price_list.OperatorWrite.audit
    async def audit(write, action, subject, **more):
        if subject == "model new-2":
            os.kill(os.getpid(), 9)
        await told(write, action, subject, **more)
    models.price_list.OperatorWrite.audit = audit
    async with open_database(parse_url(url)) as database:
        await publish_prices(database, "olga", [Order("new-1", price), Order("new-2", price)], reason="list")

asyncio.run(main(sys.argv[1]))
"""


async def test_killed_in_the_middle_of_a_list_nothing_is_published(shop: Shop) -> None:
    listed, before = await orders(shop, "new-1", "new-2"), await trace()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, shop.database.url.text)
    assert await process.wait() == -9
    assert (await trace(), await Price.all().count()) == (before, 1)
    assert len(await publish_prices(shop.database, "olga", listed, reason="list")) == 2


# ── prices from costs ─────────────────────────────────────────────────────────────────────────────────────────────


def route(*costs: int | None, id_: int = 1) -> RouteInfo:
    return RouteInfo(id_, "m", "acme", "acme-1", 1, 1, True, *costs)


RATES = st.integers(0, 10**6)


@given(st.lists(st.tuples(RATES, RATES, RATES, RATES), min_size=1, max_size=3), st.integers(0, 10**6))
def test_a_markup_is_never_less_than_asked_for_nor_a_fifth_decimal_more(
    costs: list[tuple[int, int, int, int]], thousandths: int
) -> None:
    rates = marked_up([route(*cost) for cost in costs], f"{thousandths // 1000}.{thousandths % 1000:03d} %")
    for n, rate in enumerate((rates.fresh, rates.cached, rates.written, rates.output)):
        exact = max(cost[n] for cost in costs) * (1 + Fraction(thousandths, 100_000))
        assert exact <= rate < exact + 1


def test_what_has_no_cost_of_its_own_costs_what_input_does() -> None:
    rates = marked_up([route(100, None, 300, 900), route(200, 50, None, 800, id_=2)], "50%")
    assert (rates.fresh, rates.cached, rates.written, rates.output) == (300, 150, 450, 1_350)


@pytest.mark.parametrize("markup", [30, 0.3, "30", "-5%", "", None, "30 percent", "1e3%", "٣%"])
def test_a_markup_that_is_not_a_percentage_is_refused(markup: Any) -> None:
    with pytest.raises(BadInput, match='like "30%"'):
        marked_up([route(1, 1, 1, 1)], markup)


def test_a_markup_without_costs_names_the_route_and_the_remedy() -> None:
    with pytest.raises(BadInput, match=r"route 7 \(acme/acme-1\) has no cost .* set_route"):
        marked_up([route(1, 1, 1, 1), route(None, 1, 1, 1, id_=7)], "30%")
    with pytest.raises(BadInput, match="no enabled route"):
        marked_up([], "30%")
    with pytest.raises(BadInput, match="above 10000"):
        marked_up([route(10**9, 1, 1, 1)], "1%")
