"""The billing page: every movement to the last digit of the ledger, vouchers, statements."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from decimal import Decimal

import pytest
from playwright.sync_api import Browser, expect

from models.database import open_database, parse_url
from models.ids import now_us
from models.months import month_of
from models.prices import credits_text, nano_from_credits
from models.vouchers import make_vouchers
from tests.dashboard.browsers import PHONE, run, sign_up, window
from tests.dashboard.visitor import Visitor, form_of
from tests.rig import Customer, Rig

_count = itertools.count(1)
ROW = re.compile(
    r'<tr>\s*<td>(.*?)</td>\s*<td>(.*?)</td>\s*<td class="number">(.*?)</td>\s*<td class="number">(.*?)</td>', re.DOTALL
)


async def vouchers(rig: Rig, *, count: int = 1, credits: str = "50") -> tuple[str, ...]:
    name = f"batch-{os.getpid()}-{next(_count)}"
    async with open_database(parse_url(rig.database_url)) as database:
        made = await make_vouchers(database, "olga", name, nano_from_credits(credits), count, None, "fair")
        return made.codes


def give(rig: Rig, visitor: Visitor, credits: str, reason: str = "test") -> None:
    rig.desk.credits.grant(visitor.email, credits=credits, reason=reason, grant_key=f"g-{visitor.email}-{next(_count)}")


def spender(rig: Rig, visitor: Visitor, *models: str) -> Customer:
    issued = rig.desk.keys.issue(visitor.email, name="laptop", models=list(models))
    return Customer(visitor.email, issued.id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})


def ledger_of(text: str) -> list[tuple[str, str, Decimal, Decimal]]:
    """What stands in the table: (time, what, credits, balance), newest first."""
    return [
        (_plain(when), _plain(what), Decimal(_plain(credits)), Decimal(_plain(balance)))
        for when, what, credits, balance in ROW.findall(text)
    ]


def _plain(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html).strip()


def this_month() -> str:
    return str(month_of(now_us()))


async def test_the_page_says_what_the_ledger_says_to_the_last_digit(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias("sim:words=3")
    give(rig, ada, "10.000000001")
    key = spender(rig, ada, alias)
    for _ in range(2):
        await rig.chat(key, alias)
    rig.desk.credits.take_back(ada.email, credits="0.5", reason="slip", grant_key=f"t-{ada.email}", kind="correction")
    await rig.settled(key)
    page = await ada.get("/billing")
    lines = ledger_of(page.text)
    assert sorted(what for _, what, _, _ in lines) == ["Correction", "Credits granted", "Usage 2 requests"]
    balance = Decimal(credits_text(rig.balance_nano(key)))
    assert lines[0][3] == balance == sum(credits for _, _, credits, _ in lines)
    for (_, _, credits, after), (_, _, _, before) in itertools.pairwise(lines):
        assert after - credits == before
    assert page.text.count(f">{credits_text(rig.balance_nano(key))}<") >= 2


async def test_what_staff_wrote_down_is_not_shown(rig: Rig, ada: Visitor) -> None:
    give(rig, ada, "1", reason="a <script> of doubtful taste")
    for address in ("/billing", f"/billing/statements/{this_month()}", f"/billing/statements/{this_month()}.csv"):
        text = (await ada.get(address)).text
        assert "Credits granted" in text
        assert "doubtful" not in text
        assert "tests" not in text


async def test_older_movements_are_behind_a_plain_link_and_each_stands_once(rig: Rig, ada: Visitor) -> None:
    for _ in range(53):
        give(rig, ada, "0.000000001")
    page = await ada.get("/billing")
    older = re.search(r'href="(/billing\?after=[^"]+)" rel="next"', page.text)
    assert older is not None
    rest = await ada.get(older[1])
    balances = [balance for _, _, _, balance in ledger_of(page.text) + ledger_of(rest.text)]
    assert balances == [Decimal(n).scaleb(-9) for n in range(53, 0, -1)]
    assert 'rel="next"' not in rest.text
    assert (await ada.get("/billing?after=nonsense")).status == 400


async def test_a_voucher_is_redeemed_once_and_its_owner_told_so(rig: Rig, ada: Visitor, ben: Visitor) -> None:
    (code,) = await vouchers(rig, credits="12.5")
    page = await ada.send("/billing", "/billing/redeem", code=code.lower().replace("-", " "))
    assert (page.status, page.hops) == (200, (303,))
    assert "Voucher redeemed" in page.text
    assert "+12.5 credits" in page.text
    notice = page.path
    again = await ada.send("/billing", "/billing/redeem", code=code)
    assert "You have redeemed this voucher already; nothing was added" in again.text
    assert "+12.5 credits" not in again.text
    assert [credits for _, _, credits, _ in ledger_of(again.text)] == [Decimal("12.5")]
    other = await ben.send("/billing", "/billing/redeem", code=code)
    assert other.status == 422
    assert "This voucher has been used already" in other.text
    assert form_of(other.text, "/billing/redeem")["code"] == code
    # Another's voucher is not a matter of the address either.
    assert "+12.5" not in (await ben.get(notice)).text


@pytest.mark.parametrize("code", ["ABCDE-12345-FGHJK-67890", "short", '"><script>alert(1)</script>'])
async def test_a_wrong_code_is_told_beside_the_field_and_kept(ada: Visitor, code: str) -> None:
    page = await ada.send("/billing", "/billing/redeem", code=code)
    assert page.status == 422
    assert 'id="help-code" class="error"' in page.text
    assert "<script>alert" not in page.text
    assert form_of(page.text, "/billing/redeem")["code"] == code


async def test_an_empty_code_is_said_to_be_missing(ada: Visitor) -> None:
    page = await ada.send("/billing", "/billing/redeem", code=" ")
    assert (page.status, page.text.count('class="error">This is missing.<')) == (422, 1)


async def test_codes_cannot_be_tried_for_long(ada: Visitor) -> None:
    form = form_of((await ada.get("/billing")).text, "/billing/redeem") | {"code": "ABCDE-12345-FGHJK-67890"}
    statuses = [(await ada.post("/billing/redeem", form)).status for _ in range(11)]
    assert statuses == [422] * 10 + [429]


async def test_a_statement_adds_up_as_page_and_as_csv(rig: Rig, ada: Visitor) -> None:
    one, two = rig.alias("sim:words=3"), rig.alias("sim:words=5")
    give(rig, ada, "20")
    key = spender(rig, ada, one, two)
    for alias in (one, two, two):
        await rig.chat(key, alias)
    await rig.settled(key)
    page = await ada.get(f"/billing/statements/{this_month()}")
    assert page.status == 200
    assert f"Statement {account_id(rig, ada)}-{this_month()}" in page.text
    assert "provisional" in page.text
    assert ada.email in page.text
    text = (await ada.get(f"/billing/statements/{this_month()}.csv")).text
    lines = list(csv.DictReader(io.StringIO(text)))
    balance = Decimal(credits_text(rig.balance_nano(key)))
    assert (lines[0]["kind"], lines[-1]["kind"]) == ("opening balance", "closing balance")
    assert Decimal(lines[-1]["balance_credits"]) == balance == sum(Decimal(line["credits"]) for line in lines[1:-1])
    usage = {line["model"]: (line["requests"], line["credits"][0]) for line in lines if line["kind"] == "Usage"}
    # A negative number is a number.
    assert usage == {one: ("1", "-"), two: ("2", "-")}
    assert f'href="/billing/statements/{this_month()}"' in (await ada.get("/billing")).text


def account_id(rig: Rig, visitor: Visitor) -> int:
    return int(rig.sql('SELECT account_id FROM "user" WHERE email = ?', visitor.email)[0][0])


@pytest.mark.parametrize("month", ["2999-01", "2026-13", "nonsense", "2026-11.pdf", "..%2f..", "2026-11.csv.csv"])
async def test_a_month_that_cannot_be_is_not_found(ada: Visitor, month: str) -> None:
    assert (await ada.get(f"/billing/statements/{month}")).status == 404


async def test_a_stranger_is_asked_to_sign_in_first(stranger: Visitor) -> None:
    for address in ("/billing", f"/billing/statements/{this_month()}.csv"):
        assert (await stranger.get(address)).path.startswith("/signin?next=")


async def test_without_stripe_there_is_no_way_to_pay(rig: Rig, ada: Visitor) -> None:
    page = await ada.get("/billing")
    assert "/billing/topup" not in page.text
    form = form_of(page.text, "/billing/redeem")
    assert (await ada.post("/billing/topup", {**form, "amount": "25"})).status == 404
    assert (await rig.post({}, b"{}", "/stripe/webhook")).status == 404


def test_paging_with_scripts_shows_the_next_movements_from_their_top(rig: Rig, browser: Browser) -> None:
    person = sign_up(rig)
    for i in range(52):
        rig.desk.credits.grant(person.email, credits="1", reason="test", grant_key=f"p-{person.email}-{i}")
    with window(browser, rig, person) as page:
        page.goto("/billing")
        page.click("text=Older")
        page.wait_for_url("**/billing?after=*")
        expect(page.locator("#ledger tbody tr")).to_have_count(2)
        assert page.is_visible("#ledger-title")
        page.go_back()
        expect(page.locator("#ledger tbody tr")).to_have_count(50)


def test_on_a_phone_movements_fit_however_many_digits_they_have(rig: Rig, browser: Browser) -> None:
    person = sign_up(rig)
    alias = rig.alias("sim:words=3")
    rig.desk.credits.grant(person.email, credits="1234567.123456789", reason="test", grant_key=f"long-{person.email}")
    issued = rig.desk.keys.issue(person.email, name="laptop", models=[alias])
    key = Customer(person.email, issued.id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})
    run(rig.chat(key, alias))
    run(rig.settled(key, records=1))
    with window(browser, rig, person, viewport=PHONE) as page:
        for address in ("/billing", f"/billing/statements/{this_month()}"):
            page.goto(address)
            boxes = page.locator(".scroll").evaluate_all(
                "boxes => boxes.map((box) => box.scrollWidth - box.clientWidth)"
            )
            assert (len(boxes) > 0, max(boxes)) == (True, 0), address
            line = page.locator(".movements tbody tr", has_text="Credits granted")
            assert line.get_by_text("1,234,567.123456789").count() == 2


def test_a_statement_prints_without_what_is_for_screens(rig: Rig, browser: Browser) -> None:
    with window(browser, rig, sign_up(rig), color_scheme="dark", viewport={"width": 718, "height": 1000}) as page:
        page.context.add_cookies([{"name": "theme", "value": "dark", "url": rig.url}])
        page.goto(f"/billing/statements/{this_month()}")
        page.emulate_media(media="print")
        assert not page.is_visible(".side")
        assert not page.is_visible("[data-print]")
        assert page.is_visible("text=Opening balance")
        assert page.evaluate("getComputedStyle(document.querySelector('.paper td, .paper dd')).color") == "rgb(0, 0, 0)"
