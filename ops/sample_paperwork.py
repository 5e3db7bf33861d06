"""Owns what operators of the sample business did beside grants: vouchers, a second route, limits, and grants that two must see.

Everything is written on its day, as the verbs write it, but with the day's moment. The requests are `sample_days.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from models.approvals import APPROVED
from models.changes import OperatorWrite
from models.ids import DAY_US, SECOND_US
from models.money import ISSUED, Move
from models.price_terms import price_from_usd
from models.prices import NANO_PER_CREDIT, credits_text
from models.records import Approval, LimitRule, Provider, Route, Voucher, VoucherBatch
from ops.sample_stock import Stock

SECOND_OPERATOR = "paul"
_HOUR_US = 3_600 * SECOND_US
_BATCH, _WORTH, _COUNT = "summer-2026", 20, 10
_REDEEMED = ((33, "weekend-hacks@example.com"), (36, "zephyr@example.com"), (52, "tiny-bots@example.com"))
_APPROVED = (55, "acme-labs@example.com", 1_500, "invoice-2026-08-acme")
_WAITING = (88, "northwind@example.com", 2_000, "invoice-2026-09-northwind")


async def do_paperwork(write: OperatorWrite, stock: Stock, day: int) -> None:
    """What was written on this day; `write` has its moment."""
    deed = _DEEDS.get(day)
    if deed is not None:
        await deed(write, stock)


def paperwork_moves(stock: Stock, day: int, at_us: int, operator: str) -> list[Move]:
    """The credits that vouchers and an approved grant moved on this day."""
    moves = []
    for number, (redeemed, email) in enumerate(_REDEEMED, 1):
        if redeemed == day:
            account, note = stock.accounts[email], f"voucher {number} of {_BATCH}"
            moves.append(
                Move(ISSUED, account, _WORTH * NANO_PER_CREDIT, "voucher", f"voucher:{number}", at_us, note, email)
            )
    decided, email, credits, key = _APPROVED
    if decided == day:
        account = stock.accounts[email]
        moves.append(Move(ISSUED, account, credits * NANO_PER_CREDIT, "grant", key, at_us, "invoice 2026-08", operator))
    return moves


def signature(move: Move) -> tuple[str, str]:
    """Who signs the audit log for a move, and as what: whoever redeems a voucher, and the second operator who approves."""
    if move.grant_key == _APPROVED[3]:
        return SECOND_OPERATOR, "credits.approve"
    return move.operator, f"credits.{move.kind}"


async def _make_vouchers(write: OperatorWrite, stock: Stock) -> None:
    expires_us = stock.first_us + 184 * DAY_US
    batch = await VoucherBatch.create(
        name=_BATCH, amount_nano=_WORTH * NANO_PER_CREDIT, count=_COUNT, expires_us=expires_us,
        operator=write.operator, reason="handed out at a meet-up", created_us=write.at_us,
    )  # fmt: skip
    redeemed = dict(enumerate(_REDEEMED, 1))
    for number in range(1, _COUNT + 1):
        hash_ = hashlib.sha256(f"sample voucher {number}".encode()).hexdigest()
        day, email = redeemed.get(number, (None, None))
        await Voucher.create(
            batch_id=batch.id,
            code_hash=hash_,
            hint=f"…{hash_[:4].upper()}",
            redeemed_us=None if day is None else stock.first_us + day * DAY_US + 9 * _HOUR_US,
            account_id=None if email is None else stock.accounts[email],
        )
    after = {"name": _BATCH, "amount": str(_WORTH), "count": _COUNT, "expires_us": expires_us}
    await write.audit("voucher.make", f"voucher batch {batch.id}", reason=batch.reason, after=after)


async def _add_backup(write: OperatorWrite, stock: Stock) -> None:
    provider = await Provider.get(name="cumulus")
    rates = price_from_usd(input_usd="1.1", output_usd="8.9").tiers[0].rates
    route = await Route.create(
        model_id=stock.models["large-chat"], provider_id=provider.id, upstream_model="cumulus-large", position=2,
        cost_input_nano=rates.fresh, cost_cached_input_nano=rates.cached, cost_cache_write_nano=rates.written,
        cost_output_nano=rates.output, created_us=write.at_us,
    )  # fmt: skip
    after = {"model": "large-chat", "provider": "cumulus", "upstream_model": "cumulus-large", "position": 2}
    await write.audit("route.add", f"route {route.id}", after=after)


async def _set_limits(write: OperatorWrite, stock: Stock) -> None:
    for subject, id_, unit, quota in (
        ("key", stock.keys["tiny-bots@example.com"], "requests", 5),
        ("account", stock.accounts["acme-labs@example.com"], "tokens", 40_000),
    ):
        await LimitRule.create(subject=subject, subject_id=id_, unit=unit, quota=quota, window_s=60)
        after = {"quota": quota, "window_s": 60}
        await write.audit(f"limit.{unit}", f"{subject} {id_}", reason="by contract", after=after)


async def _ask_and_approve(write: OperatorWrite, stock: Stock) -> None:
    row = await _ask(write, stock, *_APPROVED[1:], "invoice 2026-08")
    await Approval.filter(id=row.id).update(
        decision=APPROVED, decided_by=SECOND_OPERATOR, decided_us=write.at_us + _HOUR_US, decided_reason="it was paid"
    )


async def _ask_and_wait(write: OperatorWrite, stock: Stock) -> None:
    await _ask(write, stock, *_WAITING[1:], "invoice 2026-09")


async def _ask(write: OperatorWrite, stock: Stock, email: str, credits: int, key: str, reason: str) -> Approval:
    account_id, amount_nano = stock.accounts[email], credits * NANO_PER_CREDIT
    row = await Approval.create(
        account_id=account_id, amount_nano=amount_nano, kind="grant", shortfall="refuse", reason=reason,
        grant_key=key, requested_by=write.operator, requested_us=write.at_us,
    )  # fmt: skip
    after = {"amount": credits_text(amount_nano), "grant_key": key}
    await write.audit("credits.ask", f"account {account_id}", reason=reason, after=after)
    return row


_DEEDS: dict[int, Callable[[OperatorWrite, Stock], Awaitable[None]]] = {
    30: _make_vouchers,
    43: _add_backup,
    55: _ask_and_approve,
    60: _set_limits,
    88: _ask_and_wait,
}
