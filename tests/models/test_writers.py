"""The request path's two writers: they decide alike, together with others on the same accounts, and whatever breaks."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from models.database import Database, open_database, parse_url
from models.errors import InsufficientCredits, LedgerUnavailable, NotFound
from models.ids import new_request_id, now_us
from models.invariants import check_invariants
from models.ledger import Ledger
from models.money import Capture, Command, Held, Move, Moved, Place, Release, Settled
from models.postgres_ledger import PostgresLedger
from models.prices import Meters
from models.sqlite_ledger import SqliteLedger
from tests.databases import Templates
from tests.models.shop import Shop, open_shop, stock_shop
from tests.servers import execute

postgres_only = pytest.mark.parametrize("dialect", ["postgres"], indirect=True)
METERS = Meters(fresh=1_000, cached=200, written=0, output=300)


def writer(database: Database) -> Any:
    return SqliteLedger(database.url.path) if database.url.path is not None else PostgresLedger(database.url)


def place(shop: Shop, epoch_id: int, amount_nano: int = 10**9, account_id: int | None = None) -> Place:
    at_us = now_us()
    account = shop.account_id if account_id is None else account_id
    return Place(new_request_id(at_us), account, amount_nano, amount_nano, shop.price.id, epoch_id, at_us)


def capture(shop: Shop, placed: Place, meters: Meters = METERS) -> Capture:
    usage = shop.usage_row(placed.request_id, placed.at_us, meters, "served", False)
    charge_nano = shop.price.charge_nano(meters, placed.at_us)
    return Capture(placed.request_id, placed.account_id, charge_nano, now_us(), usage)


async def check(shop: Shop) -> None:
    assert [finding for finding in await check_invariants(shop.database) if not finding.ok] == []


async def balance(shop: Shop) -> tuple[int, int]:
    rows = await shop.database.rows("SELECT balance_nano, held_nano FROM account WHERE id = ?", [shop.account_id])
    return rows[0]["balance_nano"], rows[0]["held_nano"]


async def status(shop: Shop, placed: Place) -> str:
    rows = await shop.database.rows("SELECT status FROM hold WHERE request_id = ?", [placed.request_id])
    return str(rows[0]["status"])


async def test_a_request_is_placed_captured_and_told_again(shop: Shop) -> None:
    ledger, epoch = writer(shop.database), await shop.epoch()
    before, _ = await balance(shop)
    placed = place(shop, epoch)
    assert await ledger.apply([placed]) == [Held(10**9)]
    assert await balance(shop) == (before, 10**9)
    charge = shop.price.charge_nano(METERS, placed.at_us)
    assert await ledger.apply([capture(shop, placed)]) == [Settled(charge, 0)]
    again = [capture(shop, placed), Release(placed.request_id, placed.account_id, now_us())]
    assert await ledger.apply(again) == [Settled(charge, 0, repeated=True)] * 2
    assert await balance(shop) == (before - charge, 0)
    await ledger.close()
    await check(shop)


async def test_placed_and_ended_in_one_batch(shop: Shop) -> None:
    """A client that leaves at once, beside one whose settlement is waiting already."""
    ledger, epoch = writer(shop.database), await shop.epoch()
    one, two, three = (place(shop, epoch) for _ in range(3))
    await ledger.apply([three])
    charge = shop.price.charge_nano(METERS, two.at_us)
    release = Release(one.request_id, one.account_id, now_us())
    outcomes = await ledger.apply([one, release, two, capture(shop, two), capture(shop, three)])
    assert outcomes == [Held(10**9), Settled(0, 0), Held(10**9), Settled(charge, 0), Settled(charge, 0)]
    assert [await status(shop, p) for p in (one, two, three)] == ["released", "captured", "captured"]
    await ledger.close()
    await check(shop)


async def test_one_that_is_too_large_is_refused_and_its_neighbours_are_not(shop: Shop) -> None:
    ledger, epoch = writer(shop.database), await shop.epoch()
    batch = [place(shop, epoch), place(shop, epoch, 10**15), place(shop, epoch, account_id=4_000), place(shop, epoch)]
    first, large, nobody, last = await ledger.apply(batch)
    assert first == last == Held(10**9)
    assert isinstance(large, InsufficientCredits)
    assert isinstance(nobody, NotFound)
    stranger = Release(new_request_id(now_us()), shop.account_id, now_us())
    assert isinstance((await ledger.apply([stranger]))[0], NotFound)
    await ledger.close()


@postgres_only
async def test_a_worker_that_was_taken_for_dead_places_nothing_and_settles_late(shop: Shop) -> None:
    ledger, epoch = writer(shop.database), await shop.epoch()
    placed, left = place(shop, epoch), place(shop, epoch)
    await ledger.apply([placed, left])
    recovery = PostgresLedger(shop.database.url)
    await shop.database.rows("UPDATE epoch SET ended_us = 5 WHERE id = ? RETURNING id", [epoch])
    await recovery.apply([Release(p.request_id, p.account_id, now_us(), expired=True) for p in (placed, left)])
    assert (await balance(shop))[1] == 0
    # This worker still remembers them as open.
    charge = shop.price.charge_nano(METERS, placed.at_us)
    late, refused = await ledger.apply([capture(shop, placed), place(shop, epoch)])
    assert late == Settled(charge, 0)
    assert isinstance(refused, LedgerUnavailable)
    assert (await ledger.apply([Release(left.request_id, left.account_id, now_us())]))[0] == Settled(0, 0, True)
    assert [await status(shop, p) for p in (placed, left)] == ["captured", "expired"]
    await ledger.close()
    await recovery.close()
    await check(shop)


@postgres_only
async def test_two_writers_on_the_same_accounts_in_any_order(shop: Shop) -> None:
    """Faults 33: many batches at once, each of several accounts; none fails, and the books balance."""
    writers = [PostgresLedger(shop.database.url) for _ in range(3)]
    epochs = [await shop.epoch() for _ in writers]
    accounts = [shop.account_id]
    for n in range(3):
        rows = await shop.database.rows(
            "INSERT INTO account (name, created_us) VALUES (?, 0) RETURNING id", [f"other {n}"]
        )
        accounts.append(rows[0]["id"])
    await writers[0].apply([Move(1, account, 10**12, "grant", f"g-{account}", now_us()) for account in accounts[1:]])
    chance = random.Random(33)

    async def work(ledger: Ledger, epoch: int) -> None:
        for _ in range(25):
            placed = [place(shop, epoch, account_id=account) for account in chance.sample(accounts, 4)]
            assert all(isinstance(held, Held) for held in await ledger.apply(placed))
            ends: list[Command] = [
                capture(shop, p) if chance.random() < 0.7 else Release(p.request_id, p.account_id, now_us())
                for p in placed
            ]
            chance.shuffle(ends)
            assert all(isinstance(settled, Settled) for settled in await ledger.apply(ends))

    await asyncio.gather(*map(work, writers, epochs))
    for ledger in writers:
        await ledger.close()
    open_holds = await shop.database.rows("SELECT request_id FROM hold WHERE status = 'open'")
    assert open_holds == []
    await check(shop)


@postgres_only
@pytest.mark.drill
async def test_connections_die_in_the_middle_of_batches_and_nothing_is_done_twice(shop: Shop) -> None:
    """Faults 25: killed at any moment, even in the commit, a batch is done once or, told as away, can be repeated."""
    ledger, epoch = PostgresLedger(shop.database.url), await shop.epoch()
    address, done = shop.database.url.text, asyncio.Event()
    killing = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'gateway ledger' AND datname = current_database()"
    )

    async def kill() -> None:
        while not done.is_set():
            await execute(address, killing)
            await asyncio.sleep(0.004)

    async def persist(commands: list[Command]) -> list[Any]:
        while True:
            try:
                return await ledger.apply(commands)
            except LedgerUnavailable:
                continue

    killer, away = asyncio.create_task(kill()), 0
    for _ in range(60):
        placed = [place(shop, epoch) for _ in range(4)]
        try:
            outcomes = await ledger.apply(placed)
        except LedgerUnavailable:
            # Nobody knows whether they were placed: what a worker does then is to give them back.
            away += 1
            await persist([Release(p.request_id, p.account_id, now_us()) for p in placed])
            continue
        assert outcomes == [Held(10**9)] * 4
        settled = await persist([capture(shop, p) for p in placed])
        assert all(isinstance(one, Settled) and one.charged_nano > 0 for one in settled)
    done.set()
    await killer
    await ledger.close()
    assert (await balance(shop))[1] == 0
    charges = await shop.database.rows("SELECT COUNT(*) AS n FROM transfer WHERE kind = 'charge'")
    assert charges[0]["n"] == 4 * (60 - away)
    await check(shop)


@postgres_only
async def test_a_row_that_cannot_be_stored_is_refused_and_a_lost_table_is_waited_for(shop: Shop) -> None:
    """What is wrong with a command itself is its own fault; everything else may be over in a while."""
    ledger, epoch = PostgresLedger(shop.database.url), await shop.epoch()
    placed = place(shop, epoch)
    await ledger.apply([placed])
    odd = shop.usage_row(placed.request_id, placed.at_us, METERS, "neither", False)
    with pytest.raises(asyncpg.CheckViolationError):
        await ledger.apply([Capture(placed.request_id, placed.account_id, 5, now_us(), odd)])
    with pytest.raises(asyncpg.DataError):
        await ledger.apply([Capture(placed.request_id, placed.account_id, 2**70, now_us())])
    address = shop.database.url.text
    await execute(address, "ALTER TABLE usage RENAME TO usage_away")
    with pytest.raises(LedgerUnavailable):
        await ledger.apply([capture(shop, placed)])
    await execute(address, "ALTER TABLE usage_away RENAME TO usage")
    assert isinstance((await ledger.apply([capture(shop, placed)]))[0], Settled)
    await ledger.close()
    await check(shop)


def test_both_writers_decide_alike(templates: Templates, tmp_path: Path) -> None:
    """The same thousand commands, in the same batches, on either database: the same outcomes, the same rows."""

    async def work(address: str) -> Any:
        async with open_database(parse_url(address)) as database:
            return await tell(await open_shop(database))

    told: list[Any] = []
    for dialect in ("sqlite", "postgres"):
        with templates.copy(dialect, tmp_path, stock_shop) as address:
            told.append(asyncio.run(work(address)))
    assert told[0] == told[1]
    kinds = {outcome.said[0] if isinstance(outcome, Same) else type(outcome) for outcome in told[0][0]}
    assert {Held, Settled, Moved, InsufficientCredits} <= kinds


async def tell(shop: Shop) -> Any:
    ledger, epoch, chance = writer(shop.database), await shop.epoch(), random.Random(7)
    placed: list[Place] = []
    outcomes: list[Any] = []
    for batch_number in range(60):
        batch: list[Command] = []
        for number in range(chance.randint(1, 30)):
            which = chance.random()
            at_us = 1_800_000_000_000_000 + batch_number * 1000 + number
            if which < 0.45 or not placed:
                request_id = f"{at_us // 1000:012x}"
                request_id = f"{request_id[:8]}-{request_id[8:]}-7000-8000-{number:012x}"
                least = chance.choice([0, 10**9, 10**11, 10**15])
                one = Place(request_id, shop.account_id, least, least * 2, shop.price.id, epoch, at_us)
                placed.append(one)
                batch.append(one)
            elif which < 0.8:
                batch.append(capture(shop, chance.choice(placed[-40:]), Meters(chance.randint(0, 10**6), 0, 0, 5)))
            elif which < 0.95:
                one = chance.choice(placed[-40:])
                batch.append(Release(one.request_id, one.account_id, at_us, expired=chance.random() < 0.3))
            else:
                batch.append(Move(1, shop.account_id, 10**10, "grant", f"key-{chance.randint(0, 9)}", at_us))
        outcomes += await ledger.apply(batch)
    await ledger.close()
    rows = [
        [tuple(map(str, row.values())) for row in await shop.database.rows(query)]
        for query in (
            "SELECT request_id, amount_nano, status FROM hold ORDER BY request_id",
            "SELECT debit_account, credit_account, amount_nano, kind, request_id FROM transfer ORDER BY id",
            "SELECT request_id, fresh_tokens, charge_nano, writeoff_nano FROM usage ORDER BY request_id",
            "SELECT id, balance_nano, held_nano FROM account ORDER BY id",
        )
    ]
    return [Same(outcome) if isinstance(outcome, Exception) else outcome for outcome in outcomes], rows


class Same:
    """Exceptions that say the same are the same."""

    def __init__(self, error: Exception) -> None:
        self.said = (type(error), str(error))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.said == other.said

    def __hash__(self) -> int:
        return hash(self.said)
