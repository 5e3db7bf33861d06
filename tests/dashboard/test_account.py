"""The account page, links to choose a password, and the deletion of one's data."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import Browser, Page, expect

from models.ids import SECOND_US, now_us
from tests.dashboard.browsers import sign_up, window
from tests.dashboard.endpoints import tables
from tests.dashboard.visitor import PASSWORD, Visitor, form_of, visiting
from tests.rig import Customer, Rig
from tests.stores import Sql

NEW = "another long password"
SCRIPT = "<script>alert('a name')</script>"


# ── name, password, sessions ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_name_is_text_whatever_it_says(ada: Visitor) -> None:
    page = await ada.send("/account", "/account/name", name=f" {SCRIPT} ")
    assert page.path == "/account?done=name"
    assert "Your name is saved." in page.text
    assert "&lt;script&gt;alert(&#39;a name&#39;)&lt;/script&gt;" in page.text
    assert "<script>alert" not in page.text


@pytest.mark.parametrize("name", [" ", "x" * 201, "two\r\nlines", "bell\a"])
async def test_a_bad_name_is_said_beside_its_field_and_kept(ada: Visitor, name: str) -> None:
    page = await ada.send("/account", "/account/name", name=name)
    assert page.status == 422
    assert 'aria-describedby="help-name"' in page.text
    assert "x" * 201 in page.text or len(name) < 201


async def test_a_name_cannot_be_changed_for_ever(ada: Visitor) -> None:
    """Each change is a row of the audit log, which is kept for good."""
    form = {"csrf": await ada.csrf()}
    posts = [ada.post("/account/name", form | {"name": f"Ada {n}"}, follow=False) for n in range(61)]
    assert sorted([(await post).status for post in posts]) == [303] * 60 + [429]


async def test_a_new_password_needs_the_present_one_and_ends_every_other_session(ada: Visitor) -> None:
    page = await ada.send("/account", "/account/password", present="wrong", password=NEW)
    assert (page.status, "This is not your password." in page.text) == (422, True)
    page = await ada.send("/account", "/account/password", present="wrong", password="short")
    assert all(said in page.text for said in ("This is not your password.", "Must have 8 to 1000 characters."))
    page = await ada.send("/account", "/account/password", present="", password="")
    assert (page.status, page.text.count("This is missing.")) == (422, 2)
    page = await ada.send("/account", "/account/password", present=PASSWORD, password="short")
    assert (page.status, "Must have 8 to 1000 characters." in page.text) == (422, True)
    async with visiting(ada.rig) as phone, visiting(ada.rig) as thief:
        await phone.sign_in(ada.email)
        assert (await phone.get("/account")).path == "/account"
        stolen = {"Cookie": f"session={ada.cookies['session']}"}
        page = await ada.send("/account", "/account/password", present=PASSWORD, password=NEW)
        assert page.path == "/account?done=password"
        assert (await phone.get("/account")).path == "/signin?next=/account"
        # Whoever had a copy of this browser's own cookie is out as well.
        assert (await thief.get("/account", headers=stolen, follow=False)).status == 303
        assert (await phone.sign_in(ada.email)).status == 422
        assert (await phone.sign_in(ada.email, NEW)).path == "/"


async def test_sessions_are_listed_and_ended_one_by_one_or_all_others(ada: Visitor) -> None:
    async with visiting(ada.rig) as phone, visiting(ada.rig) as laptop:
        form = form_of((await phone.get("/signin")).text, "/signin") | {"email": ada.email, "password": PASSWORD}
        agent = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Mobile/15E148 Safari/604.1"
        await phone.post("/signin", form, headers={"User-Agent": agent})
        await laptop.sign_in(ada.email)
        page = await ada.get("/account")
        assert page.text.count("This one") == 1
        assert "Safari 18 on iPhone" in page.text
        assert phone.address in page.text
        [(session_id,)] = ada.rig.sql("SELECT id FROM session WHERE address = ?", phone.address)
        page = await ada.send("/account", f"/account/sessions/{session_id}/end")
        assert page.path == "/account?done=session"
        assert (await phone.get("/account")).path == "/signin?next=/account"
        assert (await laptop.get("/account")).status == 200
        await ada.send("/account", "/account/sessions/end")
        assert (await laptop.get("/account")).path == "/signin?next=/account"
        assert (await ada.get("/account")).path == "/account"


async def test_ending_ones_own_session_is_signing_out(ada: Visitor) -> None:
    [(own,)] = ada.rig.sql('SELECT s.id FROM session s JOIN "user" u ON u.id = s.user_id WHERE u.email = ?', ada.email)
    page = await ada.send("/account", f"/account/sessions/{own}/end")
    assert (page.path, "session" in ada.cookies) == ("/signin", False)


# ── links to choose a password ────────────────────────────────────────────────────────────────────────────────────


async def test_a_link_chooses_a_password_once_and_ends_every_session(ada: Visitor, stranger: Visitor) -> None:
    link = ada.rig.desk.accounts.reset_link(ada.email)
    for _ in range(2):
        page = await stranger.get(link)
        assert (page.status, ada.email in page.text) == (200, True)
        assert page.headers["referrer-policy"] == "strict-origin"
    page = await stranger.send(link, password="short")
    assert (page.status, "Must have 8 to 1000 characters." in page.text) == (422, True)
    assert (await ada.get("/account")).status == 200
    before = await stranger.get(link)
    page = await stranger.send(link, password=NEW)
    assert page.path == "/account?done=password"
    assert (await ada.get("/account")).path == "/signin?next=/account"
    async with visiting(ada.rig) as other:
        again = await other.get(link)
        assert (again.status, "This link no longer works" in again.text) == (404, True)
        fields = form_of((await other.get("/signin")).text, "/signin") | {"password": "a third password"}
        assert (await other.post(link, fields)).status == 404
        assert (await other.sign_in(ada.email, NEW)).path == "/"
    assert link in before.text
    log = ada.rig.server.log.read_text()
    assert link.removeprefix("/reset/") not in log


async def test_a_link_dies_by_a_newer_one_by_a_new_password_and_after_a_day(ada: Visitor, stranger: Visitor) -> None:
    desk = ada.rig.desk
    first, second = desk.accounts.reset_link(ada.email), desk.accounts.reset_link(ada.email)
    assert (await stranger.get(first)).status == 404
    assert (await stranger.get(second)).status == 200
    await ada.send("/account", "/account/password", present=PASSWORD, password=NEW)
    assert (await stranger.get(second)).status == 404
    third = desk.accounts.reset_link(ada.email)
    with Sql(ada.rig.database_url) as sql:
        sql.rows('UPDATE "user" SET reset_until_us = ? WHERE email = ?', now_us() - SECOND_US, ada.email)
    page = await stranger.get(third)
    assert (page.status, "ask our staff for another" in page.text) == (404, True)


# ── deletion ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_deleted_data_is_nowhere_and_the_books_stay(rig: Rig, ada: Visitor) -> None:
    name, key_name, own_key_name = "Ada Canary Lovelace", "Ada's canary laptop", "ada canary desk"
    await ada.send("/account", "/account/name", name=name)
    alias = rig.alias("sim:words=2")
    rig.desk.credits.grant(ada.email, credits="10", reason="test", grant_key=f"erase-{time.time_ns()}")
    issued = rig.desk.keys.issue(ada.email, name=key_name, models=[alias])
    key = Customer(ada.email, issued.id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})
    assert (await rig.chat(key, alias)).status == 200
    page = await ada.send("/keys/new", name=own_key_name, models=alias)
    assert page.status == 200
    assert own_key_name in (await ada.get("/keys")).text
    [(account_id, books)] = rig.sql(
        'SELECT a.id, a.balance_nano FROM account a JOIN "user" u ON u.account_id = a.id WHERE u.email = ?', ada.email
    )
    link = rig.desk.accounts.reset_link(ada.email)
    page = await ada.send("/account/delete", password="wrong password")
    assert (page.status, "This is not your password." in page.text) == (422, True)
    # Twice at once is once: the second finds nobody signed in.
    form = form_of((await ada.get("/account/delete")).text, "/account/delete") | {"password": PASSWORD}
    page = await ada.post("/account/delete", form)
    assert (page.path, "Your data is deleted" in page.text) == ("/signin?done=deleted", True)
    assert (await ada.post("/account/delete", form)).path.startswith("/signin")

    began = time.monotonic()
    while (await rig.chat(key, alias)).status == 200:
        assert time.monotonic() - began < 1
    assert (await rig.chat(key, alias)).status == 401
    async with visiting(rig) as visitor:
        assert (await visitor.get(link)).status == 404
        assert (await visitor.sign_in(ada.email)).status == 422

    assert found_anywhere(rig, ada.email, name, key_name, own_key_name, ada.address) == set()
    [row] = rig.sql("SELECT balance_nano, suspended_us IS NOT NULL FROM account WHERE id = ?", account_id)
    assert (row[0], bool(row[1])) == (books, True)
    assert len(rig.sql("SELECT 1 FROM usage WHERE account_id = ?", account_id)) == 1
    rig.reconcile()
    async with visiting(rig) as anew:
        anew.email = ada.email
        assert (await anew.sign_up()).path == "/"
        assert rig.sql('SELECT account_id FROM "user" WHERE email = ?', ada.email) != [(account_id,)]
    async with visiting(rig) as impostor:
        impostor.email = f"deleted-{account_id}@deleted.invalid"
        assert (await impostor.sign_up()).status == 422


def found_anywhere(rig: Rig, *words: str) -> set[tuple[str, str]]:
    """Tables and words, of every row of every table."""
    found = set()
    for table, columns in tables(rig).items():
        names = ", ".join(f'"{column}"' for column in columns)
        text = repr(rig.sql(f'SELECT {names} FROM "{table}"')).lower()
        found |= {(table, word) for word in words if repr(word)[1:-1].lower() in text}
    return found


# ── in a browser ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_signing_up_and_the_account_by_keyboard_alone(rig: Rig, browser: Browser) -> None:
    with window(browser, rig) as page:
        page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
        page.goto("/signup")
        reach(page, "#field-email")
        page.keyboard.type(f"keys-{time.time_ns()}@example.com")
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Overview")
        reach(page, "a[href='/account']")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Account")
        reach(page, "#field-name")
        page.keyboard.press("Control+A")
        page.keyboard.type(SCRIPT)
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("Your name is saved.")
        assert page.input_value("#field-name") == SCRIPT
        reach(page, "#theme")
        page.keyboard.press("d")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        reach(page, "form[action='/signout'] button")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Sign in")


def reach(page: Page, selector: str) -> None:
    """By the tab key."""
    for _ in range(60):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached by keyboard on {page.url}")


def test_without_scripts_the_account_page_does_all_but_looks(rig: Rig, browser: Browser) -> None:
    with window(browser, rig, sign_up(rig), java_script_enabled=False) as page:
        page.goto("/account")
        assert page.locator("#theme").is_hidden()
        page.fill("#field-name", "Ada")
        page.click("form[action='/account/name'] button")
        assert page.get_by_role("status").inner_text() == "Your name is saved."
