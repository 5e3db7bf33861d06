"""Stripe as far as it is used: checkouts over real HTTP, idempotent as Stripe's are, and events signed by its scheme."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
from aiohttp import web

from tests.rig import Rig

SECRET_KEY, WEBHOOK_SECRET = "sk_test_canary", "whsec_canary"
_count = itertools.count(1)


class FakeStripe:
    """`checkouts` are those that were opened, by id, as the form that asked for them; `calls` counts all requests."""

    def __init__(self) -> None:
        self.url = ""
        self.checkouts: dict[str, dict[str, str]] = {}
        self.calls = 0
        self.fails_with = 0
        self._by_key: dict[str, tuple[dict[str, str], dict[str, Any]]] = {}

    @property
    def last(self) -> str:
        return list(self.checkouts)[-1]

    async def open_checkout(self, request: web.Request) -> web.Response:
        self.calls += 1
        if request.headers.get("Authorization") != f"Bearer {SECRET_KEY}":
            return _error(401, "invalid_request_error", "Invalid API Key provided")
        if self.fails_with:
            return _error(self.fails_with, "api_error", "Something went wrong on Stripe's end")
        form = {name: str(value) for name, value in (await request.post()).items()}
        key = request.headers["Idempotency-Key"]
        if key in self._by_key:
            before, answer = self._by_key[key]
            if before != form:
                return _error(400, "idempotency_error", "Keys for idempotent requests can only be used with the same")
            return web.json_response(answer)
        id_ = f"cs_test_{next(_count):060d}"
        answer = {"id": id_, "object": "checkout.session", "url": f"https://checkout.stripe.com/c/pay/{id_}"}
        self.checkouts[id_] = form
        self._by_key[key] = form, answer
        return web.json_response(answer)


def _error(status: int, kind: str, message: str) -> web.Response:
    return web.json_response({"error": {"type": kind, "message": message}}, status=status)


@contextlib.contextmanager
def fake_stripe() -> Iterator[FakeStripe]:
    """It answers in a thread of its own."""
    fake, loop = FakeStripe(), asyncio.new_event_loop()
    app = web.Application()
    app.router.add_post("/v1/checkout/sessions", fake.open_checkout)
    runner = web.AppRunner(app)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def event(kind: str, **said: Any) -> bytes:
    """An event as Stripe sends it, about an object of which `said` is what counts."""
    body = {
        "id": f"evt_{next(_count)}",
        "object": "event",
        "api_version": "2026-01-01",
        "created": int(time.time()),
        "livemode": False,
        "type": kind,
        "data": {"object": {"object": "thing", "customer": None, "livemode": False, **said}},
    }
    return json.dumps(body, indent=2).encode()


def sign(body: bytes, *, secret: str = WEBHOOK_SECRET, age_s: int = 0) -> str:
    moment = int(time.time()) - age_s
    digest = hmac.new(secret.encode(), b"%d." % moment + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest},v0=00"


async def send(rig: Rig, body: bytes, signature: str | None = None) -> int:
    """To the webhook, on a connection of its own; the status."""
    headers = {"content-type": "application/json", "stripe-signature": sign(body) if signature is None else signature}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{rig.url}/stripe/webhook", data=body, headers=headers) as response,
    ):
        await response.read()
        return response.status
