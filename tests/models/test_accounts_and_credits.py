"""Accounts and what operators do to their balances: once, signed, told to the workers, and all or nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest

from models.accounts import (
    balance_rows,
    create_account,
    find_account,
    hash_reset_token,
    make_reset_link,
    resume_account,
    suspend_account,
)
from models.credits import grant, take_back
from models.errors import AlreadyExists, BadInput, Conflict, InsufficientCredits, NotFound
from models.ids import DAY_US, now_us
from models.passwords import is_password
from models.records import Account, Audit, Transfer, User
from tests.models.shop import Shop, last_change, sqlite_only, trace

CREDIT = 10**9
ADA = "ada@example.com"


async def balance(shop: Shop) -> int:
    return (await Account.get(id=shop.account_id)).balance_nano


async def test_an_address_is_one_account_however_it_is_written(shop: Shop) -> None:
    account = await create_account(shop.database, "olga", "  Bob@Example.COM ", password="long enough")
    assert (account.email, account.name) == ("bob@example.com", "bob@example.com")
    assert await find_account(shop.database, "BOB@example.com") == account
    with pytest.raises(AlreadyExists) as refusal:
        await create_account(shop.database, "olga", "bob@EXAMPLE.com")
    assert refusal.value.field == "email"


async def test_a_password_is_stored_hashed(shop: Shop) -> None:
    await create_account(shop.database, "olga", "bob@example.com", password="long enough")
    stored = (await User.get(email="bob@example.com")).password_hash
    assert stored is not None
    assert "long enough" not in stored
    assert await is_password("long enough", stored)
    assert not await is_password("long enougH", stored)
    assert not await is_password("long enough", None)


@sqlite_only
@pytest.mark.parametrize(
    ("email", "password", "field"),
    [
        ("nobody", None, "email"),
        ("a b@example.com", None, "email"),
        ("a@b@example.com", None, "email"),
        ("x" * 250 + "@example.com", None, "email"),
        ("a\x00@example.com", None, "email"),
        (None, None, "email"),
        ("bob@example.com", "short", "password"),
        ("bob@example.com", 12345678, "password"),
    ],
)
async def test_a_bad_address_or_password_changes_nothing(shop: Shop, email: Any, password: Any, field: str) -> None:
    before = await trace()
    with pytest.raises(BadInput) as refusal:
        await create_account(shop.database, "olga", email, password=password)
    assert refusal.value.field == field
    assert await trace() == before


async def test_suspending_an_account_is_told_to_every_worker_once(shop: Shop) -> None:
    assert (await suspend_account(shop.database, "olga", ADA, reason="unpaid")).suspended
    assert await last_change() == ("account", shop.account_id)
    before = await trace()
    await suspend_account(shop.database, "olga", ADA)
    assert await trace() == before
    assert not (await resume_account(shop.database, "olga", ADA)).suspended
    assert await last_change() == ("account", shop.account_id)
    with pytest.raises(NotFound, match=r"nobody@example\.com"):
        await suspend_account(shop.database, "olga", "nobody@example.com")


async def test_a_reset_link_is_stored_hashed_and_ends_after_a_day(shop: Shop) -> None:
    link = await make_reset_link(shop.database, "olga", ADA)
    token = re.fullmatch(r"/reset/([\w-]{40,})", link)
    assert token is not None
    user = await User.get(email=ADA)
    assert user.reset_hash == hash_reset_token(token[1])
    assert user.reset_until_us is not None
    assert abs(user.reset_until_us - now_us() - DAY_US) < 60_000_000
    assert not any(token[1] in str(row.after) for row in await Audit.all())


async def test_the_same_grant_key_twice_is_one_grant_and_one_line_in_the_log(shop: Shop) -> None:
    first = await grant(shop.database, "olga", ADA, 5 * CREDIT, "sorry", "sorry-1")
    before = await trace()
    second = await grant(shop.database, "olga", ADA, 5 * CREDIT, "sorry", "sorry-1")
    assert (first.repeated, second.repeated) == (False, True)
    assert second.balance_nano == await balance(shop) == 1_005 * CREDIT
    assert await trace() == before


async def test_a_grant_is_one_transfer_that_says_who_and_why(shop: Shop) -> None:
    await grant(shop.database, "olga", ADA, 5 * CREDIT, "sorry", "sorry-1")
    row = await Transfer.get(grant_key="sorry-1")
    assert (row.debit_account, row.credit_account, row.amount_nano) == (1, shop.account_id, 5 * CREDIT)
    assert (row.kind, row.note, row.operator) == ("grant", "sorry", "olga")
    signed = await Audit.all().order_by("-id").first()
    assert signed is not None
    assert (signed.operator, signed.reason, signed.before) == ("olga", "sorry", {"balance": "1000"})
    assert signed.after == {"balance": "1005", "amount": "5", "writeoff": "0", "grant_key": "sorry-1"}


@sqlite_only
@pytest.mark.parametrize(
    ("amount", "reason", "key", "kind", "field"),
    [
        (0, "why", "k", "grant", "credits"),
        (-5, "why", "k", "grant", "credits"),
        (1.5, "why", "k", "grant", "credits"),
        (True, "why", "k", "grant", "credits"),
        (2**62, "why", "k", "grant", "credits"),
        (5, " ", "k", "grant", "reason"),
        (5, "why", "", "grant", "grant_key"),
        (5, "why", "x" * 201, "grant", "grant_key"),
        (5, "why", "k", "charge", "kind"),
    ],
)
async def test_a_bad_grant_changes_nothing(
    shop: Shop, amount: Any, reason: str, key: str, kind: str, field: str
) -> None:
    before, had = await trace(), await balance(shop)
    with pytest.raises(BadInput) as refusal:
        await grant(shop.database, "olga", ADA, amount, reason, key, kind)
    assert refusal.value.field == field
    assert (await trace(), await balance(shop)) == (before, had)


async def test_a_grant_key_is_not_taken_for_another_amount_account_or_direction(shop: Shop) -> None:
    await create_account(shop.database, "olga", "bob@example.com")
    await grant(shop.database, "olga", "bob@example.com", 9 * CREDIT, "gift", "gift-bob")
    for email, amount in ((ADA, CREDIT), ("bob@example.com", 1_000 * CREDIT)):
        with pytest.raises(Conflict, match="welcome-ada"):
            await grant(shop.database, "olga", email, amount, "again", "welcome-ada")
    with pytest.raises(Conflict, match="gift-bob"):
        await take_back(shop.database, "olga", "bob@example.com", 9 * CREDIT, "back", "gift-bob")
    await take_back(shop.database, "olga", ADA, 5 * CREDIT, "back", "back-1")
    with pytest.raises(Conflict, match="back-1"):
        await take_back(shop.database, "olga", "bob@example.com", 5 * CREDIT, "back", "back-1")


async def test_taking_back_takes_at_most_what_is_available(shop: Shop) -> None:
    await shop.hold(amount_nano=400 * CREDIT)
    before = await trace()
    with pytest.raises(InsufficientCredits) as refusal:
        await take_back(shop.database, "olga", ADA, 700 * CREDIT, "dispute", "d-1", "dispute")
    assert refusal.value.available_nano == 600 * CREDIT
    assert await trace() == before
    taken = await take_back(shop.database, "olga", ADA, 700 * CREDIT, "dispute", "d-1", "dispute", "writeoff")
    assert (taken.amount_nano, taken.writeoff_nano, taken.balance_nano) == (600 * CREDIT, 100 * CREDIT, 400 * CREDIT)
    again = await take_back(shop.database, "olga", ADA, 700 * CREDIT, "dispute", "d-1", "dispute", "writeoff")
    assert (again.amount_nano, again.writeoff_nano, again.repeated) == (600 * CREDIT, 100 * CREDIT, True)


async def test_balances_show_what_is_held_and_what_is_available(shop: Shop) -> None:
    await shop.hold(amount_nano=400 * CREDIT)
    (row,) = await balance_rows(shop.database)
    assert (row["email"], row["account_id"]) == (ADA, shop.account_id)
    assert (row["balance_nano"], row["held_nano"], row["available_nano"]) == (
        1_000 * CREDIT,
        400 * CREDIT,
        600 * CREDIT,
    )
