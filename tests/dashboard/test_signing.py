"""Signing up, in and out."""

from __future__ import annotations

import asyncio
import html

import pytest
from playwright.sync_api import Browser

from tests.dashboard.browsers import accessibility_faults, sign_up, window
from tests.dashboard.visitor import PASSWORD, Visitor, form_of
from tests.rig import Rig


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


@pytest.mark.parametrize("email", ["nul\0@example.com", "x" * 5_000, "é'\"--@example.com", ""])
async def test_who_is_nobody_is_told_so(stranger: Visitor, email: str) -> None:
    page = await stranger.send("/signin", email=email, password="x" * 5_000)
    assert (page.status, "do not belong together" in page.text) == (422, True)


def test_the_sign_in_page_is_accessible(rig: Rig, browser: Browser) -> None:
    with window(browser, rig) as page:
        page.goto("/")
        assert accessibility_faults(page) == []


def test_the_first_page_is_accessible(rig: Rig, browser: Browser) -> None:
    with window(browser, rig, sign_up(rig)) as page:
        page.goto("/")
        assert page.inner_text("h1") == "Overview"
        assert accessibility_faults(page) == []
