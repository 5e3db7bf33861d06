"""Invitations, used once and by whom they were meant for; and the deletion of a customer's data, in the records."""

from __future__ import annotations

import asyncio

import pytest

from models.accounts import NOBODYS, create_account, find_account
from models.database import Database
from models.erasure import erase_account, erase_account_of
from models.errors import AlreadyExists, BadInput, Conflict, NotFound
from models.ids import DAY_US, SECOND_US
from models.invites import create_invited_account, invite_rows, make_invite
from models.records import Account, ApiKey, Audit, Invite, Session, User
from models.sessions import begin_session, find_session
from tests.models.shop import Shop, last_change, trace

BOB, EVE = "bob@example.com", "eve@example.com"
PASSWORD = "long enough"


async def sign_up(database: Database, email: str, code: str) -> int:
    return (await create_invited_account(database, "sign-up", email, code, password=PASSWORD)).id


async def test_a_code_is_stored_hashed_shown_once_and_used_once(shop: Shop) -> None:
    made = await make_invite(shop.database, "olga", days=3)
    assert made.path == f"/signup?invite={made.code}"
    assert made.code not in repr(made)
    [row] = await invite_rows(shop.database)
    assert made.code not in str(row)
    assert made.code.replace("-", "") not in str([vars(audit) for audit in await Audit.all()])
    assert (row["expires_us"] - row["created_us"], row["operator"]) == (3 * DAY_US, "olga")
    # However it is typed.
    account_id = await sign_up(shop.database, BOB, made.code.lower().replace("-", " ").replace("0", "o"))
    [row] = await invite_rows(shop.database)
    assert (row["account_id"], row["used_us"] is not None) == (account_id, True)
    before = await trace()
    with pytest.raises(Conflict, match="was used already") as refusal:
        await sign_up(shop.database, EVE, made.code)
    assert refusal.value.field == "invite"
    assert (await trace(), await User.filter(email=EVE).exists()) == (before, False)


async def test_of_two_who_use_a_code_at_once_one_gets_an_account(shop: Shop) -> None:
    made = await make_invite(shop.database, "olga")
    ends = await asyncio.gather(
        *(sign_up(shop.database, email, made.code) for email in (BOB, EVE)), return_exceptions=True
    )
    assert sorted(type(end).__name__ for end in ends) == ["Conflict", "int"]
    assert await User.filter(email__in=[BOB, EVE]).count() == 1


async def test_an_invitation_for_one_address_is_no_good_for_another(shop: Shop) -> None:
    made = await make_invite(shop.database, "olga", "Bob@Example.com")
    with pytest.raises(BadInput, match="another e-mail address") as refusal:
        await sign_up(shop.database, EVE, made.code)
    assert refusal.value.field == "invite"
    assert await sign_up(shop.database, BOB, made.code)
    with pytest.raises(AlreadyExists):
        await make_invite(shop.database, "olga", BOB)


async def test_a_newer_invitation_for_the_same_address_replaces_the_older(shop: Shop) -> None:
    first, second = [await make_invite(shop.database, "olga", BOB) for _ in range(2)]
    with pytest.raises(Conflict, match="has expired"):
        await sign_up(shop.database, BOB, first.code)
    assert await sign_up(shop.database, BOB, second.code)


async def test_an_invitation_expires(shop: Shop) -> None:
    made = await make_invite(shop.database, "olga")
    await Invite.filter(id=made.id).update(expires_us=SECOND_US)
    with pytest.raises(Conflict, match="has expired"):
        await sign_up(shop.database, BOB, made.code)


@pytest.mark.parametrize("code", ["", "x", "AAAAA-AAAAA-AAAAA-AAAAA", "\0" * 20])
async def test_a_code_that_was_never_made_is_refused_by_its_field(shop: Shop, code: str) -> None:
    before = await trace()
    with pytest.raises(BadInput) as refusal:
        await sign_up(shop.database, BOB, code)
    assert refusal.value.field == "invite"
    assert await trace() == before


@pytest.mark.parametrize("days", [0, 366, 1.5, True])
async def test_days_are_whole_and_at_most_a_year(shop: Shop, days: int) -> None:
    with pytest.raises(BadInput) as refusal:
        await make_invite(shop.database, "olga", days=days)
    assert refusal.value.field == "days"


async def test_deleting_leaves_a_number_and_twice_is_once(shop: Shop) -> None:
    made = await make_invite(shop.database, "olga", BOB)
    account_id = await sign_up(shop.database, BOB, made.code)
    user = await User.get(account_id=account_id)
    token = await begin_session(
        shop.database, user, address="203.0.113.7", agent="Bob's browser", at_us=user.created_us
    )
    await erase_account(shop.database, f"account {account_id}", account_id)
    assert await last_change() == ("account", account_id)
    after = await User.get(id=user.id)
    assert (after.email, after.password_hash) == (f"deleted-{account_id}{NOBODYS}", None)
    account = await Account.get(id=account_id)
    assert (account.name, account.suspended_us is not None) == ("deleted", True)
    session = await Session.get(user_id=user.id)
    assert (session.address, session.agent, session.ended_us is not None) == ("", "", True)
    assert await find_session(shop.database, token, user.created_us) is None
    assert (await Invite.get(id=made.id)).email is None
    before = await trace()
    await erase_account(shop.database, f"account {account_id}", account_id)
    assert await trace() == before
    # Others are as they were, and the address is free.
    assert (await ApiKey.get(id=shop.key_id)).revoked_us is None
    assert (await create_account(shop.database, "sign-up", BOB)).id != account_id
    with pytest.raises(BadInput):
        await create_account(shop.database, "sign-up", f"deleted-{shop.account_id}{NOBODYS}")
    # Staff can still find what the books are about.
    assert (await find_account(shop.database, after.email)).id == account_id


async def test_deleting_revokes_every_key_and_takes_its_name(shop: Shop) -> None:
    await erase_account(shop.database, "olga", shop.account_id)
    key = await ApiKey.get(id=shop.key_id)
    assert (key.name, key.revoked_us is not None) == ("deleted", True)
    assert (await Account.get(id=shop.account_id)).balance_nano > 0
    with pytest.raises(NotFound):
        await find_account(shop.database, "ada@example.com")


async def test_an_operator_erases_who_asked_by_number_and_address_together(shop: Shop) -> None:
    bob = await create_account(shop.database, "olga", BOB)
    before = await trace()
    for email, number, reason, field in (
        (BOB, shop.account_id, "asked for it", "email"),
        (EVE, bob.id, "asked for it", "email"),
        (BOB, bob.id + 1, "asked for it", "account_id"),
        (BOB, 1, "asked for it", "account_id"),
        (BOB, bob.id, "", "reason"),
    ):
        with pytest.raises((BadInput, NotFound)) as refusal:
            await erase_account_of(shop.database, "olga", email, account_id=number, reason=reason)
        assert refusal.value.field == field
    assert await trace() == before
    erased = await erase_account_of(shop.database, "olga", BOB, account_id=bob.id, reason="asked for it")
    assert (erased.name, erased.suspended, erased.email.endswith(NOBODYS)) == ("deleted", True, True)
    signed = await Audit.all().order_by("-id").first()
    assert signed is not None
    assert (signed.action, signed.operator, signed.reason) == ("account.erase", "olga", "asked for it")
    assert await find_account(shop.database, erased.email) == erased
    before = await trace()
    with pytest.raises(BadInput, match="nothing was erased"):
        await erase_account_of(shop.database, "olga", "ada@example.com", account_id=bob.id, reason="asked for it")
    assert await erase_account_of(shop.database, "olga", BOB, account_id=bob.id, reason="asked again") == erased
    assert await trace() == before
