"""Leaving quarantine: a settlement is tried again or closed, once, with a reason; what cannot be charged is said."""

from __future__ import annotations

import json

import msgspec
import pytest

from models.errors import BadInput, Conflict, NotFound
from models.ids import now_us
from models.invariants import check_invariants
from models.ledger import apply_one
from models.money import Capture, Release, Settled
from models.prices import Meters
from models.quarantine import close_quarantined, quarantine_rows, retry_quarantined
from models.records import Account, Audit, Hold, Quarantine, Usage
from tests.models.shop import Shop, trace

METERS = Meters(fresh=1_000, output=100)


async def set_aside(shop: Shop, request_id: str, *, usage_of: str | None = None) -> int:
    """What the gateway keeps when the database refuses a charge. `usage_of` bends the id of its usage record."""
    at_us = now_us()
    charge = shop.price.charge_nano(METERS, at_us)
    usage = shop.usage_row(usage_of or request_id, at_us, METERS, "served", False)
    command = Capture(request_id, shop.account_id, charge, at_us, usage)
    text = f"Capture {msgspec.json.encode(command).decode()}"
    row = await Quarantine.create(at_us=at_us, request_id=request_id, error="IntegrityError('overdrawn')", command=text)
    return row.id


async def end(shop: Shop, request_id: str, *, expired: bool) -> None:
    async with shop.database.transaction() as transaction:
        await apply_one(transaction, Release(request_id, shop.account_id, now_us(), expired=expired))


async def broken(shop: Shop) -> list[int]:
    return [finding.number for finding in await check_invariants(shop.database) if not finding.ok]


async def balance(shop: Shop) -> tuple[int, int]:
    account = await Account.get(id=shop.account_id)
    return account.balance_nano, account.held_nano


@pytest.mark.parametrize("expired", [False, True])
async def test_a_retry_charges_once_what_is_held_or_has_expired(shop: Shop, expired: bool) -> None:
    request_id = await shop.hold()
    if expired:
        await end(shop, request_id, expired=True)
    (before, _), id_ = await balance(shop), await set_aside(shop, request_id)
    assert 12 in await broken(shop)
    settled = await retry_quarantined(shop.database, "olga", id_, reason="the disk is well again")
    charge = shop.price.charge_nano(METERS, now_us())
    assert settled == Settled(charge, 0)
    assert await balance(shop) == (before - charge, 0)
    assert (await Usage.get(request_id=request_id)).charge_nano == charge
    assert await broken(shop) == []
    traced = await trace()
    assert await retry_quarantined(shop.database, "olga", id_, reason="the disk is well again") is None
    await close_quarantined(shop.database, "olga", id_, reason="it was settled")
    assert (await balance(shop), await trace()) == ((before - charge, 0), traced)


async def test_what_was_given_back_cannot_be_charged_and_is_closed_with_a_reason(shop: Shop) -> None:
    request_id = await shop.hold()
    await end(shop, request_id, expired=False)
    before, id_, traced = await balance(shop), await set_aside(shop, request_id), await trace()
    with pytest.raises(Conflict, match=r"went back to its account.*correction, then close it"):
        await retry_quarantined(shop.database, "olga", id_, reason="try")
    with pytest.raises(BadInput, match="reason"):
        await close_quarantined(shop.database, "olga", id_, reason=" ")
    assert (await balance(shop), await trace(), await broken(shop)) == (before, traced, [12])
    await close_quarantined(shop.database, "olga", id_, reason="the client saw an error: free")
    assert (await balance(shop), await broken(shop)) == (before, [])
    assert await quarantine_rows(shop.database) == []
    assert [row["id"] for row in await quarantine_rows(shop.database, closed=True)] == [id_]
    row = await Audit.all().order_by("-id").first()
    assert row is not None
    assert (row.operator, row.action, row.reason) == ("olga", "quarantine.close", "the client saw an error: free")
    assert request_id in json.dumps(row.after)
    traced = await trace()
    await close_quarantined(shop.database, "olga", id_, reason="again")
    assert await trace() == traced


async def test_what_the_ledger_refuses_again_stays_with_nothing_changed(shop: Shop) -> None:
    """The database has a usage record of that id already, as when it was refused first."""
    other, request_id = await shop.serve(METERS), await shop.hold()
    id_ = await set_aside(shop, request_id, usage_of=other)
    before, traced = await balance(shop), await trace()
    with pytest.raises(Conflict, match=f"refuses settlement {id_} still"):
        await retry_quarantined(shop.database, "olga", id_, reason="try")
    assert (await balance(shop), await trace()) == (before, traced)
    assert (await Hold.get(request_id=request_id)).status == "open"
    assert [row["id"] for row in await quarantine_rows(shop.database)] == [id_]


async def test_news_of_a_payment_and_unknown_holds_are_no_settlements_to_retry(shop: Shop) -> None:
    news = await Quarantine.create(at_us=1, request_id="evt_1", error="stripe: odd", command='{"kind":"paid"}')
    with pytest.raises(BadInput, match="news of a payment"):
        await retry_quarantined(shop.database, "olga", news.id, reason="try")
    lost = await set_aside(shop, "01900000-0000-7000-8000-000000000000")
    with pytest.raises(Conflict, match="not known to this database"):
        await retry_quarantined(shop.database, "olga", lost, reason="try")
    for wrong in (lost + 1, "1", True):
        with pytest.raises(NotFound, match="is or was in quarantine"):
            await close_quarantined(shop.database, "olga", wrong, reason="try")  # type: ignore[arg-type]
