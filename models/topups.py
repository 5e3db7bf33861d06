"""Owns top-ups: credits that were paid for at a payment provider's page, and what refunds and disputes take back of them.

What the provider says may come twice, in any order, and at two workers at once. So each piece of news about a payment is a fact
that is kept once, and after each one the ledger is brought to what all facts of that payment say together. A refund that comes
before its payment waits among the facts. Every transfer has a grant key made of the provider's ids: it is made once.

    paid:     cash → account        refunded, disputed: account → cash, what is not available is written off
    won:      what the dispute took goes back to where it came from

News whose amount or currency is not what was asked for moves nothing: it goes into quarantine, which `reconcile` reports.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from models.changes import OperatorWrite, operator_write
from models.checks import check_text, check_whole
from models.database import Database
from models.errors import BadInput, Conflict
from models.ids import DAY_US, now_us
from models.money import CASH, WRITEOFF, Move, Moved
from models.moves import move_and_sign
from models.prices import CREDITS_PER_USD, NANO_PER_CREDIT
from models.records import PaymentFact, Quarantine, TopUp, Transfer

CURRENCY = "usd"
CENTS_PER_USD = 100
NANO_PER_CENT = NANO_PER_CREDIT * CREDITS_PER_USD // CENTS_PER_USD
LEAST_CENTS, MOST_CENTS = 5 * CENTS_PER_USD, 10_000 * CENTS_PER_USD
# Who signs: the payment provider, by its name.
STRIPE = "stripe"
PENDING, PROCESSING, FAILED, EXPIRED, REVIEW, PAID = "pending", "processing", "failed", "expired", "review", "paid"
# News may come late: what is further stays.
_RANK = {name: i for i, name in enumerate((PENDING, PROCESSING, FAILED, EXPIRED, REVIEW, PAID))}
_OF_CHECKOUT = (PROCESSING, PAID, FAILED, EXPIRED)
_FACTS = (PAID, "refunded", "disputed", "won")
_USD = re.compile(r"(\d{1,6})(?:\.(\d{1,2}))?", re.ASCII)
_RECENT_US = 14 * DAY_US

Outcome = Literal["done", "unknown", "quarantined"]
Kind = Literal["processing", "paid", "failed", "expired", "refunded", "unrefunded", "disputed", "won"]


class News(msgspec.Struct, frozen=True):
    """What one signed event says. `object_id` is the checkout's (first four kinds), the charge's or the dispute's id.

    `amount_cents` of `refunded` is all that was refunded of the charge so far. `unrefunded`: a refund did not reach the
    customer after all, which a person has to look at. `is_ours`: it carries our own mark.
    """

    event_id: str
    kind: Kind
    object_id: str
    payment_id: str | None
    amount_cents: int
    currency: str
    is_ours: bool = False


def cents_of(text: object) -> int:
    """Exact cents of US dollars as people type them. Raises BadInput(field="amount")."""
    typed = check_text(text, field="amount", most=40).removeprefix("$").strip()
    found = _USD.fullmatch(typed)
    if found is None:
        raise BadInput("amount: write US dollars like 25 or 25.50", field="amount")
    cents = int(found[1]) * CENTS_PER_USD + int((found[2] or "").ljust(2, "0"))
    if not LEAST_CENTS <= cents <= MOST_CENTS:
        least, most = LEAST_CENTS // CENTS_PER_USD, MOST_CENTS // CENTS_PER_USD
        raise BadInput(f"amount: must be from {least} to {most:,} US dollars", field="amount")
    return cents


async def begin_top_up(database: Database, operator: str, account_id: int, checkout_id: str, amount_cents: int) -> None:
    """Remember what was asked for at the provider's page. The same checkout twice is one; Conflict if it was another's."""
    check_whole(amount_cents, field="amount", least=LEAST_CENTS, most=MOST_CENTS)
    async with operator_write(database, operator) as write:
        known = await TopUp.filter(checkout_id=checkout_id).first()
        if known is not None:
            if (known.account_id, known.amount_cents) != (account_id, amount_cents):
                raise Conflict("amount: this checkout was begun for something else; begin again", field="amount")
            return
        await TopUp.create(
            account_id=account_id,
            checkout_id=checkout_id,
            amount_cents=amount_cents,
            currency=CURRENCY,
            status=PENDING,
            created_us=write.at_us,
        )
        after = {"checkout": checkout_id, "amount_cents": amount_cents, "currency": CURRENCY}
        await write.audit("top_up.begin", f"account {account_id}", after=after)


async def record_news(database: Database, news: News) -> Outcome:
    """Take note of it, and move what follows. Said twice, or late, it changes nothing more.

    `unknown`: it is about a checkout that is none of ours. `quarantined`: it contradicts what was asked for, or what else
    was said; it is kept for a person to look at, and nothing was moved.
    """
    try:
        async with operator_write(database, STRIPE) as write:
            if news.kind in _OF_CHECKOUT and not await _note_checkout(write, news):
                return "unknown"
            if news.kind == "unrefunded" and await PaymentFact.filter(payment_id=news.payment_id, kind=PAID).exists():
                raise _Contradiction(f"{news.object_id} failed: {news.amount_cents} cents were not refunded after all")
            if news.kind in _FACTS and news.payment_id is not None:
                await _add_fact(write, news.payment_id, news)
                await _settle(write, news.payment_id)
            return "done"
    except _Contradiction as trouble:
        await set_aside(database, news.event_id, str(trouble), msgspec.to_builtins(news))
        return "quarantined"


async def set_aside(database: Database, event_id: str, why: str, told: dict[str, Any]) -> None:
    """Keep an event that cannot be right for a person to look at, once; its checkout, if it has one, waits for that."""
    async with operator_write(database, STRIPE) as write:
        key = event_id[:64]
        if await Quarantine.filter(request_id=key).exists():
            return
        command = msgspec.json.encode(told).decode()
        await Quarantine.create(at_us=write.at_us, request_id=key, error=f"{STRIPE}: {why}", command=command)
        if told.get("kind") == PAID:
            await TopUp.filter(checkout_id=told["object_id"]).exclude(status=PAID).update(status=REVIEW)


async def open_top_ups(database: Database, account_id: int) -> list[dict[str, Any]]:
    """Payments of the last days that were begun and have not become credits, and not just left: the newest first."""
    return await database.rows(
        "SELECT amount_cents, status, created_us FROM top_up WHERE account_id = ? AND created_us > ?"
        " AND status IN (?, ?, ?) ORDER BY id DESC LIMIT 10",
        [account_id, now_us() - _RECENT_US, PROCESSING, FAILED, REVIEW],
    )


# ── checkouts and facts ───────────────────────────────────────────────────────────────────────────────────────────


class _Contradiction(Exception):
    """News that cannot be right."""


async def _note_checkout(write: OperatorWrite, news: News) -> bool:
    """How the checkout goes on; False when it is none of ours."""
    top_up = await TopUp.filter(checkout_id=news.object_id).first()
    if top_up is None:
        if news.kind == PAID and news.is_ours:
            raise _Contradiction(f"{news.object_id} was paid, and we know of no such checkout")
        return False
    if news.kind == PAID:
        if (news.amount_cents, news.currency) != (top_up.amount_cents, top_up.currency):
            raise _Contradiction(
                f"{news.object_id}: {news.amount_cents} {news.currency} were paid,"
                f" {top_up.amount_cents} {top_up.currency} were asked for"
            )
        if news.payment_id is None:
            raise _Contradiction(f"{news.object_id} was paid without a payment")
        if top_up.status == PAID and news.payment_id != top_up.payment_id:
            raise _Contradiction(f"{news.object_id} was paid by {top_up.payment_id} and by {news.payment_id}")
    if _RANK[news.kind] > _RANK[top_up.status]:
        ended_us = None if news.kind == PROCESSING else write.at_us
        await TopUp.filter(id=top_up.id).update(
            status=news.kind, payment_id=news.payment_id or top_up.payment_id, ended_us=ended_us
        )
    return True


async def _add_fact(write: OperatorWrite, payment_id: str, news: News) -> None:
    fact: dict[str, Any] = {
        "payment_id": payment_id,
        "kind": news.kind,
        "object_id": news.object_id,
        "amount_cents": news.amount_cents,
    }
    if not await PaymentFact.filter(**fact).exists():
        await PaymentFact.create(**fact, currency=news.currency, event_id=news.event_id, at_us=write.at_us)


# ── bringing the ledger to what the facts say ─────────────────────────────────────────────────────────────────────


async def _settle(write: OperatorWrite, payment_id: str) -> None:
    facts = await PaymentFact.filter(payment_id=payment_id).order_by("id")
    paid = next((fact for fact in facts if fact.kind == PAID), None)
    if paid is None:
        # Refunds and disputes wait for their payment, which may be none of ours.
        return
    _check_sane(paid, facts)
    account_id = (await TopUp.get(checkout_id=paid.object_id)).account_id
    book = _Payment(write, account_id)
    await book.give(paid.amount_cents * NANO_PER_CENT, "top-up", f"{STRIPE}:paid:{payment_id}", paid.object_id)
    for charge_id in sorted({fact.object_id for fact in facts if fact.kind == "refunded"}):
        await _refund(
            book, charge_id, [f.amount_cents for f in facts if (f.kind, f.object_id) == ("refunded", charge_id)]
        )
    won = {fact.object_id for fact in facts if fact.kind == "won"}
    for fact in facts:
        if fact.kind == "disputed":
            await _dispute(book, fact, is_won=fact.object_id in won)


async def _refund(book: _Payment, charge_id: str, totals: list[int]) -> None:
    """Totals only grow, so the highest counts; what was taken for lower ones before is not taken again."""
    keys = {f"{STRIPE}:refund:{charge_id}:{total}": total for total in totals}
    before = max((keys[key] for key in await _used(list(keys))), default=0)
    total = max(totals)
    if total > before:
        key = f"{STRIPE}:refund:{charge_id}:{total}"
        await book.take((total - before) * NANO_PER_CENT, "refund", key, charge_id)


async def _dispute(book: _Payment, fact: PaymentFact, *, is_won: bool) -> None:
    key = f"{STRIPE}:dispute:{fact.object_id}"
    if is_won and not await _used([key]):
        return
    moved = await book.take(fact.amount_cents * NANO_PER_CENT, "dispute", key, fact.object_id)
    if is_won and moved.amount_nano:
        await book.give(moved.amount_nano, "dispute-won", f"{key}:won", fact.object_id)
    if is_won and moved.writeoff_nano:
        await book.give(moved.writeoff_nano, "dispute-won", f"{key}:won:writeoff", fact.object_id, to=WRITEOFF)


class _Payment(msgspec.Struct, frozen=True):
    """The moves of one payment, each made once."""

    write: OperatorWrite
    account_id: int

    async def give(self, amount_nano: int, kind: str, grant_key: str, note: str, *, to: int | None = None) -> Moved:
        credited = self.account_id if to is None else to
        return await self._move(Move(CASH, credited, amount_nano, kind, grant_key, self.write.at_us, note, STRIPE))

    async def take(self, amount_nano: int, kind: str, grant_key: str, note: str) -> Moved:
        at_us = self.write.at_us
        return await self._move(
            Move(self.account_id, CASH, amount_nano, kind, grant_key, at_us, note, STRIPE, shortfall="writeoff")
        )

    async def _move(self, move: Move) -> Moved:
        try:
            moved, _ = await move_and_sign(self.write, self.account_id, move, action=f"credits.{move.kind}")
        except Conflict as error:
            raise _Contradiction(str(error)) from error
        return moved


def _check_sane(paid: PaymentFact, facts: list[PaymentFact]) -> None:
    for fact in facts:
        if fact.currency != paid.currency:
            raise _Contradiction(f"{fact.object_id} is in {fact.currency}, its payment was in {paid.currency}")
        if not 0 < fact.amount_cents <= paid.amount_cents:
            raise _Contradiction(
                f"{fact.object_id}: {fact.amount_cents} {fact.kind} of a payment of {paid.amount_cents} {paid.currency}"
            )
        if fact.kind == PAID and fact.object_id != paid.object_id:
            raise _Contradiction(f"{fact.object_id} and {paid.object_id} were paid by one payment")


async def _used(grant_keys: list[str]) -> set[str]:
    keys = await Transfer.filter(grant_key__in=grant_keys).values_list("grant_key", flat=True)
    return {str(key) for key in keys}
