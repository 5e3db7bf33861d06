"""Charges against prices: what the database finds in one statement is what Python finds row by row, for every kind of price."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import models.charge_check
from models.bands import MOST_TOKENS, bands_of
from models.charge_check import check_charges, faults_by_python
from models.database import Database
from models.ids import new_request_id
from models.prices import MOST_RATE_NANO, Meters, PriceVersion, Rates, Tier, Window
from tests.models.charged import AT_US, EDGES, MINUTE_US, request, versions, write
from tests.models.shop import Shop


@given(
    price=st.sampled_from(versions()),
    minute=st.integers(0, 1439),
    fresh=st.sampled_from(EDGES) | st.integers(0, MOST_TOKENS),
    cached=st.sampled_from([0, 1, 500]),
    output=st.integers(0, MOST_TOKENS),
)
def test_one_band_serves_each_request_and_its_rates_are_the_price(
    price: PriceVersion, minute: int, fresh: int, cached: int, output: int
) -> None:
    meters = Meters(fresh, cached, 0, output)
    (band,) = (
        band
        for band in bands_of(price)
        if band.from_minute <= minute < band.to_minute and band.above < meters.input <= band.upto
    )
    rates = Rates(band.fresh, band.cached, band.written, band.output)
    assert rates.charge_nano(meters) == price.charge_nano(meters, minute * MINUTE_US)


def test_a_plain_price_is_one_band_and_the_edges_of_a_window_are_exact() -> None:
    assert len(bands_of(versions()[0])) == 1
    window = Window(1430, 10, (Tier(0, Rates(1, 1, 1, 1)),))
    price = PriceVersion(1, 0, (Tier(0, Rates(2, 2, 2, 2)),), (window,))
    assert [(band.from_minute, band.to_minute, band.fresh) for band in bands_of(price)] == [
        (0, 10, 1),
        (10, 1430, 2),
        (1430, 1440, 1),
    ]


@pytest.mark.parametrize("seed", range(3))
async def test_the_database_and_python_find_the_same_faults(
    database: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.charge_check, "SHOWN", 1_000)
    monkeypatch.setattr(models.charge_check, "PAGE", 7)
    chance = random.Random(seed)
    await write(database, [request(chance, n) for n in range(120)])
    prices = versions()
    slow = [
        f"request {row['request_id']}: {fault}"
        async for row, fault in faults_by_python(database, {price.id: price for price in prices})
    ]
    quick = await check_charges(database, prices)
    assert sorted(quick.shown) == slow
    assert (quick.records, quick.faults) == (120, len(slow))
    assert len(slow) > 10


async def test_rates_beyond_what_can_be_typed_are_multiplied_in_python(database: Database) -> None:
    rates = Rates(*[MOST_RATE_NANO * 2**20] * 4)
    price = PriceVersion(7, AT_US, (Tier(0, rates),))
    row = request(random.Random(1), 1) | {"price": 7, "hold": 7, "held_at": AT_US, "estimated": False, "writeoff": 0}
    charge = rates.charge_nano(Meters(1, 1, 0, 1))
    await write(database, [row | {"tokens": [1, 1, 0, 1], "charge": charge}])
    assert (await check_charges(database, [price])).faults == 0
    await write(database, [row | {"id": new_request_id(AT_US), "tokens": [2**31, 1, 0, 1], "charge": charge}])
    assert (await check_charges(database, [price])).faults == 1


async def test_reconcile_counts_what_it_does_not_spell_out(shop: Shop) -> None:
    for _ in range(5):
        await shop.serve(Meters(fresh=10), fresh=11)
    ok, detail = await models.charge_check.charges_are_price_times_tokens(shop.database)
    assert not ok
    assert "2 more" in detail
    assert detail.count("its tokens cost 297000") == 3
