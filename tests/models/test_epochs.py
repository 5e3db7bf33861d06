"""Lives of workers: who is alive renews, who is not is ended once, and what he held can be given back."""

from __future__ import annotations

import asyncio

import pytest

from models.epochs import (
    Life,
    end_dead_epochs,
    end_epoch,
    ended_epochs,
    holds_of_the_dead,
    is_known,
    open_epoch,
    renew_epoch,
)
from models.errors import LedgerUnavailable
from models.ids import now_us
from models.money import Held, Release
from models.postgres_ledger import PostgresLedger
from tests.models.shop import Shop
from tests.models.test_writers import place, postgres_only, writer


async def age(shop: Shop, life: Life, seconds: int) -> None:
    """As if its last heartbeat had been so long ago."""
    moved = "UPDATE epoch SET heartbeat_us = heartbeat_us - ? WHERE id = ? RETURNING id"
    await shop.database.rows(moved, [seconds * 1_000_000, life.epoch_id])


async def test_an_epoch_is_renewed_until_it_is_ended(shop: Shop) -> None:
    life = await open_epoch(shop.database, "here", 1)
    assert await is_known(shop.database, life)
    assert not await is_known(shop.database, Life(life.epoch_id, life.started_us + 1))
    assert await renew_epoch(shop.database, life.epoch_id)
    await end_epoch(shop.database, life.epoch_id)
    assert not await renew_epoch(shop.database, life.epoch_id)


@postgres_only
async def test_only_those_without_a_heartbeat_are_dead(shop: Shop) -> None:
    own, alive, dead = [await open_epoch(shop.database, "here", n) for n in range(3)]
    await age(shop, alive, 10)
    await age(shop, dead, 20)
    assert await end_dead_epochs(shop.database, own.epoch_id) == [dead.epoch_id]
    assert await end_dead_epochs(shop.database, own.epoch_id) == []
    assert await renew_epoch(shop.database, alive.epoch_id)


@postgres_only
async def test_who_has_no_heartbeat_itself_ends_nobody(shop: Shop) -> None:
    """The database was away for all of them, and who comes back first must not take the others for dead."""
    own, other = [await open_epoch(shop.database, "here", n) for n in range(2)]
    await age(shop, own, 17)
    await age(shop, other, 17)
    assert await end_dead_epochs(shop.database, own.epoch_id, fresh_s=5) == []
    await renew_epoch(shop.database, own.epoch_id)
    assert await end_dead_epochs(shop.database, own.epoch_id, fresh_s=5) == [other.epoch_id]


async def test_what_the_dead_held_is_given_back_page_by_page(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.epochs._PAGE", 3)
    own, dead = [await open_epoch(shop.database, "here", n) for n in range(2)]
    await age(shop, dead, 20)
    ledger = writer(shop.database)
    kept = place(shop, own.epoch_id)
    left = [place(shop, dead.epoch_id) for _ in range(8)]
    assert await ledger.apply([kept, *left]) == [Held(10**9)] * 9
    assert await ended_epochs(shop.database, 0) == {}
    assert await end_dead_epochs(shop.database, own.epoch_id) == [dead.epoch_id]
    [(ended, moment)] = (await ended_epochs(shop.database, 0)).items()
    assert ended == dead.epoch_id
    assert await ended_epochs(shop.database, moment) == {ended: moment}
    assert await ended_epochs(shop.database, moment + 1) == {}
    given_back: list[Release] = []
    async for page in holds_of_the_dead(shop.database, [ended]):
        assert len(page) <= 3
        await ledger.apply(page)
        given_back += page
    assert {release.request_id for release in given_back} == {placed.request_id for placed in left}
    rows = await shop.database.rows("SELECT held_nano FROM account WHERE id = ?", [shop.account_id])
    assert rows[0]["held_nano"] == 10**9
    await ledger.close()


@postgres_only
async def test_recovery_waits_for_what_is_being_placed_and_nothing_is_placed_after_it(shop: Shop) -> None:
    """A worker that thaws in the very moment in which it is taken for dead leaves no hold that nobody would find."""
    own = await open_epoch(shop.database, "here", 1)
    for _ in range(15):
        frozen = await open_epoch(shop.database, "there", 2)
        await age(shop, frozen, 20)
        ledger = PostgresLedger(shop.database.url)
        await ledger.apply([])

        async def thaw(ledger: PostgresLedger = ledger, life: Life = frozen) -> list[object]:
            outcomes: list[object] = []
            for _ in range(5):
                outcomes += await ledger.apply([place(shop, life.epoch_id)])
            return outcomes

        outcomes, dead = await asyncio.gather(thaw(), end_dead_epochs(shop.database, own.epoch_id))
        assert dead == [frozen.epoch_id]
        found = [release async for page in holds_of_the_dead(shop.database, dead) for release in page]
        assert len(found) == sum(isinstance(outcome, Held) for outcome in outcomes)
        assert all(isinstance(outcome, Held | LedgerUnavailable) for outcome in outcomes)
        await ledger.apply([Release(r.request_id, r.account_id, now_us(), expired=True) for r in found])
        await ledger.close()
