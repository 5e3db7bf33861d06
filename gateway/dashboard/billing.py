"""Owns the billing page: the balance and its ledger, vouchers, and the way to a payment page. Statements: `statements.py`."""

from __future__ import annotations

import hashlib
from typing import Any

from sanic.response import HTTPResponse

from gateway.dashboard.pages import Pages, said, too_many
from gateway.dashboard.site import aligner
from gateway.dashboard.visits import Visit
from models.errors import BadInput, LedgerUnavailable, LimitExceeded
from models.records import Account, Voucher
from models.statements import ledger_page, statement_months
from models.topups import CENTS_PER_USD, LEAST_CENTS, MOST_CENTS, begin_top_up, cents_of, open_top_ups
from models.vouchers import redeem

pages = Pages("billing")
_SIZE = 50
_WINDOW_S = 15 * 60
_TRIES_BY_ACCOUNT, _TRIES_BY_ADDRESS, _CHECKOUTS_BY_ACCOUNT = 10, 40, 20
PRESETS_USD = (10, 25, 50, 100)
# What a line is called. What staff wrote down about it is theirs: reasons and names are not shown.
KINDS = {
    "usage": "Usage",
    "grant": "Credits granted",
    "top-up": "Top-up",
    "voucher": "Voucher redeemed",
    "correction": "Correction",
    "refund": "Refund",
    "dispute": "Disputed payment",
    "dispute-won": "Dispute closed, credits returned",
}
_DONE = {
    "paid": (
        "Thank you. Your credits arrive as soon as Stripe confirms the payment, usually within a minute; reload to see them.",
        "good",
    ),
    "already": ("You have redeemed this voucher already; nothing was added.", "warn"),
    "unpaid": ("The payment was not finished, and nothing was charged.", "warn"),
}


def kind_text(kind: str) -> str:
    """A transfer's kind in friendly words."""
    return KINDS.get(kind) or kind.replace("-", " ").replace("_", " ").capitalize()


@pages.page("/billing")
async def show_billing(visit: Visit) -> HTTPResponse:
    return await _page(visit)


@pages.page("/billing/redeem", post=True)
async def redeem_voucher(visit: Visit) -> HTTPResponse:
    account_id, code = visit.me.account_id, visit.form.get("code", "")
    try:
        await visit.throttle("voucher by address", visit.client.network, quota=_TRIES_BY_ADDRESS, window_s=_WINDOW_S)
        await visit.throttle("voucher", str(account_id), quota=_TRIES_BY_ACCOUNT, window_s=_WINDOW_S)
        redeemed = await redeem(visit.database, visit.me.actor, account_id, code)
    except LimitExceeded as error:
        return await _page(visit, status=429, errors={"code": f"Too many tries. {too_many(error)}"})
    except BadInput as error:
        return await _page(visit, status=422, errors={"code": said(error)})
    done = "already" if redeemed.repeated else "redeemed"
    return visit.redirect(f"/billing?done={done}&voucher={redeemed.voucher_id}")


@pages.page("/billing/topup", post=True)
async def top_up(visit: Visit) -> HTTPResponse:
    """To a payment page for exactly this amount; a form that is sent twice leads to the same one."""
    payments, me = visit.gateway.payments, visit.me
    if payments is None:
        return await _page(visit, status=404)
    try:
        wish = visit.wish()
        cents = cents_of(visit.form.get("preset") or visit.form.get("amount", ""))
        await visit.throttle("checkout", str(me.account_id), quota=_CHECKOUTS_BY_ACCOUNT, window_s=_WINDOW_S)
        checkout = await payments.open_checkout(
            me.account_id,
            me.email,
            cents,
            back_to=f"{visit.address}/billing",
            # Another amount in the same form is another wish.
            wish=hashlib.sha256(wish + b"%d" % cents).hexdigest(),
        )
        await begin_top_up(visit.database, me.actor, me.account_id, checkout.id, cents)
    except LimitExceeded as error:
        return await _page(visit, status=429, errors={"amount": f"Too many tries. {too_many(error)}"})
    except BadInput as error:
        return await _page(visit, status=422, errors={"amount": said(error)})
    except LedgerUnavailable as error:
        return await _page(visit, status=503, errors={"amount": str(error)})
    return visit.redirect(checkout.address)


async def _page(visit: Visit, *, status: int = 200, errors: dict[str, str] | None = None) -> HTTPResponse:
    account_id, after = visit.me.account_id, visit.query.get("after") or None
    account = await Account.get(id=account_id)
    page = await ledger_page(visit.database, account_id, limit=_SIZE, after=after)
    return visit.render(
        "billing.html",
        status=status,
        errors=errors or {},
        form=visit.form,
        notice=await _notice(visit),
        account=account,
        page=page,
        aligned=aligner(nano for line in page.lines for nano in (line.amount_nano, line.balance_nano)),
        is_deep=after is not None,
        months=await statement_months(visit.database, account_id),
        open_top_ups=await open_top_ups(visit.database, account_id),
        takes_payments=visit.gateway.payments is not None,
        presets=PRESETS_USD,
        bounds=(f"{LEAST_CENTS // CENTS_PER_USD:,}", f"{MOST_CENTS // CENTS_PER_USD:,}"),
        dollars=_dollars,
        contact=visit.site.settings.contact,
        kind_text=kind_text,
    )


async def _notice(visit: Visit) -> dict[str, Any] | None:
    """What just happened: a text of ours, and the credits of a voucher of this account's."""
    done, voucher_id = visit.query.get("done", ""), visit.query.get("voucher", "")
    if done in _DONE:
        text, kind = _DONE[done]
        return {"text": text, "kind": kind, "amount_nano": None}
    if done != "redeemed" or not (voucher_id.isascii() and voucher_id.isdecimal()):
        return None
    voucher = (
        await Voucher.filter(id=int(voucher_id[:18]), account_id=visit.me.account_id).select_related("batch").first()
    )
    if voucher is None:
        return None
    return {"text": "Voucher redeemed", "kind": "good", "amount_nano": voucher.batch.amount_nano}


def _dollars(cents: int) -> str:
    return f"${cents // CENTS_PER_USD:,}.{cents % CENTS_PER_USD:02d}"
