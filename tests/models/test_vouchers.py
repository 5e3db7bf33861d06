"""Vouchers: codes that are worth credits once, whoever is quicker, however they are typed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from models.accounts import create_account
from models.codes import clean_code
from models.credits import grant
from models.database import Database, DatabaseUrl, open_database
from models.errors import AlreadyExists, BadInput, Conflict, DomainError, NotFound
from models.ids import now_us
from models.invariants import check_invariants
from models.money import ISSUED
from models.records import Account, Audit, Transfer, Voucher, VoucherBatch
from models.vouchers import (
    Redeemed,
    make_vouchers,
    redeem,
    void_batch,
    void_voucher,
    voucher_batch_rows,
    voucher_rows,
)
from tests.models.shop import sqlite_only, trace

CREDIT = 10**9


@pytest.fixture
async def ada(database: Database) -> int:
    return (await create_account(database, "olga", "ada@example.com")).id


@pytest.fixture
async def ben(database: Database) -> int:
    return (await create_account(database, "olga", "ben@example.com")).id


async def make(database: Database, count: int = 1, **other: Any) -> tuple[str, ...]:
    given: dict[str, Any] = {"name": "spring", "amount_nano": 50 * CREDIT, "expires_us": None, "reason": "spring fair"}
    return (await make_vouchers(database, "olga", count=count, **{**given, **other})).codes


async def balance(account_id: int) -> int:
    return (await Account.get(id=account_id)).balance_nano


async def test_a_voucher_gives_its_credits_to_whoever_enters_it(database: Database, ada: int) -> None:
    (code,) = await make(database)
    redeemed = await redeem(database, f"account {ada}", ada, code)
    assert redeemed == Redeemed(redeemed.voucher_id, 50 * CREDIT, 50 * CREDIT, repeated=False)
    assert await balance(ada) == 50 * CREDIT
    row = await Transfer.get(grant_key=f"voucher:{redeemed.voucher_id}")
    assert (row.debit_account, row.credit_account, row.amount_nano) == (ISSUED, ada, 50 * CREDIT)
    assert (row.kind, row.operator) == ("voucher", f"account {ada}")
    assert all(verdict.ok for verdict in await check_invariants(database))


async def test_the_same_account_twice_is_told_so_and_nothing_happens(database: Database, ada: int) -> None:
    (code,) = await make(database)
    first = await redeem(database, f"account {ada}", ada, code)
    before = await trace()
    again = await redeem(database, f"account {ada}", ada, code)
    assert again == Redeemed(first.voucher_id, 50 * CREDIT, 50 * CREDIT, repeated=True)
    assert (await trace(), await balance(ada)) == (before, 50 * CREDIT)


async def test_a_used_voucher_does_not_say_who_used_it(database: Database, ada: int, ben: int) -> None:
    (code,) = await make(database)
    await redeem(database, f"account {ada}", ada, code)
    with pytest.raises(Conflict, match="used already") as refusal:
        await redeem(database, f"account {ben}", ben, code)
    assert str(ada) not in str(refusal.value)
    assert await balance(ben) == 0


async def test_of_many_at_the_same_moment_one_gets_it(migrated_url: DatabaseUrl) -> None:
    async with open_database(migrated_url) as here:
        accounts = [(await create_account(here, "olga", f"{name}@example.com")).id for name in "abcd"]
        (code,) = await make(here)

        async def enter(account_id: int) -> Redeemed | DomainError:
            # Each as a worker of its own.
            async with open_database(migrated_url) as there:
                try:
                    return await redeem(there, f"account {account_id}", account_id, code)
                except Conflict as refusal:
                    return refusal

        ends = await asyncio.gather(*[asyncio.create_task(enter(id_)) for id_ in (*accounts, *accounts)])
        done = [end for end in ends if isinstance(end, Redeemed)]
        # The winner asked twice, so one of two answers says that it had been done.
        assert [one.repeated for one in sorted(done, key=lambda one: one.repeated)] == [False, True]
        assert sorted([await balance(id_) for id_ in accounts]) == [0, 0, 0, 50 * CREDIT]
        assert all(verdict.ok for verdict in await check_invariants(here))


async def test_codes_are_stored_as_hashes_and_never_in_the_audit_log(database: Database, ada: int) -> None:
    codes = await make(database, count=3)
    await redeem(database, f"account {ada}", ada, codes[0])
    stored = f"{await Voucher.all().values()} {await Audit.all().values()} {await Transfer.all().values()}"
    for code in codes:
        assert code not in stored
        assert clean_code(code) not in stored
    made = await make_vouchers(database, "olga", "summer", CREDIT, 1, None, "fair")
    assert made.codes[0] not in repr(made)


async def test_a_code_is_understood_however_it_is_typed(database: Database, ada: int) -> None:
    (code,) = await make(database)
    typed = f"  {code.lower().replace('0', 'o').replace('1', 'l').replace('-', ' – ')} "
    assert (await redeem(database, f"account {ada}", ada, typed)).amount_nano == 50 * CREDIT


@sqlite_only
async def test_codes_have_a_hundred_random_bits_of_digits_that_nobody_confuses(database: Database) -> None:
    codes = await make(database, count=200)
    digits = "".join(clean_code(code) for code in codes)
    assert len(set(codes)) == 200
    assert all(len(code) == 23 and code.count("-") == 3 for code in codes)
    # Five bits a digit; of 4,000 digits each of the 32 turns up.
    assert (len(digits), len(set(digits)), set(digits) & set("ILOU")) == (4_000, 32, set())


@pytest.mark.parametrize("code", ["", "  ", "AAAAA", "UUUUU-UUUUU-UUUUU-UUUUU", "A" * 21, "'; --", "x" * 500, None, 12])
@sqlite_only
async def test_what_is_no_code_is_refused_without_a_look(database: Database, ada: int, code: Any) -> None:
    with pytest.raises(BadInput) as refusal:
        await redeem(database, f"account {ada}", ada, code)
    assert refusal.value.field == "code"


async def test_an_unknown_code_is_not_found(database: Database, ada: int) -> None:
    before = await trace()
    with pytest.raises(NotFound, match="there is no voucher with this code"):
        await redeem(database, f"account {ada}", ada, "ABCDE-12345-FGHJK-67890")
    assert await trace() == before


async def test_a_withdrawn_voucher_gives_nothing_but_a_redeemed_one_stays(database: Database, ada: int) -> None:
    first, second, third = await make(database, count=3)
    await redeem(database, f"account {ada}", ada, first)
    assert await void_batch(database, "olga", "spring", reason="printed wrong") == 2
    before = await trace()
    assert await void_batch(database, "olga", "spring", reason="printed wrong") == 0
    assert await trace() == before
    for code in (second, third):
        with pytest.raises(Conflict, match="withdrawn"):
            await redeem(database, f"account {ada}", ada, code)
    assert (await redeem(database, f"account {ada}", ada, first)).repeated
    assert await balance(ada) == 50 * CREDIT


async def test_one_voucher_is_withdrawn_by_its_id(database: Database, ada: int) -> None:
    codes = await make(database, count=2)
    rows = await voucher_rows(database, "spring")
    assert [row["hint"] for row in rows] == [f"…{code[-4:]}" for code in codes]
    assert await void_voucher(database, "olga", rows[1]["id"], reason="lost") == 1
    await redeem(database, f"account {ada}", ada, codes[0])
    with pytest.raises(Conflict, match="take the credits back"):
        await void_voucher(database, "olga", rows[0]["id"], reason="lost")
    with pytest.raises(NotFound):
        await void_voucher(database, "olga", 10**9, reason="lost")
    (batch,) = await voucher_batch_rows(database)
    assert (batch["name"], batch["count"], batch["redeemed"], batch["void"]) == ("spring", 2, 1, 1)
    redeemed = (await voucher_rows(database, "spring"))[0]
    assert (redeemed["account_id"], redeemed["email"]) == (ada, "ada@example.com")


async def test_an_expired_voucher_gives_nothing(database: Database, ada: int) -> None:
    (code,) = await make(database, expires_us=now_us() + 60_000_000)
    await VoucherBatch.all().update(expires_us=now_us())
    with pytest.raises(Conflict, match="expired"):
        await redeem(database, f"account {ada}", ada, code)


@sqlite_only
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"amount_nano": 0}, "credits"),
        ({"amount_nano": 1.5}, "credits"),
        ({"amount_nano": 2**62}, "credits"),
        ({"count": 0}, "count"),
        ({"count": 10_001}, "count"),
        ({"count": True}, "count"),
        ({"expires_us": 1}, "expires_at"),
        ({"reason": " "}, "reason"),
    ],
)
async def test_a_bad_batch_changes_nothing(database: Database, change: dict[str, Any], field: str) -> None:
    before = await trace()
    with pytest.raises(BadInput) as refusal:
        await make(database, **{"count": 2, **change})
    assert refusal.value.field == field
    assert (await trace(), await Voucher.all().count()) == (before, 0)


@sqlite_only
async def test_a_batch_has_a_name_of_its_own(database: Database) -> None:
    await make(database)
    with pytest.raises(AlreadyExists):
        await make(database)
    assert await Voucher.all().count() == 1


@sqlite_only
@pytest.mark.parametrize("key", ["voucher:1", "stripe:paid:pi_1"])
async def test_operators_cannot_take_the_names_of_transfers_that_vouchers_and_payments_make(
    database: Database, ada: int, key: str
) -> None:
    with pytest.raises(BadInput) as refusal:
        await grant(database, "olga", "ada@example.com", CREDIT, "test", key)
    assert refusal.value.field == "grant_key"
    assert await balance(ada) == 0
