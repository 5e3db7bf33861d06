"""Topping up at Stripe's page: one checkout a form, credits only for what Stripe signed, once, and back when it is refunded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from gateway.settings import load_settings
from models.errors import SetupError
from tests.dashboard.browsers import accessibility_faults, sign_up, window
from tests.dashboard.fake_stripe import SECRET_KEY, WEBHOOK_SECRET, FakeStripe, event, fake_stripe, send, sign
from tests.dashboard.visitor import Page, Visitor, form_of, visiting
from tests.rig import Rig, start_rig
from tests.stores import Sql

CREDIT = 10**9


@pytest.fixture(scope="module")
def stripe() -> Iterator[FakeStripe]:
    with fake_stripe() as fake:
        yield fake


@pytest.fixture(scope="module")
def till(stripe: FakeStripe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A gateway that takes payments."""
    with start_rig(
        tmp_path_factory.mktemp("till"),
        STRIPE_SECRET_KEY=SECRET_KEY,
        STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
        STRIPE_API_URL=stripe.url,
        GATEWAY_SIGNUP="open",
        GATEWAY_TRUSTED_PROXIES="127.0.0.1",
        GATEWAY_PUBLIC_URL="https://api.example.com",
    ) as running:
        yield running


@contextlib.asynccontextmanager
async def payer(till: Rig) -> Any:
    async with visiting(till) as visitor:
        await visitor.sign_up()
        yield visitor


async def begin(visitor: Visitor, amount: str = "25") -> Page:
    page = await visitor.send("/billing", "/billing/topup", amount=amount, follow=False)
    assert page.status == 303, page.text
    return page


def account_id(till: Rig, visitor: Visitor) -> int:
    return int(till.sql('SELECT account_id FROM "user" WHERE email = ?', visitor.email)[0][0])


def balance(till: Rig, visitor: Visitor) -> int:
    return int(till.sql("SELECT balance_nano FROM account WHERE id = ?", account_id(till, visitor))[0][0])


def paid(checkout_id: str, kind: str = "completed", **change: Any) -> bytes:
    said = {
        "id": checkout_id,
        "payment_intent": checkout_id.replace("cs_", "pi_"),
        "payment_status": "paid",
        "amount_total": 2_500,
        "currency": "usd",
        "metadata": {"credits_of_account": "1"},
    }
    return event(f"checkout.session.{kind}", **{**said, **change})


def refunded(checkout_id: str, cents: int) -> bytes:
    return event(
        "charge.refunded",
        id=checkout_id.replace("cs_", "ch_"),
        payment_intent=checkout_id.replace("cs_", "pi_"),
        amount=2_500,
        amount_refunded=cents,
        currency="usd",
        metadata={},
    )


def dispute(kind: str, checkout_id: str, status: str) -> bytes:
    return event(
        f"charge.dispute.{kind}",
        id=checkout_id.replace("cs_", "dp_"),
        payment_intent=checkout_id.replace("cs_", "pi_"),
        amount=2_500,
        currency="usd",
        status=status,
        metadata={},
    )


async def test_a_form_leads_to_a_checkout_of_exactly_this_amount(till: Rig, stripe: FakeStripe) -> None:
    async with payer(till) as ada:
        page = await begin(ada, "25.50")
        asked = stripe.checkouts[stripe.last]
        assert page.headers["location"] == f"https://checkout.stripe.com/c/pay/{stripe.last}"
        price = "line_items[0][price_data]"
        assert (asked[f"{price}[unit_amount]"], asked[f"{price}[currency]"]) == ("2550", "usd")
        assert asked[f"{price}[product_data][name]"] == "2,550 credits"
        assert (asked["mode"], asked["line_items[0][quantity]"], asked["customer_email"]) == ("payment", "1", ada.email)
        assert asked["adaptive_pricing[enabled]"] == "false"
        assert asked["success_url"] == "https://api.example.com/billing?done=paid"
        assert asked["payment_intent_data[metadata][credits_of_account]"] == str(account_id(till, ada))
        assert balance(till, ada) == 0
        assert "as soon as Stripe confirms" in (await ada.get("/billing?done=paid")).text


async def test_a_preset_is_one_click(till: Rig, stripe: FakeStripe) -> None:
    async with payer(till) as ada:
        page = await ada.send("/billing", "/billing/topup", preset="50", follow=False)
        assert page.status == 303
        assert stripe.checkouts[stripe.last]["line_items[0][price_data][unit_amount]"] == "5000"


async def test_a_double_click_is_one_checkout_and_another_amount_is_another(till: Rig, stripe: FakeStripe) -> None:
    async with payer(till) as ada:
        form = form_of((await ada.get("/billing")).text, "/billing/topup") | {"amount": "25"}
        before = len(stripe.checkouts)
        pages = await asyncio.gather(*[ada.post("/billing/topup", form, follow=False) for _ in range(3)])
        assert {page.status for page in pages} == {303}
        assert len({page.headers["location"] for page in pages}) == 1
        assert len(stripe.checkouts) == before + 1
        await ada.post("/billing/topup", form | {"amount": "30"}, follow=False)
        assert len(stripe.checkouts) == before + 2
        rows = till.sql("SELECT status FROM top_up WHERE account_id = ?", account_id(till, ada))
        assert [row[0] for row in rows] == ["pending", "pending"]


@pytest.mark.parametrize("typed", ["4.99", "10000.01", "ten", "25.555", '"><script>'])
async def test_a_bad_amount_is_told_beside_the_field_and_kept(till: Rig, stripe: FakeStripe, typed: str) -> None:
    async with payer(till) as ada:
        calls = stripe.calls
        page = await ada.send("/billing", "/billing/topup", amount=typed)
        assert page.status == 422
        assert 'id="help-amount" class="error"' in page.text
        assert "<script>" not in page.text.replace("<script src", "")
        assert form_of(page.text, "/billing/topup")["amount"] == typed
        assert stripe.calls == calls


async def test_while_stripe_is_down_nothing_is_charged_and_what_was_typed_stays(till: Rig, stripe: FakeStripe) -> None:
    async with payer(till) as ada:
        stripe.fails_with = 500
        try:
            page = await ada.send("/billing", "/billing/topup", amount="25")
        finally:
            stripe.fails_with = 0
        assert page.status == 503
        assert "nothing was charged" in page.text
        assert form_of(page.text, "/billing/topup")["amount"] == "25"
        assert till.sql("SELECT id FROM top_up WHERE account_id = ?", account_id(till, ada)) == []


async def test_what_stripe_says_was_paid_becomes_credits_once(till: Rig, stripe: FakeStripe) -> None:
    async with payer(till) as ada:
        await begin(ada)
        body = paid(stripe.last)
        # The same event from several connections at once, and the same payment by another event.
        said = [body, body, body, paid(stripe.last), paid(stripe.last, "async_payment_succeeded")]
        assert set(await asyncio.gather(*[send(till, one) for one in said])) == {200}
        assert balance(till, ada) == 2_500 * CREDIT
        page = await ada.get("/billing")
        assert "Top-up" in page.text
        assert "+2,500" in page.text


async def test_refunds_and_disputes_take_back_what_they_are_about(till: Rig, stripe: FakeStripe) -> None:
    async with payer(till) as ada:
        await begin(ada)
        cs, seen = stripe.last, []
        for body in (
            refunded(cs, 500),  # before its payment
            paid(cs),
            refunded(cs, 500),
            refunded(cs, 2_000),
            refunded(cs, 500),  # late
            dispute("created", cs, "warning_needs_response"),  # an inquiry takes nothing
        ):
            assert await send(till, body) == 200
            seen.append(balance(till, ada) // CREDIT)
        assert seen == [0, 2_000, 2_000, 500, 500, 500]
        page = await ada.get("/billing")
        assert "Refund" in page.text
        await begin(ada)
        cs = stripe.last
        await send(till, paid(cs))
        steps = [("created", "needs_response", 500), ("closed", "won", 3_000), ("created", "needs_response", 3_000)]
        for kind, status, then in steps:
            assert await send(till, dispute(kind, cs, status)) == 200
            assert balance(till, ada) == then * CREDIT
        till.reconcile()


async def test_a_payment_that_takes_days_is_shown_and_credited_when_it_is_done(till: Rig, stripe: FakeStripe) -> None:
    async with payer(till) as ada:
        await begin(ada)
        await send(till, paid(stripe.last, payment_status="unpaid"))
        assert balance(till, ada) == 0
        assert "is being processed" in (await ada.get("/billing")).text
        await send(till, paid(stripe.last, "async_payment_succeeded"))
        assert balance(till, ada) == 2_500 * CREDIT
        assert "is being processed" not in (await ada.get("/billing")).text
        await begin(ada)
        await send(till, paid(stripe.last, payment_status="unpaid"))
        await send(till, paid(stripe.last, "async_payment_failed", payment_status="unpaid"))
        assert "failed; nothing was charged" in (await ada.get("/billing")).text


async def test_what_stripe_did_not_sign_is_not_heard(till: Rig, stripe: FakeStripe) -> None:
    async with payer(till) as ada:
        await begin(ada)
        body = paid(stripe.last)
        forged = [
            (body, ""),
            (body, sign(body, secret="whsec_other")),
            (body, sign(body, age_s=301)),
            (body.replace(b"2500", b"9500"), sign(body)),
            (body, "t=1,v1=é"),
            (b"\xff\xfe", sign(b"\xff\xfe")),
            (b"[]", sign(b"[]")),
            (b"", sign(b"")),
        ]
        for said, signature in forged:
            assert await send(till, said, signature) == 400
        large = paid(stripe.last, padding="x" * 300_000)
        assert await send(till, large) == 413
        assert balance(till, ada) == 0


async def test_events_that_are_not_about_credits_are_taken_and_change_nothing(till: Rig) -> None:
    before = till.sql("SELECT COUNT(*) FROM transfer")
    for body in (
        event("invoice.paid", id="in_1"),
        event("checkout.session.completed", id="cs_other", payment_status="paid", amount_total=1, currency="usd"),
        event("checkout.session.expired", id="cs_other"),
    ):
        assert await send(till, body) == 200
    assert till.sql("SELECT COUNT(*) FROM transfer") == before


@pytest.mark.only("sqlite")
@pytest.mark.drill
async def test_while_the_database_is_locked_stripe_is_asked_to_send_it_again(till: Rig, stripe: FakeStripe) -> None:
    async with payer(till) as ada:
        await begin(ada)
        body = paid(stripe.last)
        with Sql(till.database_url) as other:
            other.rows("BEGIN IMMEDIATE")
            assert await send(till, body) == 503
            other.rows("ROLLBACK")
        assert await send(till, body) == 200
        assert balance(till, ada) == 2_500 * CREDIT


async def test_another_amount_than_asked_for_is_kept_and_reported_but_not_credited(
    till: Rig, stripe: FakeStripe
) -> None:
    # From here on the books of this rig say that a person has to look.
    async with payer(till) as ada:
        await begin(ada)
        assert await send(till, paid(stripe.last, amount_total=250_000)) == 200
        assert balance(till, ada) == 0
        assert "is being checked by our staff" in (await ada.get("/billing")).text
        done = till.run("reconcile")
        assert done.returncode != 0
        assert "quarantine" in done.stdout + done.stderr
        assert "is in quarantine" in till.server.log.read_text()
        assert ada.email not in str(till.sql("SELECT command FROM quarantine"))


@pytest.mark.parametrize(
    ("given", "missing"),
    [("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"), ("STRIPE_WEBHOOK_SECRET", "STRIPE_SECRET_KEY")],
)
def test_one_of_the_two_settings_alone_does_not_start(
    given: str, missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(missing, raising=False)
    monkeypatch.setenv(given, "canary")
    with pytest.raises(SetupError, match=f"{missing}: is not set, but {given} is") as refusal:
        load_settings()
    assert "canary" not in str(refusal.value)


def test_a_browser_is_let_through_to_the_payment_page_and_back(till: Rig, stripe: FakeStripe, browser: Browser) -> None:
    with window(browser, till, sign_up(till)) as page:
        page.goto("/billing")
        # That it is asked for is enough; nothing goes out of this machine.
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.send("Network.setBlockedURLs", {"urls": ["*checkout.stripe.com*"]})
        page.fill("[name=amount]", "25")
        with page.expect_request("https://checkout.stripe.com/c/pay/*"):
            page.keyboard.press("Enter")
        assert stripe.checkouts[stripe.last]["line_items[0][price_data][unit_amount]"] == "2500"
        # In a page of its own: the first one is still on its way to the error of what was blocked.
        back = page.context.new_page()
        back.goto("/billing?done=unpaid")
        assert "nothing was charged" in back.inner_text(".notice")
        assert accessibility_faults(back) == []
