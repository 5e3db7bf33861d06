"""Owns the talk with Stripe: a checkout at its page, and what its signed events say. What they move is `models/topups.py`.

Both need `STRIPE_SECRET_KEY` and `STRIPE_WEBHOOK_SECRET`; without them nothing here is built, nor Stripe's library loaded.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import structlog
from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from gateway.errors import INTERNAL_MESSAGE, plain_error
from gateway.settings import Settings
from models.database import Database, is_away
from models.errors import LedgerUnavailable
from models.ids import new_request_id, now_us
from models.prices import NANO_PER_CREDIT
from models.topups import CURRENCY, NANO_PER_CENT, Kind, News, record_news, set_aside

if TYPE_CHECKING:
    from gateway.gateway import Gateway

WEBHOOK = "/stripe/webhook"
# Our mark on a checkout: other things may be sold through the same account at Stripe.
_MARK = "credits_of_account"
_TIMEOUT_S = 10.0
_RETRIES = 1
_MOST_EVENT_BYTES = 256 * 1024
# How old a signed event may be, so that nobody can send a recorded one again.
_TOLERANCE_S = 300
log = structlog.get_logger()


class Checkout(msgspec.Struct, frozen=True):
    """A page at Stripe where so much can be paid."""

    id: str
    address: str


class Payments:
    """One client for Stripe. Raises LedgerUnavailable where Stripe does not do what it was asked for."""

    def __init__(self, settings: Settings) -> None:
        # It takes a fifth of a second and 20 MB, which only those pay who use it.
        import stripe

        assert settings.stripe_secret_key is not None
        assert settings.stripe_webhook_secret is not None
        self._stripe = stripe
        self._secret = settings.stripe_webhook_secret.get_secret_value()
        self._http = stripe.AIOHTTPClient(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        self._client = stripe.StripeClient(
            settings.stripe_secret_key.get_secret_value(),
            http_client=self._http,
            max_network_retries=_RETRIES,
            base_addresses={"api": settings.stripe_api_url} if settings.stripe_api_url else {},
        )

    async def open_checkout(
        self, account_id: int, email: str, amount_cents: int, *, back_to: str, wish: str
    ) -> Checkout:
        """A checkout for exactly this amount. The same `wish` again is the same checkout."""
        mark = {_MARK: str(account_id)}
        credits = amount_cents * NANO_PER_CENT // NANO_PER_CREDIT
        params: Any = {
            "mode": "payment",
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": CURRENCY,
                        "unit_amount": amount_cents,
                        "product_data": {"name": f"{credits:,} credits"},
                    },
                }
            ],
            # What is paid has to be what was asked for, not its worth in another currency.
            "adaptive_pricing": {"enabled": False},
            "client_reference_id": str(account_id),
            "customer_email": email,
            "metadata": mark,
            "payment_intent_data": {"metadata": mark},
            "success_url": f"{back_to}?done=paid",
            "cancel_url": f"{back_to}?done=unpaid",
        }
        try:
            async with asyncio.timeout(_TIMEOUT_S * (1 + _RETRIES) + 5):
                session = await self._client.v1.checkout.sessions.create_async(params, {"idempotency_key": wish})
        except (self._stripe.StripeError, TimeoutError, aiohttp.ClientError) as error:
            log.error("Stripe opened no checkout", error=repr(error))
            raise LedgerUnavailable(
                "The payment page could not be opened; nothing was charged. Please try again in a minute."
            ) from error
        if not session.url:
            log.error("Stripe opened a checkout without a page", checkout=session.id)
            raise LedgerUnavailable("This payment was finished already; open the page again to begin another one.")
        return Checkout(session.id, session.url)

    def check_signature(self, body: bytes, signature: str | None) -> None:
        """Raises ValueError unless Stripe signed this body within the last minutes."""
        try:
            self._stripe.WebhookSignature.verify_header(body, signature, self._secret, _TOLERANCE_S)
        except (self._stripe.SignatureVerificationError, ValueError, TypeError) as error:
            raise ValueError(str(error)) from error

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]


# ── what Stripe says ──────────────────────────────────────────────────────────────────────────────────────────────


class _Object(msgspec.Struct):
    """A checkout session, a charge or a dispute: what of it counts here."""

    id: str
    payment_intent: str | None = None
    payment_status: str = ""
    status: str | None = None
    amount: int | None = None
    amount_total: int | None = None
    amount_refunded: int | None = None
    currency: str | None = None
    metadata: dict[str, str] | None = None


class _Data(msgspec.Struct):
    object: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct):
    id: str = ""
    type: str = ""
    data: _Data = msgspec.field(default_factory=_Data)


_KINDS: dict[str, Kind] = {
    "checkout.session.completed": "paid",
    "checkout.session.async_payment_succeeded": "paid",
    "checkout.session.async_payment_failed": "failed",
    "checkout.session.expired": "expired",
    "charge.refunded": "refunded",
    "refund.failed": "unrefunded",
    "charge.dispute.created": "disputed",
    "charge.dispute.closed": "disputed",
    # An inquiry takes nothing, and may become a dispute afterwards.
    "charge.dispute.funds_withdrawn": "disputed",
    "charge.dispute.funds_reinstated": "won",
}
_AMOUNTS = {"refunded": "amount_refunded", "unrefunded": "amount", "disputed": "amount", "won": "amount"}


def news_of(event: _Event) -> News | None:
    """None for an event that is of no account here. Raises msgspec.ValidationError for one that is not as Stripe's are."""
    kind = _KINDS.get(event.type)
    if kind is None:
        return None
    said = msgspec.json.decode(event.data.object, type=_Object)
    if kind == "paid" and said.payment_status == "unpaid":
        # By a way of paying that takes days.
        kind = "processing"
    elif event.type == "charge.dispute.closed" and said.status in ("won", "warning_closed"):
        kind = "won"
    elif kind == "disputed" and (said.status or "").startswith("warning_"):
        return None
    amount = getattr(said, _AMOUNTS.get(kind, "amount_total"))
    return News(
        event_id=event.id,
        kind=kind,
        object_id=said.id,
        payment_id=said.payment_intent,
        amount_cents=amount or 0,
        currency=said.currency or "",
        is_ours=_MARK in (said.metadata or {}),
    )


# ── where Stripe says it ──────────────────────────────────────────────────────────────────────────────────────────


def blueprint() -> Blueprint:
    """The one address that Stripe's events are sent to."""
    routes = Blueprint("stripe")
    routes.add_route(hear, WEBHOOK, methods=["POST"], stream=True, name="hear")
    return routes


async def hear(request: Request) -> HTTPResponse:
    """200 when it is stored or of no account; 400 when it is not Stripe's; 503 when it has to be sent again."""
    headers = {"x-request-id": new_request_id(now_us()), "cache-control": "no-store"}
    gateway: Gateway = request.app.ctx.gateway
    payments = gateway.payments
    if gateway.stopping or payments is None:
        return plain_error(503, "This server is being restarted; please send it again.", headers)
    stream: Any = request.stream
    stream.request_max_size = _MOST_EVENT_BYTES
    await request.receive_body()  # type: ignore[no-untyped-call]
    body: bytes = request.body
    try:
        payments.check_signature(body, request.headers.get("stripe-signature"))
        event = msgspec.json.decode(body, type=_Event)
    except (ValueError, msgspec.DecodeError) as error:
        log.warning("an event that Stripe did not sign", error=str(error)[:200], address=request.ip)
        return plain_error(400, "The signature does not fit this body, or is too old.", headers)
    # In a task of its own: there the ORM finds the dashboard's database, and nowhere else.
    storing = asyncio.create_task(_store(gateway.pages_database, event), context=gateway.pages_context.copy())
    try:
        outcome = await asyncio.shield(storing)
    except Exception as error:
        # Whatever it was, Stripe sends it again for days: a fault of ours loses no payment.
        log.error("an event of Stripe's could not be stored", event_id=event.id, type=event.type, error=repr(error))
        status = 503 if is_away(error) or isinstance(error, LedgerUnavailable) else 500
        return plain_error(status, INTERNAL_MESSAGE, headers)
    if outcome == "quarantined":
        gateway.metrics.quarantined.inc()
    return HTTPResponse(b'{"received":true}', 200, headers, "application/json")


async def _store(database: Database, event: _Event) -> str:
    try:
        news = news_of(event)
    except msgspec.DecodeError as error:
        await set_aside(database, event.id, f"{event.type} cannot be read: {error}", {"type": event.type})
        log.error("an event of Stripe's is in quarantine", event_id=event.id, type=event.type, error=str(error))
        return "quarantined"
    if news is None:
        return "unknown"
    outcome = await record_news(database, news)
    if outcome == "quarantined":
        log.error("an event of Stripe's is in quarantine", event_id=event.id, type=event.type, about=news.object_id)
    return outcome
