"""Top-ups: what was paid becomes credits once, whatever is said how often, in which order, and at how many workers."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.accounts import create_account
from models.credits import grant
from models.database import Database, DatabaseUrl, open_database
from models.errors import BadInput, Conflict
from models.invariants import check_invariants
from models.money import CASH, WRITEOFF
from models.records import Account, Audit, PaymentFact, Quarantine, TopUp, Transfer
from models.topups import MOST_CENTS, NANO_PER_CENT, Kind, News, begin_top_up, cents_of, open_top_ups, record_news
from tests.models.shop import trace

_count = itertools.count(1)
CREDIT = 10**9


class Payment(msgspec.Struct, frozen=True):
    """A checkout of 25 USD that was begun, and what the provider may say about it."""

    account_id: int
    number: int
    cents: int = 2_500

    @property
    def checkout_id(self) -> str:
        return f"cs_{self.number}"

    def news(
        self,
        kind: Kind,
        cents: int | None = None,
        **other: Any,
    ) -> News:
        objects = {"refunded": f"ch_{self.number}", "disputed": f"dp_{self.number}", "won": f"dp_{self.number}"}
        given: dict[str, Any] = {
            "event_id": f"evt_{next(_count)}",
            "object_id": objects.get(kind, self.checkout_id),
            "payment_id": f"pi_{self.number}",
            "amount_cents": self.cents if cents is None else cents,
            "currency": "usd",
            "is_ours": True,
        }
        return News(kind=kind, **{**given, **other})


async def begin(database: Database, *, credits: int = 0, cents: int = 2_500) -> Payment:
    email = f"payer-{next(_count)}@example.com"
    account = await create_account(database, "olga", email)
    if credits:
        await grant(database, "olga", email, credits * CREDIT, "test", f"welcome-{email}")
    payment = Payment(account.id, next(_count), cents)
    await begin_top_up(database, f"account {account.id}", account.id, payment.checkout_id, cents)
    return payment


async def balance(payment: Payment) -> int:
    return (await Account.get(id=payment.account_id)).balance_nano


async def cash(database: Database) -> int:
    rows = await database.rows(
        "SELECT SUM(CASE WHEN credit_account = ? THEN amount_nano ELSE -amount_nano END) AS nano FROM transfer"
        " WHERE credit_account = ? OR debit_account = ?",
        [CASH, CASH, CASH],
    )
    return int(rows[0]["nano"] or 0)


async def status(payment: Payment) -> str:
    return (await TopUp.get(checkout_id=payment.checkout_id)).status


async def books_hold(database: Database, *, quarantined: int = 0) -> None:
    findings = [finding for finding in await check_invariants(database) if not finding.ok]
    assert len(findings) == (1 if quarantined else 0), findings
    assert await Quarantine.all().count() == quarantined


async def test_a_payment_becomes_a_hundred_credits_a_dollar(database: Database) -> None:
    payment = await begin(database)
    assert await status(payment) == "pending"
    assert await record_news(database, payment.news("paid")) == "done"
    assert await balance(payment) == 2_500 * CREDIT
    assert (await status(payment), await cash(database)) == ("paid", -2_500 * CREDIT)
    row = await Transfer.get(kind="top-up")
    assert (row.debit_account, row.credit_account, row.operator) == (CASH, payment.account_id, "stripe")
    await books_hold(database)


async def test_said_twice_it_is_one(database: Database) -> None:
    payment = await begin(database)
    await record_news(database, payment.news("paid"))
    before = await trace()
    assert await record_news(database, payment.news("paid")) == "done"
    assert (await balance(payment), await trace()) == (2_500 * CREDIT, before)


async def test_said_at_many_workers_at_once_it_is_one(migrated_url: DatabaseUrl) -> None:
    async with open_database(migrated_url) as here:
        payment = await begin(here)
        said = [
            payment.news("paid"),
            payment.news("refunded", 500),
            payment.news("paid"),
            payment.news("refunded", 500),
        ]

        async def hear(news: News) -> None:
            async with open_database(migrated_url) as there:
                assert await record_news(there, news) == "done"

        await asyncio.gather(*[asyncio.create_task(hear(news)) for news in said])
        assert await balance(payment) == 2_000 * CREDIT
        assert await Transfer.filter(kind__in=["top-up", "refund"]).count() == 2
        await books_hold(here)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_in_every_order_and_however_often_the_balance_is_the_same(
    database: Database, data: st.DataObject
) -> None:
    payment = await begin(database, credits=10_000)
    refunds = data.draw(st.lists(st.integers(1, payment.cents), max_size=3, unique=True))
    disputes = data.draw(st.lists(st.tuples(st.integers(1, payment.cents), st.booleans()), max_size=2))
    said = [payment.news("processing"), payment.news("paid")]
    said += [payment.news("refunded", total) for total in refunds]
    for i, (cents, is_won) in enumerate(disputes):
        name = f"dp_{payment.number}_{i}"
        said += [payment.news("disputed", cents, object_id=name)]
        said += [payment.news("won", cents, object_id=name)] if is_won else []
    again = data.draw(st.lists(st.sampled_from(said), max_size=4))
    before = await cash(database)
    for news in data.draw(st.permutations(said + again)):
        assert await record_news(database, news) == "done"
    kept = payment.cents - max(refunds, default=0) - sum(cents for cents, is_won in disputes if not is_won)
    assert await balance(payment) == 10_000 * CREDIT + kept * NANO_PER_CENT
    assert (await cash(database) - before, await status(payment)) == (-kept * NANO_PER_CENT, "paid")
    assert await Quarantine.all().count() == 0


async def test_a_refund_that_comes_before_its_payment_waits_for_it(database: Database) -> None:
    payment = await begin(database)
    assert await record_news(database, payment.news("refunded")) == "done"
    assert await Transfer.all().count() == 0
    await record_news(database, payment.news("paid"))
    assert await balance(payment) == 0
    assert await Transfer.filter(kind="writeoff").count() == 0
    await books_hold(database)


async def test_a_refund_of_what_was_spent_is_written_off(database: Database) -> None:
    payment = await begin(database)
    await record_news(database, payment.news("paid"))
    # 20 of 25 dollars are gone.
    spent = News("evt_x", "refunded", f"ch_{payment.number}", f"pi_{payment.number}", 2_000, "usd")
    await record_news(database, spent)
    await record_news(database, payment.news("disputed"))
    assert await balance(payment) == 0
    row = await Transfer.get(kind="writeoff")
    assert (row.debit_account, row.credit_account, row.amount_nano) == (WRITEOFF, CASH, 2_000 * CREDIT)
    await record_news(database, payment.news("won"))
    # What the dispute took comes back, and what was written off for it is not lost any more.
    assert await balance(payment) == 500 * CREDIT
    assert await cash(database) == -500 * CREDIT
    await books_hold(database)


async def test_a_dispute_that_was_won_before_it_was_heard_of_takes_nothing(database: Database) -> None:
    payment = await begin(database)
    for kind in ("won", "paid", "disputed"):
        await record_news(database, payment.news(kind))  # type: ignore[arg-type]
    assert (await balance(payment), await Transfer.all().count()) == (2_500 * CREDIT, 1)


@pytest.mark.parametrize("change", [{"amount_cents": 250_000}, {"currency": "jpy"}, {"payment_id": None}])
async def test_what_was_not_asked_for_is_not_credited_but_kept_and_reported(
    database: Database, change: dict[str, Any]
) -> None:
    payment = await begin(database)
    wrong = payment.news("paid", **change) if "amount_cents" not in change else payment.news("paid", 250_000)
    assert await record_news(database, wrong) == "quarantined"
    assert await record_news(database, wrong) == "quarantined"
    assert (await balance(payment), await Transfer.all().count()) == (0, 0)
    assert await status(payment) == "review"
    await books_hold(database, quarantined=1)


@pytest.mark.parametrize(("kind", "change"), [("refunded", {"currency": "eur"}), ("disputed", {"amount_cents": 9_999})])
async def test_news_that_contradicts_the_payment_moves_nothing(
    database: Database, kind: Any, change: dict[str, Any]
) -> None:
    payment = await begin(database)
    await record_news(database, payment.news("paid"))
    assert await record_news(database, msgspec.structs.replace(payment.news(kind), **change)) == "quarantined"
    assert (await balance(payment), await PaymentFact.all().count()) == (2_500 * CREDIT, 1)
    await books_hold(database, quarantined=1)


async def test_a_checkout_is_paid_by_one_payment(database: Database) -> None:
    payment = await begin(database)
    await record_news(database, payment.news("paid"))
    assert await record_news(database, payment.news("paid", payment_id="pi_another")) == "quarantined"
    assert (await balance(payment), await status(payment)) == (2_500 * CREDIT, "paid")
    await books_hold(database, quarantined=1)


async def test_a_refund_that_did_not_reach_the_customer_is_reported(database: Database) -> None:
    payment = await begin(database)
    assert await record_news(database, payment.news("unrefunded", payment_id="pi_foreign")) == "done"
    await record_news(database, payment.news("paid"))
    await record_news(database, payment.news("refunded", 500))
    assert await record_news(database, payment.news("unrefunded", 500, object_id="re_1")) == "quarantined"
    assert await balance(payment) == 2_000 * CREDIT
    await books_hold(database, quarantined=1)


async def test_checkouts_that_are_not_ours_are_left_alone_and_lost_ones_are_reported(database: Database) -> None:
    account = await create_account(database, "olga", "ada@example.com")
    foreign = Payment(account.id, 77)
    assert await record_news(database, foreign.news("paid", is_ours=False)) == "unknown"
    assert await record_news(database, foreign.news("expired")) == "unknown"
    await books_hold(database)
    assert await record_news(database, foreign.news("paid")) == "quarantined"
    assert await balance(foreign) == 0


async def test_a_checkout_that_was_paid_stays_paid(database: Database) -> None:
    payment = await begin(database)
    steps = [("expired", "expired"), ("processing", "expired"), ("paid", "paid"), ("failed", "paid")]
    for said, then in steps:
        await record_news(database, payment.news(said))  # type: ignore[arg-type]
        assert await status(payment) == then


async def test_who_pays_sees_what_is_under_way_and_what_failed_and_nothing_of_others(database: Database) -> None:
    payment, other = await begin(database), await begin(database)
    await record_news(database, payment.news("processing"))
    await record_news(database, other.news("failed"))
    (row,) = await open_top_ups(database, payment.account_id)
    assert (row["status"], row["amount_cents"]) == ("processing", 2_500)
    await record_news(database, payment.news("paid"))
    assert await open_top_ups(database, payment.account_id) == []


async def test_a_checkout_is_begun_once_and_audited(database: Database) -> None:
    payment = await begin(database)
    before = await trace()
    await begin_top_up(database, "account", payment.account_id, payment.checkout_id, 2_500)
    assert await trace() == before
    with pytest.raises(Conflict):
        await begin_top_up(database, "account", payment.account_id, payment.checkout_id, 3_000)
    row = await Audit.get(action="top_up.begin")
    assert (row.subject, row.operator) == (f"account {payment.account_id}", f"account {payment.account_id}")


@pytest.mark.parametrize(
    ("typed", "cents"), [("5", 500), ("25.5", 2_550), (" $25.05 ", 2_505), ("10000.00", MOST_CENTS), ("010", 1_000)]
)
def test_dollars_become_exact_cents(typed: str, cents: int) -> None:
    assert cents_of(typed) == cents


@pytest.mark.parametrize(
    "typed", ["", "4.99", "10000.01", "1e3", "25.555", "-25", "1,000", "٢٥", "nan", "25 USD", "0x10", None, 25]
)
def test_other_amounts_are_refused_by_name(typed: Any) -> None:
    with pytest.raises(BadInput) as refusal:
        cents_of(typed)
    assert refusal.value.field == "amount"
