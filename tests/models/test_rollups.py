"""Usage rolled up by day: whatever comes in whatever order, sums are those of the records, exactly and at all times."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import models.rollups
from models.database import Database
from models.day_repair import sum_again
from models.errors import BadInput
from models.explorer import usage_pages
from models.ids import DAY_US, SECOND_US, new_request_id
from models.invariants import check_invariants
from models.ledger import Ledger
from models.money import Capture, Place, Release, Settled
from models.months import CLOSES_AFTER_US, Month
from models.prices import Meters
from models.retention import drop_usage
from models.rollups import roll_up, rolled_until
from models.spend import HOUR_US, Sums, overview, spend_by, spend_per_key, today_and_month, total
from models.usage import EVERYTHING, UsageFilter, usage_rows
from tests.models.shop import Shop
from tests.models.test_writers import writer

# The shop's price is of today, and must be older than any request. The days go over the end of a month.
START_US = Month(2031, 1).start_us + 25 * DAY_US
DAYS = 12
METERS = Meters(fresh=10, output=5)


class Traffic:
    """Random requests of two accounts through the request path's writer, and what they should add up to."""

    def __init__(self, shop: Shop, ledger: Ledger, epoch_id: int, seed: int) -> None:
        self.shop, self.ledger, self.epoch_id = shop, ledger, epoch_id
        self.random = random.Random(seed)
        self.open: list[Place] = []
        self.expired: list[Place] = []
        self.records: list[dict[str, Any]] = []
        self.accounts = [shop.account_id]

    async def day(self, start_us: int) -> None:
        """Requests of one day, the first and the last of its moments among them. Some stay open."""
        moments = [start_us, start_us + DAY_US - 1, *(start_us + self.random.randrange(DAY_US) for _ in range(8))]
        places = [
            Place(
                new_request_id(at),
                self.random.choice(self.accounts),
                10**9,
                10**9,
                self.shop.price.id,
                self.epoch_id,
                at,
            )
            for at in sorted(moments)
        ]
        await self.ledger.apply(places)
        self.open += places
        self.random.shuffle(self.open)
        for _ in range(7):
            await self.settle(self.open.pop())

    async def settle(self, place: Place) -> None:
        outcome = self.random.choice(["served", "served", "served", "failed", "left"])
        if place in self.expired:
            outcome = "served"  # What failed late leaves no record.
        meters = Meters() if outcome == "failed" else Meters(*(self.random.randrange(1_000) for _ in range(4)))
        key_id, model_id = self.shop.key_id + self.random.randrange(3), self.shop.model_id + self.random.randrange(2)
        usage = self.shop.usage_row(
            place.request_id, place.at_us, meters, outcome, outcome == "left", key_id=key_id, model_id=model_id
        )
        usage = (*usage[:2], place.account_id, *usage[3:])
        command = (
            Release(place.request_id, place.account_id, place.at_us + 9, usage)
            if outcome == "failed"
            else Capture(
                place.request_id,
                place.account_id,
                self.shop.price.charge_nano(meters, place.at_us),
                place.at_us + 9,
                usage,
            )
        )
        (settled,) = await self.ledger.apply([command])
        assert isinstance(settled, Settled)
        names = "request_id at_us account_id key_id model_id route_id price_id outcome streamed estimated fresh_tokens"
        names += " cached_tokens cache_write_tokens output_tokens first_byte_ms total_ms cost_nano attempts"
        record = dict(zip(names.split(), usage, strict=True))
        self.records.append(record | {"charge_nano": settled.charged_nano, "writeoff_nano": settled.writeoff_nano})

    async def expire(self) -> None:
        """The worker is taken for dead: what is open is given back, and may be settled late."""
        await self.ledger.apply([Release(p.request_id, p.account_id, p.at_us + 5, expired=True) for p in self.open])
        self.expired += self.open
        self.open = []

    async def settle_late(self, count: int) -> None:
        self.random.shuffle(self.expired)
        for place in self.expired[:count]:
            await self.settle(place)
            self.expired.remove(place)


@contextlib.asynccontextmanager
async def traffic_of(shop: Shop, seed: int = 1) -> AsyncIterator[Traffic]:
    ledger = writer(shop.database)
    traffic = Traffic(shop, ledger, await shop.epoch(), seed)
    rows = await shop.database.rows(
        "INSERT INTO account (name, created_us, balance_nano) VALUES ('bob', 0, ?) RETURNING id", [10**12]
    )
    traffic.accounts.append(rows[0]["id"])
    try:
        yield traffic
    finally:
        await ledger.close()


GROUPS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "day": lambda record: record["at_us"] // DAY_US * DAY_US,
    "hour": lambda record: record["at_us"] // HOUR_US * HOUR_US,
    "account": lambda record: record["account_id"],
    "key": lambda record: record["key_id"],
    "model": lambda record: record["model_id"],
    "route": lambda record: record["route_id"],
    "outcome": lambda record: record["outcome"],
}


def added(records: list[dict[str, Any]], by: tuple[str, ...]) -> dict[tuple[Any, ...], Sums]:
    """What the records add up to, in plain Python."""
    groups: dict[tuple[Any, ...], dict[str, int]] = {}
    for record in records:
        sums = groups.setdefault(tuple(GROUPS[name](record) for name in by), dict.fromkeys(Sums.__struct_fields__, 0))
        for name in sums:
            sums[name] += 1 if name in ("requests", record["outcome"]) else int(record.get(name, 0))
        sums["uncosted_nano"] += record["charge_nano"]  # The shop's route has no costs.
        sums["failed_cost_nano"] += record["cost_nano"] if record["outcome"] == "failed" else 0
    return {group: Sums(**sums) for group, sums in groups.items()}


def chosen(records: list[dict[str, Any]], only: UsageFilter, account_id: int | None = None) -> list[dict[str, Any]]:
    return [
        record
        for record in records
        if (account_id is None or record["account_id"] == account_id)
        and (only.since_us is None or record["at_us"] >= only.since_us)
        and (only.until_us is None or record["at_us"] < only.until_us)
        and (not only.keys or record["key_id"] in only.keys)
        and (only.outcome is None or record["outcome"] == only.outcome)
        and (only.estimated is None or record["estimated"] == only.estimated)
    ]


async def check(traffic: Traffic, kept: list[dict[str, Any]] | None = None) -> None:
    """Sums of any kind are those of all records that there ever were; pages have those that are kept."""
    shop, every = traffic.shop, traffic.records
    rnd = random.Random(len(every))
    since_us = START_US + rnd.randrange(DAYS * DAY_US)
    stretches = [EVERYTHING, UsageFilter(outcome="failed"), UsageFilter(estimated=True, keys=(shop.key_id,))]
    if kept is None:
        stretches.append(UsageFilter(since_us=since_us, until_us=since_us + rnd.randrange(3 * DAY_US)))
    stretches.append(UsageFilter(since_us=since_us // DAY_US * DAY_US))
    for only, account_id in itertools.product(stretches, (None, traffic.accounts[0])):
        # By the hour all is read from the records, which is another way.
        names = [name for name in GROUPS if name != "hour"]
        by = tuple(rnd.sample(names, rnd.randrange(len(names) + 1)))
        for groups, records in ((by, every), (("hour", *by[:1]), every if kept is None else kept)):
            found = await spend_by(shop.database, groups, only, account_id=account_id)
            wanted = added(chosen(records, only, account_id), groups)
            assert {tuple(row.by.values()): row.sums for row in found} == wanted, (groups, only)
            assert [tuple(row.by.values()) for row in found] == sorted(wanted)
    only = rnd.choice(stretches)
    pages = usage_pages(shop.database, traffic.accounts[0], only, size=3)
    listed = [record.request_id async for page in pages for record in page]
    matching = chosen(every if kept is None else kept, only, traffic.accounts[0])
    assert listed == sorted((record["request_id"] for record in matching), reverse=True), only


async def days_rolled(database: Database) -> int:
    return max(0, ((await rolled_until(database)).until_us - START_US) // DAY_US)


@pytest.mark.parametrize("seed", [1, 2])
async def test_sums_and_pages_are_exact_after_every_step_of_a_random_history(shop: Shop, seed: int) -> None:
    rnd = random.Random(seed)
    async with traffic_of(shop, seed) as traffic:
        for day in range(DAYS):
            start_us = START_US + day * DAY_US
            await traffic.day(start_us)
            if rnd.random() < 0.5:
                await traffic.expire()
            await traffic.settle_late(rnd.randrange(2))
            await roll_up(shop.database, start_us + rnd.randrange(2 * DAY_US), most_days=rnd.choice([1, None]))
            await traffic.settle_late(rnd.randrange(2))
            await check(traffic)
        await traffic.expire()
        await roll_up(shop.database, START_US + 2 * DAYS * DAY_US)
        assert await days_rolled(shop.database) >= DAYS - 1
        await check(traffic)
        late = len(traffic.expired)
        assert late > 3
        await traffic.settle_late(late // 2)
        await check(traffic)
        bound = Month(2031, 2).start_us
        await drop_usage(shop.database, "olga", "2031-02", "retention", START_US + 2 * DAYS * DAY_US)
        kept = [record for record in traffic.records if record["at_us"] >= bound]
        assert 0 < len(kept) < len(traffic.records)
        await check(traffic, kept)
        before = len(traffic.records)
        await traffic.settle_late(late)
        await check(traffic, kept + traffic.records[before:])
        broken = [
            finding.name for finding in await check_invariants(shop.database) if finding.number == 13 and not finding.ok
        ]
        assert broken == []


async def test_a_day_is_rolled_up_an_hour_after_its_end_when_nothing_held_in_it_is_open(shop: Shop) -> None:
    closed_us = START_US + DAY_US + CLOSES_AFTER_US
    await shop.serve(METERS, at_us=START_US + DAY_US - 1)
    left = await shop.hold(START_US + 5)
    assert await roll_up(shop.database, closed_us - 1) == 0
    assert await roll_up(shop.database, closed_us) == 0  # One request is still open.
    await shop._apply(Release(left, shop.account_id, closed_us, expired=True))
    assert await roll_up(shop.database, closed_us - 1) == 0
    assert await roll_up(shop.database, closed_us) == 1
    assert await roll_up(shop.database, closed_us) == 0
    assert (await rolled_until(shop.database)).until_us == START_US + DAY_US


async def test_what_is_read_of_a_closed_day_is_its_sums_and_not_its_records(shop: Shop) -> None:
    await shop.serve(METERS, at_us=START_US)
    await roll_up(shop.database, START_US + 2 * DAY_US)
    before = await total(shop.database)
    await shop.database.connection.execute_query("DELETE FROM usage")
    assert await total(shop.database) == before == (await spend_per_key(shop.database, shop.account_id))[shop.key_id]
    assert before.requests == 1
    assert await spend_by(shop.database, ("hour",)) == []


async def test_at_once_from_several_sides_each_day_counts_once(shop: Shop) -> None:
    for day in range(4):
        await shop.serve(METERS, at_us=START_US + day * DAY_US)
    now_us = START_US + 9 * DAY_US
    await asyncio.gather(*(roll_up(shop.database, now_us, wait=True) for _ in range(3)))
    assert await days_rolled(shop.database) == 4
    assert (await total(shop.database)).requests == 4
    assert len(await shop.database.rows("SELECT 1 AS one FROM usage_day")) == 4


@pytest.mark.parametrize("then", ["late", "killed"])
async def test_a_late_settlement_or_a_kill_while_a_day_is_summed_loses_and_doubles_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    async with traffic_of(shop) as traffic:
        await traffic.day(START_US)
        await traffic.expire()
        # As its first record is of midnight, it is looked for from the day before on.
        assert await roll_up(shop.database, START_US + 2 * DAY_US, most_days=1) == 1
        assert await days_rolled(shop.database) == 0
        happened = []

        async def happen() -> None:
            """Once, after the day was summed and before that is kept."""
            if not happened:
                happened.append(then)
                if then == "killed":
                    raise asyncio.CancelledError
                await traffic.settle_late(1)

        if shop.database.dialect == "sqlite":
            begin = Database.transaction

            @contextlib.asynccontextmanager
            async def transaction(database: Database) -> AsyncIterator[Any]:
                await happen()
                async with begin(database) as begun:
                    yield begun

            monkeypatch.setattr(Database, "transaction", transaction)
        else:
            finish = models.rollups._finish

            async def finish_later(*arguments: Any) -> None:
                await happen()
                await finish(*arguments)

            monkeypatch.setattr(models.rollups, "_finish", finish_later)
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await roll_up(shop.database, START_US + 2 * DAY_US)
        assert happened == [then]
        assert await days_rolled(shop.database) == 1
        await check(traffic)


async def test_a_month_that_is_not_closed_is_not_dropped(shop: Shop) -> None:
    february = Month(2031, 2)
    await shop.serve(METERS, at_us=february.start_us - 5)
    with pytest.raises(BadInput, match="2031-01 is not closed yet") as refusal:
        await drop_usage(shop.database, "olga", "2031-02", "retention", february.start_us + 5)
    assert refusal.value.field == "before"
    assert len(await usage_rows(shop.database)) == 1
    await drop_usage(shop.database, "olga", "2031-02", "retention", february.start_us + CLOSES_AFTER_US)
    assert await usage_rows(shop.database) == []
    assert (await total(shop.database)).requests == 1


async def test_reconcile_names_a_day_whose_sums_were_altered(shop: Shop) -> None:
    await shop.serve(METERS, at_us=START_US)
    await roll_up(shop.database, START_US + 2 * DAY_US)
    await shop.database.connection.execute_query("UPDATE usage_day SET charge_nano = charge_nano + 1")
    broken = [finding for finding in await check_invariants(shop.database) if not finding.ok]
    assert [finding.number for finding in broken] == [13]
    assert f"2031-01-26 of account {shop.account_id}" in broken[0].detail


async def test_records_of_a_closed_day_by_a_slow_clock_are_reported_and_summed_again(shop: Shop) -> None:
    """And nothing else: neither days that are right, nor those whose records were dropped."""
    for day in (0, 1, 2):
        await shop.serve(METERS, at_us=START_US + day * DAY_US)
    await roll_up(shop.database, START_US + 4 * DAY_US)
    for _ in range(2):
        await shop.serve(METERS, at_us=START_US + DAY_US + SECOND_US)
    broken = [finding for finding in await check_invariants(shop.database) if not finding.ok]
    assert [finding.number for finding in broken] == [13]
    assert "gateway reconcile --sum-days" in broken[0].detail
    ids = await shop.database.rows("SELECT id FROM usage_day WHERE day_us <> ? ORDER BY id", [START_US + DAY_US])
    assert await sum_again(shop.database, "olga") == [START_US + DAY_US]
    assert [finding for finding in await check_invariants(shop.database) if not finding.ok] == []
    assert (await total(shop.database)).requests == 5
    assert await sum_again(shop.database, "olga") == []
    kept = await shop.database.rows("SELECT id FROM usage_day WHERE day_us <> ? ORDER BY id", [START_US + DAY_US])
    assert kept == ids
    month_after = Month(2031, 3)
    await drop_usage(shop.database, "olga", str(month_after), "retention", month_after.start_us + DAY_US)
    assert await sum_again(shop.database, "olga") == []
    assert (await total(shop.database)).requests == 5


async def test_a_late_settlement_while_a_day_is_summed_again_counts_once(shop: Shop) -> None:
    async with traffic_of(shop) as traffic:
        await traffic.day(START_US)
        await traffic.expire()
        await roll_up(shop.database, START_US + 2 * DAY_US)
        await shop.database.connection.execute_query("UPDATE usage_day SET charge_nano = charge_nano + 1")
        await asyncio.gather(sum_again(shop.database, "olga"), traffic.settle_late(3))
        await sum_again(shop.database, "olga")
        await check(traffic)


async def test_an_overview_knows_today_this_month_and_for_how_long_the_credits_last(shop: Shop) -> None:
    now_us = START_US + 3 * DAY_US + DAY_US // 2
    empty = await overview(shop.database, shop.account_id, now_us)
    assert (empty.runway_s, empty.last_days_nano, empty.today) == (None, 0, Sums())
    for at_us in (START_US - 20 * DAY_US, START_US, now_us - 7 * SECOND_US):
        await shop.serve(METERS, at_us=at_us)
    await shop.hold(now_us)
    each = shop.price.charge_nano(METERS, now_us)
    for _ in range(2):
        found = await overview(shop.database, shop.account_id, now_us)
        assert (found.today.charge_nano, found.this_month.charge_nano) == (each, 3 * each)
        assert found.available_nano == found.balance_nano - found.held_nano == empty.balance_nano - 3 * each - 10**9
        # Two of them within six and a half days.
        assert found.runway_s == found.available_nano * 13 * 43_200 // (2 * each)
        assert await today_and_month(shop.database, now_us) == (found.today, found.this_month)
        await shop.database.rows("UPDATE hold SET status = 'released' WHERE status = 'open' RETURNING account_id")
        await roll_up(shop.database, now_us)


async def test_names_stand_beside_the_ids_and_bad_groups_are_refused(shop: Shop) -> None:
    await shop.serve(METERS, at_us=START_US)
    (row,) = await spend_by(shop.database, ("route", "account", "key", "model", "outcome", "hour"))
    assert row.names == {
        "route": "acme/acme-1-small",
        "account": "ada@example.com",
        "key": "laptop",
        "model": "small-chat",
    }
    assert row.by == {
        "route": shop.route_id,
        "account": shop.account_id,
        "key": shop.key_id,
        "model": shop.model_id,
        "outcome": "served",
        "hour": START_US,
    }
    for by, only, field in (
        (("provider",), EVERYTHING, "by"),
        ((), UsageFilter(outcome="lost"), "outcome"),
        ((), UsageFilter(since_us=-1), "since"),
        ((), UsageFilter(until_us=2**70), "until"),
        ((), UsageFilter(keys=(2**64,)), "key"),
        ((), UsageFilter(models=("a\x00b",)), "model"),
    ):
        with pytest.raises(BadInput) as refusal:
            await spend_by(shop.database, by, only)
        assert refusal.value.field == field
