"""Signing in while a password is changed, or data deleted: what was checked before counts for nothing afterwards."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from models.accounts import create_account
from models.erasure import erase_account
from models.errors import BadInput, Conflict
from models.ids import now_us
from models.logins import change_password, check_login
from models.records import Session, User
from models.sessions import SignedIn, begin_session, find_session
from tests.models.shop import Shop

EVE, OLD, NEW, THEIRS = "eve@example.com", "an old password", "a new password", "a thief's password"


async def eve(shop: Shop) -> User:
    await create_account(shop.database, "olga", EVE, password=OLD)
    user = await check_login(shop.database, EVE, OLD)
    assert user is not None
    return user


async def begin(shop: Shop, user: User) -> SignedIn:
    token = await begin_session(shop.database, user, address="203.0.113.7", agent="Firefox", at_us=now_us())
    me = await find_session(shop.database, token, now_us())
    assert me is not None
    return me


async def test_a_sign_in_that_was_under_way_when_the_password_was_changed_comes_too_late(shop: Shop) -> None:
    user = await eve(shop)
    me = await begin(shop, user)
    late = await check_login(shop.database, EVE, OLD)
    assert late is not None
    changed = await change_password(shop.database, me, OLD, NEW)
    with pytest.raises(Conflict, match="sign in again"):
        await begin(shop, late)
    assert await Session.filter(user_id=user.id, ended_us__isnull=True).count() == 0
    assert (await begin(shop, changed)).user_id == user.id


async def test_a_sign_in_that_was_under_way_when_the_data_was_deleted_leaves_nothing(shop: Shop) -> None:
    user = await eve(shop)
    await erase_account(shop.database, "account 1", user.account_id)
    with pytest.raises(Conflict):
        await begin(shop, user)
    assert await Session.filter(user_id=user.id).count() == 0


async def test_of_two_who_change_a_password_at_once_the_second_does_not_know_it_any_more(shop: Shop) -> None:
    """Else a thief who knew the old one could take the login back from whoever locks them out."""
    me = await begin(shop, await eve(shop))
    ends = await asyncio.gather(
        *(change_password(shop.database, me, OLD, password) for password in (NEW, THEIRS)), return_exceptions=True
    )
    [refusal] = [end for end in ends if isinstance(end, BaseException)]
    assert isinstance(refusal, BadInput)
    assert refusal.field == "present"
    [kept] = [password for password, end in zip((NEW, THEIRS), ends, strict=True) if isinstance(end, User)]
    assert await check_login(shop.database, EVE, kept) is not None


async def test_a_password_that_was_being_changed_when_the_data_was_deleted_opens_nothing(shop: Shop) -> None:
    user = await eve(shop)
    me = await begin(shop, user)
    # Both have begun; which of them is stored first does not matter.
    await asyncio.gather(
        change_password(shop.database, me, OLD, NEW),
        erase_account(shop.database, me.actor, me.account_id),
        return_exceptions=True,
    )
    assert (await User.get(id=user.id)).password_hash is None


async def test_a_session_and_a_new_password_at_once_end_with_that_session_over(shop: Shop) -> None:
    """Whichever comes first: on PostgreSQL, too, where both could look at what was there before."""
    user = await eve(shop)
    me = await begin(shop, user)

    async def knock() -> None:
        # As one who has just been let through, again and again while the new password is being stored.
        with contextlib.suppress(Conflict):
            while True:
                await begin_session(shop.database, user, address="203.0.113.8", agent="thief", at_us=now_us())

    await asyncio.gather(knock(), knock(), change_password(shop.database, me, OLD, NEW))
    assert await Session.filter(user_id=user.id, ended_us__isnull=True).count() == 0
