"""A price is pinned when the money is held: edits in flight, dates ahead, tiers and hours decide once, and exactly."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

import models.price_list
import ops
from models.errors import NeedsConfirmation
from tests.faults.books import aliases, record_of
from tests.rig import Price, Rig

OLD, NEW = Price("1", "2"), Price("2", "5")
COUNTS = "words=5,prompt=100,completion=5"


@pytest.fixture(scope="module", autouse=True)
def _the_books_are_right_afterwards(rig: Rig) -> Iterator[None]:
    yield
    rig.reconcile()


def publish(rig: Rig, alias: str, price: Price, **terms: Any) -> int:
    """The new price's version."""
    proposal = rig.desk.catalog.propose_price(alias, input_usd=price.input, output_usd=price.output, **terms)
    return proposal.publish(reason="test", accept_warnings=True).id


@pytest.mark.parametrize("stream", [False, True])
async def test_an_edit_in_flight_does_not_change_the_bill(rig: Rig, stream: bool) -> None:
    """Faults 18."""
    upstream = f"sim:{COUNTS},gate,tag=pinned-{stream}"
    [alias] = aliases(rig, upstream, price=OLD)
    ada = rig.customer(models=[alias])
    running = asyncio.create_task(rig.chat(ada, alias, stream=stream))
    await rig.provider.wait(upstream)
    version = publish(rig, alias, NEW)
    rig.settle_feed()
    later = asyncio.create_task(rig.chat(ada, alias, stream=stream))
    await rig.provider.wait(upstream, count=2)
    await rig.provider.release(upstream)
    before, after = (record_of(rig, ada, answer) for answer in await asyncio.gather(running, later))
    assert before["charge_nano"] == OLD.charge_nano(100, 5)
    assert after["charge_nano"] == NEW.charge_nano(100, 5)
    assert before["price_version"] < after["price_version"] == version


async def test_a_price_dated_ahead_begins_at_its_second(rig: Rig) -> None:
    [alias] = aliases(rig, f"sim:{COUNTS},tag=dated", price=OLD)
    ada = rig.customer(models=[alias])
    begins = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1.2)
    version = publish(rig, alias, NEW, effective_from=begins)
    rig.settle_feed()
    while dt.datetime.now(dt.UTC) < begins + dt.timedelta(seconds=0.1):
        assert (await rig.chat(ada, alias)).status == 200
        await asyncio.sleep(0.03)
    records = rig.records(ada)
    assert {record["at"] >= begins for record in records} == {False, True}
    for record in records:
        assert (record["price_version"] == version) == (record["at"] >= begins)
        price = NEW if record["at"] >= begins else OLD
        assert record["charge_nano"] == price.charge_nano(100, 5)


async def test_a_price_that_was_cancelled_does_not_begin(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers had it in their snapshots already; they forget it within a second, without a restart."""
    monkeypatch.setattr(models.price_list, "CANCEL_AHEAD_US", 1_000_000)
    [alias] = aliases(rig, f"sim:{COUNTS},tag=cancelled", price=OLD)
    ada = rig.customer(models=[alias])
    begins = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)
    version = publish(rig, alias, NEW, effective_from=begins)
    rig.settle_feed()
    rig.desk.catalog.cancel_price(version, reason="test")
    while dt.datetime.now(dt.UTC) < begins:
        await asyncio.sleep(0.05)
    for answer in await rig.everywhere(ada, alias):
        assert record_of(rig, ada, answer)["charge_nano"] == OLD.charge_nano(100, 5)


async def test_a_tier_is_chosen_by_all_of_the_actual_input(rig: Rig) -> None:
    """Fresh, cached and written tokens together reach the tier; the hold had covered the dearest one in reach."""
    counts = {
        "below": "prompt=200",
        "above": "prompt=201",
        "cached": "prompt=201,cached=200",
        "written": "prompt=201,written=200",
    }
    names = aliases(rig, *(f"sim:words=5,completion=5,{count}" for count in counts.values()), price=None)
    high = Price("2", "4", cached="1", written="3")
    tier = {"above_tokens": 200, "input_usd": "2", "output_usd": "4", "cached_input_usd": "1", "cache_write_usd": "3"}
    for name in names:
        publish(rig, name, OLD, tiers=[tier])
    rig.settle_feed()
    ada = rig.customer(models=names)
    messages = [{"role": "user", "content": "x" * 300}]
    for stream in (False, True):
        answers = [await rig.chat(ada, name, messages=messages, max_tokens=5, stream=stream) for name in names]
        charges = [record_of(rig, ada, answer)["charge_nano"] for answer in answers]
        assert charges == [
            OLD.charge_nano(200, 5),
            high.charge_nano(201, 5),
            high.charge_nano(1, 5, cached=200),
            high.charge_nano(1, 5, written=200),
        ]


async def test_a_hold_covers_the_dearest_tier_in_reach_and_none_beyond(rig: Rig) -> None:
    upstream = f"sim:{COUNTS},gate,tag=tiers"
    [alias] = aliases(rig, upstream, price=None)
    publish(rig, alias, OLD, tiers=[{"above_tokens": 300, "input_usd": "3", "output_usd": "7"}])
    rig.settle_feed()
    ada = rig.customer(models=[alias])
    for letters, price in ((284, OLD), (285, Price("3", "7"))):
        running = asyncio.create_task(
            rig.chat(ada, alias, max_tokens=10, messages=[{"role": "user", "content": "x" * letters}])
        )
        await rig.provider.wait(upstream, count=1 if price == OLD else 2)
        assert rig.held_nano(ada) == price.charge_nano(letters + 16, 10)
        await rig.provider.release(upstream)
        assert record_of(rig, ada, await running)["charge_nano"] == OLD.charge_nano(100, 5)


async def test_hours_of_the_day_have_their_price(rig: Rig) -> None:
    now, hours, no, yes = aliases(rig, *(f"sim:{COUNTS},tag=hour-{i}" for i in range(4)), price=None)
    minute = dt.datetime.now(dt.UTC)

    def window(start_h: float, end_h: float) -> dict[str, str]:
        start, end = (minute + dt.timedelta(hours=h) for h in (start_h, end_h))
        return {"start": f"{start:%H:%M}", "end": f"{end:%H:%M}", "input_usd": "2", "output_usd": "5"}

    # One of them wraps past midnight, whatever the hour of this test is.
    publish(rig, now, OLD, windows=[window(-1, 1)])
    publish(rig, hours, OLD, windows=[window(-1, 14)])
    publish(rig, no, OLD, windows=[window(1, 3)])
    publish(rig, yes, NEW, windows=[{**window(1, 3), "input_usd": "9"}, {**window(3, 5), "input_usd": "8"}])
    rig.settle_feed()
    ada = rig.customer(models=[now, hours, no, yes])
    charges = [record_of(rig, ada, await rig.chat(ada, name))["charge_nano"] for name in (now, hours, no, yes)]
    assert charges == [price.charge_nano(100, 5) for price in (NEW, NEW, OLD, NEW)]


def test_a_slip_of_units_needs_an_explicit_confirmation(rig: Rig) -> None:
    """Faults 20: per token instead of per million, or a thousand times too much, or below what it costs us."""
    [alias] = aliases(rig, "sim", price=OLD, cost_input_usd="0.50", cost_output_usd="1")
    before = rig.desk.catalog.prices()
    for input_usd, output_usd in (("1000", "2000"), ("0.001", "0.002"), ("3.00001", "2"), ("0.4", "2"), ("1", "0.99")):
        proposal = rig.desk.catalog.propose_price(alias, input_usd=input_usd, output_usd=output_usd)
        assert proposal.warnings
        with pytest.raises(NeedsConfirmation):
            proposal.publish(reason="a slip")
    assert rig.desk.catalog.prices().equals(before)
    rig.desk.catalog.propose_price(alias, input_usd="3", output_usd="5").publish(reason="not a slip")
    assert ops.NeedsConfirmation is NeedsConfirmation
