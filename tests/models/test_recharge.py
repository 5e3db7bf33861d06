"""Past usage under other prices: the database adds up what Python does request by request; the same price comes to the same."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import msgspec
import pytest

import models.recharge
from models.database import Database
from models.ids import DAY_US, now_us
from models.price_terms import price_from_usd
from models.prices import Meters, PriceVersion, Rates, Tier, Window, schedule_to_json
from models.recharge import Recharge, recharge, recharged_nano
from models.records import CatalogModel, Price
from tests.models.charged import AT_US, request, versions, write
from tests.models.shop import Shop

SUMS = [name for name in Recharge.__struct_fields__ if name not in ("model_id", "account_id")]


async def store(database: Database) -> dict[int, PriceVersion]:
    """The prices of the tests' requests, as versions of model 1, which all of those are for."""
    await CatalogModel.create(id=1, alias="m", context_tokens=9, max_output_tokens=9, created_us=1)
    for price in versions():
        base = price.tiers[0].rates
        await Price.create(
            id=price.id,
            model_id=1,
            effective_us=AT_US + price.id,
            input_nano=base.fresh,
            cached_input_nano=base.cached,
            cache_write_nano=base.written,
            output_nano=base.output,
            schedule=schedule_to_json(price),
            operator="olga",
            reason="list",
            created_us=1,
        )
    return {price.id: price for price in versions()}


def any_price(chance: random.Random) -> PriceVersion:
    """With up to two tiers, and up to two windows that have one more each; an edge may be that of a request."""

    def tiers() -> tuple[Tier, ...]:
        above = sorted(chance.sample([100, 101, 1_000, 1_500, 2_000, 2_001, 49_999], chance.randrange(3)))
        return tuple(Tier(n, Rates(*(chance.randrange(10**6) for _ in range(4)))) for n in (0, *above))

    cut = sorted(chance.sample(range(1_440), 3))
    windows = [Window(cut[0], cut[1], tiers()), Window(cut[2], cut[0], tiers())][: chance.randrange(3)]
    return PriceVersion(0, 0, tiers(), tuple(windows))


def by_python(rows: list[dict[str, Any]], old: dict[int, PriceVersion], new: PriceVersion) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for row in rows:
        names = ("fresh_tokens", "cached_tokens", "cache_write_tokens", "output_tokens")
        record = dict(zip(names, row["tokens"], strict=True)) | {
            "charge_nano": row["charge"],
            "writeoff_nano": row["writeoff"],
            "estimated": row["estimated"],
            "at_us": None if row["hold"] is None else row["held_at"],
        }
        asked, comes_to = row["charge"] + row["writeoff"], recharged_nano(record, old.get(row["hold"]), new)
        paid = min(row["charge"], comes_to)
        total["requests"] += 1
        total["estimated"] += row["estimated"]
        total["charge_nano"] += row["charge"]
        total["writeoff_nano"] += row["writeoff"]
        total["cost_nano"] += 1
        total["recharged_nano"] += comes_to
        total["overpaid_nano"] += row["charge"] - paid
        total["unwritten_nano"] += row["writeoff"] - min(row["writeoff"], max(0, comes_to - paid))
        total["unpaid_nano"] += max(0, comes_to - asked)
    return dict(total)


@pytest.mark.parametrize("seed", range(4))
async def test_the_database_prices_every_request_as_python_does(
    database: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any price with tiers and windows; among the requests are estimates, odd ones, and some too large to multiply."""
    monkeypatch.setattr(models.recharge, "PAGE", 3)
    chance = random.Random(seed)
    old = await store(database)
    rows = [request(chance, n) for n in range(150)]
    await write(database, rows)
    for _ in range(3):
        new = any_price(chance)
        (total,) = await recharge(database, {1: new}, AT_US, AT_US + 2 * DAY_US)
        assert {name: getattr(total, name) for name in SUMS} == by_python(rows, old, new)
        assert (
            total.billed_nano - total.overpaid_nano - total.unwritten_nano + total.unpaid_nano == total.recharged_nano
        )


TIERED_AND_TIMED = price_from_usd(
    input_usd="1",
    output_usd="2",
    tiers=[{"above_tokens": 1_000, "input_usd": "3", "output_usd": "5"}],
    windows=[{"start": "16:30", "end": "00:30", "input_usd": "0.5", "output_usd": "0.7"}],
)


async def test_an_unchanged_price_comes_to_what_was_billed_whatever_became_of_it(shop: Shop) -> None:
    """Served, left and failed; with a write-off; an estimate, and one that was capped at its hold."""
    shop.price = msgspec.structs.replace(TIERED_AND_TIMED, id=shop.price.id)
    await _rewrite_price(shop)
    start = now_us() // DAY_US * DAY_US + DAY_US
    for n in range(48):
        await shop.serve(Meters(900 + n * 10, n, n % 3, n), at_us=start + n * DAY_US // 48)
    await shop.serve(Meters(), outcome="failed", at_us=start)
    await shop.serve(Meters(fresh=10), outcome="left", at_us=start + 1)
    await shop.serve(Meters(fresh=10, output=30), estimated=True, at_us=start + 2)
    await shop.serve(Meters(fresh=10, output=30), estimated=True, charge_nano=77, at_us=start + 3)
    await shop.serve(Meters(fresh=20_000, output=300_000_000), at_us=start + 4)
    (total,) = await recharge(shop.database, {shop.model_id: shop.price}, start, start + DAY_US)
    assert (total.requests, total.estimated) == (52, 2)
    assert total.writeoff_nano > 0
    assert total.recharged_nano == total.billed_nano
    assert total.overpaid_nano == total.unwritten_nano == total.unpaid_nano == 0


async def test_an_estimate_that_was_capped_is_never_more_than_it_was(shop: Shop) -> None:
    start = now_us()
    await shop.serve(Meters(fresh=10), estimated=True, charge_nano=1_000, at_us=start)
    for rate, comes_to in ((27_000, 1_000), (99_000, 1_000), (7, 70)):
        new = PriceVersion(0, 0, (Tier(0, Rates(rate, rate, rate, rate)),))
        (total,) = await recharge(shop.database, {shop.model_id: new}, start, start + 1)
        assert total.recharged_nano == comes_to


async def test_only_the_requests_asked_for_are_counted(shop: Shop) -> None:
    start = now_us()
    for moment in (start - 1, start, start + DAY_US - 1, start + DAY_US):
        await shop.serve(Meters(fresh=10), at_us=moment)
    (total,) = await recharge(shop.database, {shop.model_id: shop.price}, start, start + DAY_US)
    assert total.requests == 2
    for more in ({"account_id": 999_999},):
        assert await recharge(shop.database, {shop.model_id: shop.price}, start, start + DAY_US, **more) == []
    assert await recharge(shop.database, {999: shop.price}, start, start + DAY_US) == []
    assert await recharge(shop.database, {}, start, start + DAY_US) == []


async def _rewrite_price(shop: Shop) -> None:
    """A version under which the shop's requests are charged as `shop.price` says."""
    base = shop.price.tiers[0].rates
    row = await Price.create(
        model_id=shop.model_id,
        effective_us=1,
        input_nano=base.fresh,
        cached_input_nano=base.cached,
        cache_write_nano=base.written,
        output_nano=base.output,
        schedule=schedule_to_json(shop.price),
        operator="olga",
        reason="list",
        created_us=1,
    )
    shop.price = msgspec.structs.replace(shop.price, id=row.id)
