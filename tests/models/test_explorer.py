"""What a customer reads of their usage: pages that neither skip nor repeat, filters, and receipts that add up."""

from __future__ import annotations

import pytest

from models.accounts import create_account
from models.errors import BadInput, NotFound
from models.explorer import receipt, usage_page, usage_pages
from models.ids import DAY_US, new_request_id, now_us
from models.price_list import price_at, publish_price
from models.price_terms import price_from_usd
from models.prices import Meters
from models.records import Account
from models.usage import EVERYTHING, UsageFilter
from tests.models.shop import Shop

METERS = Meters(fresh=100, cached=20, written=3, output=50)


async def ids(shop: Shop, only: UsageFilter = EVERYTHING, size: int = 2) -> list[str]:
    """The request ids of all pages, one after the other."""
    pages = usage_pages(shop.database, shop.account_id, only, size=size)
    return [record.request_id async for page in pages for record in page]


async def test_pages_follow_each_other_newest_first_without_a_gap_or_a_repetition(shop: Shop) -> None:
    made = [await shop.serve(METERS) for _ in range(5)]
    assert await ids(shop) == made[::-1]
    first = await usage_page(shop.database, shop.account_id, size=2)
    await shop.serve(METERS)  # What comes meanwhile does not shift the pages.
    second = await usage_page(shop.database, shop.account_id, before=first.next, size=2)
    third = await usage_page(shop.database, shop.account_id, before=second.next, size=2)
    assert [record.request_id for page in (first, second, third) for record in page.records] == made[::-1]
    assert third.next is None


async def test_a_record_says_what_a_customer_may_know_and_nothing_of_routes_or_cost(shop: Shop) -> None:
    moment = now_us()
    request_id = await shop.serve(METERS, at_us=moment)
    (record,) = (await usage_page(shop.database, shop.account_id)).records
    assert (record.request_id, record.at_us, record.key, record.model) == (request_id, moment, "laptop", "small-chat")
    assert (record.outcome, record.streamed, record.estimated) == ("served", False, False)
    assert record.meters == METERS
    assert record.charge_nano == shop.price.charge_nano(METERS, moment)
    assert not [name for name in record.__struct_fields__ if "route" in name or "cost" in name or "attempt" in name]


async def test_filters_choose_what_they_say_and_compose(shop: Shop) -> None:
    start = now_us()
    served = await shop.serve(METERS, at_us=start)
    failed = await shop.serve(Meters(), outcome="failed", at_us=start + DAY_US)
    guessed = await shop.serve(METERS, outcome="left", estimated=True, at_us=start + 2 * DAY_US)
    for only, found in (
        (UsageFilter(outcome="failed"), [failed]),
        (UsageFilter(estimated=True), [guessed]),
        (UsageFilter(estimated=False), [failed, served]),
        (UsageFilter(keys=(shop.key_id,)), [guessed, failed, served]),
        (UsageFilter(keys=(shop.key_id + 1,)), []),
        (UsageFilter(models=("small-chat", "unknown")), [guessed, failed, served]),
        (UsageFilter(models=("unknown",)), []),
        (UsageFilter(since_us=start + 1, until_us=start + 2 * DAY_US), [failed]),
        (UsageFilter(since_us=start + 1, outcome="served"), []),
    ):
        assert await ids(shop, only) == found, only


async def test_another_account_sees_nothing_of_it_by_any_way(shop: Shop) -> None:
    request_id = await shop.serve(METERS)
    await create_account(shop.database, "olga", "bob@example.com")
    bob = await Account.get(name="bob@example.com")
    assert (await usage_page(shop.database, bob.id, UsageFilter(keys=(shop.key_id,)))).records == []
    with pytest.raises(NotFound):
        await receipt(shop.database, bob.id, request_id)


@pytest.mark.parametrize("request_id", ["", "nonsense", "0190b5a8-0000-7000-8000-000000000001", "1' OR 1=1", "\x00"])
async def test_a_receipt_of_what_is_not_there_is_not_found(shop: Shop, request_id: str) -> None:
    with pytest.raises(NotFound):
        await receipt(shop.database, shop.account_id, request_id)


async def test_bad_filters_are_refused_by_name(shop: Shop) -> None:
    for field, given in (
        ("outcome", {"only": UsageFilter(outcome="lost")}),
        ("before", {"before": "yesterday"}),
        ("size", {"size": 0}),
    ):
        with pytest.raises(BadInput) as refusal:
            await usage_page(shop.database, shop.account_id, **given)  # type: ignore[arg-type]
        assert refusal.value.field == field


async def test_the_lines_of_a_receipt_add_up_to_its_charge_at_every_tier_and_window(shop: Shop) -> None:
    terms = price_from_usd(
        input_usd="1.25",
        cached_input_usd="0.125",
        cache_write_usd="1.5",
        output_usd="10",
        tiers=[{"above_tokens": 122, "input_usd": "2.5", "output_usd": "15"}],
        windows=[{"start": "16:30", "end": "00:30", "input_usd": "0.2", "output_usd": "1"}],
    )
    await publish_price(shop.database, "olga", "small-chat", terms, reason="tiers")
    price = await price_at(shop.database, "small-chat")
    assert price is not None
    shop.price = price
    midnight = now_us() // DAY_US * DAY_US + DAY_US
    noon, evening = midnight + DAY_US // 2, midnight + DAY_US // 4 * 3
    for at_us, fresh, window, above in (
        (noon, 99, None, 0),
        (noon, 100, None, 122),
        (evening, 100, price.windows[0], 0),
    ):
        meters = Meters(fresh=fresh, cached=20, written=3, output=50)
        found = await receipt(shop.database, shop.account_id, await shop.serve(meters, at_us=at_us))
        assert (found.window, found.above_tokens, found.price.id, found.held_us) == (window, above, price.id, at_us)
        assert [(line.meter, line.tokens) for line in found.lines] == [
            ("fresh", fresh),
            ("cached", 20),
            ("written", 3),
            ("output", 50),
        ]
        assert all(line.tokens * line.rate_nano == line.amount_nano for line in found.lines)
        assert sum(line.amount_nano for line in found.lines) == found.total_nano
        assert found.total_nano == found.record.charge_nano + found.record.writeoff_nano > 0


async def test_a_later_price_changes_no_receipt(shop: Shop) -> None:
    before = await receipt(shop.database, shop.account_id, request_id := await shop.serve(METERS))
    terms = price_from_usd(input_usd="5", output_usd="5")
    await publish_price(shop.database, "olga", "small-chat", terms, reason="dearer")
    assert await receipt(shop.database, shop.account_id, request_id) == before
    assert new_request_id(now_us()) > request_id
