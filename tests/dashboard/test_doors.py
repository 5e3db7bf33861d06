"""Where sign-up is by invitation or closed, and behind a proxy that the server was told of by its public address alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.dashboard.browsers import window
from tests.dashboard.visitor import PASSWORD, Visitor, form_of, visiting
from tests.rig import Rig, start_rig

PUBLIC = "https://dash.example.com"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A server behind https, by invitation only."""
    folder = tmp_path_factory.mktemp("guarded")
    contact = "help@example.com"
    with start_rig(folder, GATEWAY_SIGNUP="invite", GATEWAY_PUBLIC_URL=PUBLIC, GATEWAY_CONTACT=contact) as running:
        yield running


@pytest.fixture
async def guest(guarded: Rig) -> AsyncIterator[Visitor]:
    async with visiting(guarded) as visitor:
        yield visitor


async def test_a_new_server_has_no_login_and_no_key_of_its_own(guarded: Rig) -> None:
    """First of all here: nobody has signed up yet."""
    assert [guarded.sql(f'SELECT * FROM "{table}"') for table in ("user", "api_key", "session", "invite")] == [[]] * 4


async def test_an_invitation_opens_the_door_once(guarded: Rig, guest: Visitor) -> None:
    made = guarded.desk.accounts.invite()
    page = await guest.get("/signup")
    assert "by invitation" in page.text
    page = await guest.get(made.path)
    assert made.code in page.text
    # Else the code would travel on, with every file that the page loads, into the logs on the way.
    assert page.headers["referrer-policy"] == "strict-origin"
    fields = form_of(page.text, "/signup") | {"email": guest.email, "password": PASSWORD}
    wrong = await guest.post("/signup", fields | {"invite": "ABCDE-12345-FGHJK-67890"})
    assert wrong.status == 422
    assert "There is no invitation with this code" in wrong.text
    assert 'value="ABCDE-12345-FGHJK-67890"' in wrong.text
    assert f'value="{guest.email}"' in wrong.text
    assert wrong.headers["referrer-policy"] == "strict-origin"
    assert (await guest.post("/signup", fields)).path == "/"
    # A double click is the same person, and no second account.
    again = await guest.post("/signup", fields | {"csrf": await guest.csrf()})
    assert (again.status, again.path) == (200, "/")
    assert len(guarded.sql('SELECT 1 FROM "user" WHERE email = ?', guest.email)) == 1
    async with visiting(guarded) as other:
        page = await other.send(made.path, "/signup", email=other.email, password=PASSWORD)
        assert (page.status, "was used already" in page.text) == (422, True)
    listed = guarded.desk.accounts.invites().set_index("id").loc[made.id]
    assert (listed["state"], listed["hint"]) == ("used", f"…{made.code[-4:]}")


async def test_cookies_are_for_https_alone_where_customers_come_by_it(guarded: Rig, guest: Visitor) -> None:
    """Also when a proxy asks for this machine by its own name, and nobody told the server to trust it."""
    page = await guest.get("/signin")
    [line] = page.set_cookies
    assert line.startswith("__Host-visitor=")
    assert "; Secure" in line


async def test_a_form_from_the_public_address_is_ours(guarded: Rig, guest: Visitor) -> None:
    form = form_of((await guest.get("/signin")).text, "/signin") | {"email": guest.email, "password": "wrong password"}
    for origin, status in ((PUBLIC, 422), (guarded.url, 422), ("https://dash.example.com.evil.example", 403)):
        assert (await guest.post("/signin", form, headers={"Origin": origin})).status == status


async def test_a_dead_link_says_whom_to_ask(guest: Visitor) -> None:
    page = await guest.get("/reset/never-made")
    assert (page.status, "help@example.com" in page.text) == (404, True)


async def test_where_sign_up_is_closed_the_page_says_so(guarded: Rig) -> None:
    """Last of all forms here: the server is started anew."""
    await asyncio.to_thread(guarded.server.stop)
    await asyncio.to_thread(guarded.start, GATEWAY_SIGNUP="closed")
    async with visiting(guarded) as visitor:
        page = await visitor.get("/signup")
        assert (page.status, "Signing up is closed" in page.text) == (200, True)
        assert "<form" not in page.text.partition("<main")[2]
        fields = form_of((await visitor.get("/signin")).text, "/signin")
        page = await visitor.post("/signup", fields | {"email": visitor.email, "password": PASSWORD})
        assert page.status == 403
        assert guarded.sql('SELECT 1 FROM "user" WHERE email = ?', visitor.email) == []


def test_whoever_sits_at_the_machine_itself_can_sign_in(guarded: Rig, browser: Browser) -> None:
    """Browsers keep cookies for https alone from this machine, over http as well."""
    email = "olga@example.com"
    guarded.desk.accounts.create(email, password=PASSWORD)
    with window(browser, guarded) as page:
        page.goto("/signin")
        page.fill("#field-email", email)
        page.fill("#field-password", PASSWORD)
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Overview")
        assert {cookie["name"] for cookie in page.context.cookies()} >= {"__Host-session"}
