"""Signing up, in and out; and what becomes of a form whose session has died."""

from __future__ import annotations

import asyncio
import html
import re

import pytest
from playwright.sync_api import Browser, expect

from models.ids import now_us
from tests.dashboard.browsers import accessibility_faults, sign_up, window
from tests.dashboard.visitor import PASSWORD, Visitor, form_of
from tests.rig import Rig
from tests.stores import Sql


async def test_who_signs_up_is_signed_in_and_out_again(stranger: Visitor) -> None:
    page = await stranger.sign_up()
    assert (page.status, page.path, page.hops) == (200, "/", (303,))
    assert "<h1>Overview</h1>" in page.text
    page = await stranger.send("/", "/signout")
    assert page.path == "/signin"
    assert "<h1>Sign in</h1>" in (await stranger.get("/")).text


async def test_after_signing_in_one_is_where_one_wanted_to_be(ada: Visitor) -> None:
    await ada.send("/", "/signout")
    page = await ada.send("/signin?next=/docs/api", "/signin", email=ada.email, password="a long password")
    assert page.path == "/docs/api"


async def test_the_same_sign_up_sent_twice_is_one_account_and_one_is_signed_in(rig: Rig, stranger: Visitor) -> None:
    form = form_of((await stranger.get("/signup")).text, "/signup") | {"email": stranger.email, "password": PASSWORD}
    answers = await asyncio.gather(*(stranger.post("/signup", form, follow=False) for _ in range(2)))
    assert [(page.status, page.headers["location"]) for page in answers] == [(303, "/")] * 2
    assert (await stranger.get("/account")).path == "/account"
    assert len(rig.sql('SELECT 1 FROM "user" WHERE email = ?', stranger.email)) == 1


async def test_a_taken_address_is_no_way_in_with_another_password(ada: Visitor, stranger: Visitor) -> None:
    page = await stranger.send("/signup", email=ada.email, password="some other password")
    assert (page.status, "has an account already" in page.text) == (422, True)
    assert (await stranger.get("/account")).path == "/signin?next=/account"


@pytest.mark.parametrize(
    ("email", "password", "said"),
    [
        ("nobody", PASSWORD, "is not an e-mail address"),
        ("nul\0@example.com", "short", "Must have 8 to 1000 characters"),
        ("a <b>@example.com", PASSWORD, "is not an e-mail address"),
        ("ok@example.com", "short", "Must have 8 to 1000 characters."),
    ],
)
async def test_what_is_wrong_stands_beside_its_field_and_the_rest_is_kept(
    stranger: Visitor, email: str, password: str, said: str
) -> None:
    page = await stranger.send("/signup", email=email, password=password)
    assert page.status == 422
    assert said in page.text
    assert f'value="{html.escape(email)}"'.replace("\0", "\ufffd") in page.text
    assert f'value="{password}"' not in page.text
    assert page.text.count('aria-invalid="true"') == 1


@pytest.mark.parametrize(
    ("email", "password", "said"),
    [
        ("bob", "short", ["is not an e-mail address", "Must have 8 to 1000 characters."]),
        (" ", "", ["This is missing."] * 2),
        ("bob", "", ["is not an e-mail address", "This is missing."]),
    ],
)
async def test_all_that_is_wrong_is_named_at_once(
    stranger: Visitor, email: str, password: str, said: list[str]
) -> None:
    page = await stranger.send("/signup", email=email, password=password)
    errors = re.findall(r'<small id="help-(\w+)" class="error">([^<]+)', page.text)
    assert (page.status, [field for field, _ in errors]) == (422, ["email", "password"])
    assert [words in error for words, (_, error) in zip(said, errors, strict=True)] == [True] * 2


@pytest.mark.parametrize("email", ["nul\0@example.com", "x" * 5_000, "é'\"--@example.com", ""])
async def test_who_is_nobody_is_told_so(stranger: Visitor, email: str) -> None:
    page = await stranger.send("/signin", email=email, password="x" * 5_000)
    assert (page.status, "do not belong together" in page.text) == (422, True)


# ── when a session dies in the middle ─────────────────────────────────────────────────────────────────────────────


async def test_no_password_is_kept_and_nothing_of_a_form_that_is_not_ours(rig: Rig, ada: Visitor, ben: Visitor) -> None:
    fields = form_of((await ada.get("/account")).text, "/account/password") | {
        "present": PASSWORD,
        "password": "new one",
    }
    forged = form_of((await ben.get("/account")).text, "/account/name") | {"name": "Mallory"}
    far = form_of((await ada.get("/account")).text, "/account/name") | {"name": "Mallory"}
    end_sessions(rig, ada.email)
    for path, sent, headers in (
        ("/account/password", fields, {}),
        ("/account/name", forged, {}),
        ("/account/name", far, {"Origin": "https://evil.example"}),
    ):
        page = await ada.post(path, sent, headers=headers, follow=False)
        assert (page.status, page.headers["location"]) == (303, "/signin?next=/"), path
    # Nor does an address bring anything along.
    page = await ada.get("/signin?kept=name%3DMallory&kept_for=/account/name")
    assert "Mallory" not in page.text.partition("<main")[2]


async def test_a_form_of_more_than_can_be_kept_leads_to_sign_in_and_back(rig: Rig, ada: Visitor) -> None:
    form = form_of((await ada.get("/keys/new")).text, "/keys/new")
    end_sessions(rig, ada.email)
    sent = form | {"name": "laptop", "models": [f"a-model-with-a-long-name-{n}" for n in range(200)]}
    page = await ada.post("/keys/new", sent, headers={"Referer": f"{rig.url}/keys/new"}, follow=False)
    assert (page.status, page.headers["location"]) == (303, "/signin?next=/keys/new")


def end_sessions(rig: Rig, email: str) -> None:
    """As signing out everywhere from another browser does, or time."""
    with Sql(rig.database_url) as sql:
        sql.rows(
            'UPDATE session SET ended_us = ? WHERE user_id = (SELECT id FROM "user" WHERE email = ?)', now_us(), email
        )


# ── in a browser ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_typed_outlives_the_session(rig: Rig, browser: Browser) -> None:
    alias, other = rig.alias("sim:words=2"), rig.alias("sim:words=3")
    person = sign_up(rig)
    with window(browser, rig, person) as page:
        page.goto("/keys/new")
        page.get_by_label("Name").fill('laptop & "desk"')
        for name in (alias, other):
            page.get_by_label(name, exact=True).check()
        end_sessions(rig, person.email)
        page.get_by_role("button", name="Create the key").click()
        expect(page.get_by_role("status")).to_contain_text("What you typed is kept")
        for password in ("a wrong password", PASSWORD):
            page.get_by_label("E-mail").fill(person.email)
            page.get_by_label("Password").fill(password)
            page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("You are signed in again")
        assert PASSWORD not in page.content()
        assert accessibility_faults(page) == []
        assert rig.desk.keys.list(person.email).empty
        page.get_by_role("button", name="Send it now").click()
        expect(page.locator("#secret")).to_contain_text("sk-")
    listed = rig.desk.keys.list(person.email)
    assert (listed["name"].tolist(), listed["models"].tolist()) == (['laptop & "desk"'], [sorted([alias, other])])
