"""The playground: a chat in the browser over `/v1`, which costs and refuses as it does for any client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from models.prices import credits_text
from tests.dashboard.browsers import PHONE, Person, accessibility_faults, run, sign_up, window
from tests.dashboard.visitor import Visitor, form_of
from tests.rig import Customer, Rig

EXACT = "sim:words=5"


@pytest.fixture
def person(rig: Rig) -> Person:
    person = sign_up(rig)
    rig.desk.credits.grant(person.email, credits="100", reason="test", grant_key=f"grant-{person.email}")
    return person


@pytest.fixture
def playground(rig: Rig, browser: Browser, person: Person) -> Iterator[Page]:
    with window(browser, rig, person) as page:
        page.goto("/playground")
        yield page


def issue(rig: Rig, person: Person, *aliases: str) -> Customer:
    issued = rig.desk.keys.issue(person.email, name="laptop", models=list(aliases))
    return Customer(person.email, issued.id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})


def paste(page: Page, secret: str) -> None:
    page.get_by_label("Or paste one of yours").fill(secret)
    page.get_by_role("button", name="Use this key").click()


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")


async def test_a_key_for_a_tab_is_made_once_and_ends_in_a_day(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias(EXACT)
    form = form_of((await ada.get("/playground")).text, "/playground")
    first, second = [await ada.post("/playground", {**form, "models": [alias]}) for _ in range(2)]
    secrets = [re.search(r'id="made-key" value="(sk-st-[\w-]+)"', page.text) for page in (first, second)]
    made = {found[1] for found in secrets if found}
    assert (None in secrets, len(made)) == (False, 1)
    assert first.headers["cache-control"] == "no-store"
    [key] = rig.desk.keys.list(ada.email).to_dict("records")
    assert (key["name"], key["models"]) == ("Playground", [alias])
    assert abs((key["expires_at"] - key["created_at"]).total_seconds() - 86_400) < 5
    # Nothing ticked, or what cannot be called: all that can be.
    await ada.send("/playground", models=["no-such"])
    assert alias in rig.desk.keys.list(ada.email)["models"].iloc[-1]


async def test_it_says_that_it_needs_scripts_and_what_a_stopped_answer_costs(ada: Visitor) -> None:
    page = await ada.get("/playground")
    assert re.search(r"<noscript>.*needs JavaScript.*</noscript>", page.text)
    assert "may go on for 2 s" in page.text


def test_an_answer_streams_in_and_costs_what_the_ledger_says(rig: Rig, playground: Page, person: Person) -> None:
    upstream = "sim:words=5,gate,tag=playground"
    alias = rig.alias(upstream)
    playground.reload()
    playground.get_by_role("button", name="Make a key").click()
    playground.get_by_label("Model", exact=True).select_option(alias)
    playground.get_by_label("System prompt").fill("Be brief.")
    playground.get_by_label("Max tokens").fill("50")
    say(playground, "Hello <b>there</b>")
    answer = playground.locator(".said.assistant")
    # The first event is here, the others wait: what it costs so far is an estimate, and says so.
    [call] = run(rig.provider.wait(upstream))
    expect(answer).to_contain_text(re.compile(r"Estimate while it runs: about 16 tokens in, 2 out, [\d.]+ credits"))
    run(rig.provider.release(upstream))
    expect(answer).to_have_attribute("data-credits", re.compile(r"\d"))
    charged = answer.get_attribute("data-credits") or ""
    assert call["body"]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello <b>there</b>"},
    ]
    assert (call["body"]["max_tokens"], call["body"]["stream_options"]) == (50, {"include_usage": True})
    [record] = rig.records(Customer(person.email, 0, "", {}))
    assert charged == credits_text(record["charge_nano"])
    for words in (f"{charged} credits", f"{record['output_tokens']} out", "first token after"):
        expect(answer).to_contain_text(words)
    assert playground.locator(".said b").count() == 0
    # The talk goes on with what was said, also after the tab was loaded anew, and adds up exactly.
    playground.reload()
    expect(playground.locator(".said")).to_have_count(2)
    say(playground, "And then?")
    run(rig.provider.wait(upstream, count=2))
    run(rig.provider.release(upstream))
    last = playground.locator(".said.assistant[data-credits]")
    expect(last).to_be_visible()
    total = Decimal(charged) + Decimal(last.get_attribute("data-credits") or "")
    expect(playground.locator("#total")).to_have_text(f"{total} credits so far")
    [_, second] = run(rig.provider.calls(upstream))
    assert [message["role"] for message in second["body"]["messages"]] == ["system", "user", "assistant", "user"]
    playground.get_by_role("link", name="Receipt").last.click()
    expect(playground.locator("main")).to_contain_text(f"{total - Decimal(charged)}")


def test_the_estimate_runs_while_the_answer_does_and_a_stop_ends_it(rig: Rig, playground: Page, person: Person) -> None:
    upstream = "sim:words=400,gap_ms=20,tag=stopped"
    key = issue(rig, person, rig.alias(upstream))
    paste(playground, key.key)
    say(playground, "Talk")
    answer = playground.locator(".said.assistant")
    expect(answer).to_contain_text(
        re.compile(r"Estimate while it runs: about \d+ tokens in, [1-9]\d* out, 0\.\d+ credits")
    )
    playground.get_by_role("button", name="Stop").click()
    expect(answer).to_contain_text("You stopped it")
    expect(playground.get_by_role("button", name="Send")).to_be_visible()
    run(rig.recorded(key, 1))
    [record] = rig.records(key)
    assert record["outcome"] == "left"
    assert record["charge_nano"] > 0


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        ("sim:status=500,tag=playground", "No provider of this model answered."),
        ("sim:words=9,gap_ms=60,error_event=4,tag=playground", "The answer broke off."),
        ("sim:words=9,gap_ms=60,cut=4,tag=playground", "The answer broke off."),
        ("sim:status=422,tag=playground", "The request was refused."),
    ],
)
def test_what_fails_is_said_in_plain_words_and_free(
    rig: Rig, playground: Page, person: Person, upstream: str, words: str
) -> None:
    key = issue(rig, person, rig.alias(upstream))
    paste(playground, key.key)
    say(playground, "Hello")
    trouble = playground.get_by_role("alert").last
    expect(trouble).to_contain_text(words)
    expect(trouble).to_contain_text("not charged")
    # It can be sent again as it was.
    expect(playground.get_by_label("Message")).to_have_value("Hello")
    assert rig.spent_nano(key, "100") == 0


def test_a_key_that_is_refused_is_told_and_another_can_be_used(rig: Rig, playground: Page, person: Person) -> None:
    alias = rig.alias(EXACT)
    paste(playground, "sk-st-not-a-key-of-ours")
    expect(playground.get_by_role("alert")).to_contain_text("not accepted")
    key = issue(rig, person, alias)
    paste(playground, key.key)
    expect(playground.get_by_label("Model", exact=True)).to_have_text(alias)
    rig.desk.limits.set(key=key.key_id, unit="requests", quota=1)
    rig.settle_feed()
    say(playground, "One")
    expect(playground.locator(".said[data-credits]")).to_be_visible()
    say(playground, "Two")
    expect(playground.get_by_role("alert").last).to_contain_text(re.compile(r"too fast.*Try again in \d+ second"))
    rig.desk.keys.revoke(key.key_id)
    rig.settle_feed()
    say(playground, "Three")
    expect(playground.get_by_role("alert").last).to_contain_text("This key is not accepted.")


def test_the_key_of_the_page_that_shows_it_is_taken_along_in_this_tab_alone(
    rig: Rig, browser: Browser, person: Person
) -> None:
    alias = rig.alias(EXACT)
    with window(browser, rig, person) as page:
        page.goto("/keys/new")
        page.get_by_label("Name").fill("laptop")
        page.get_by_label(alias, exact=True).check()
        page.get_by_role("button", name="Create the key").click()
        secret = page.locator("#secret").inner_text()
        page.get_by_role("link", name="Try it in the playground").click()
        expect(page.locator("#hint")).to_have_text(f"{secret[:10]}…{secret[-4:]}")
        assert secret not in page.url + page.content()
        assert secret not in page.evaluate("() => JSON.stringify(localStorage) + document.cookie")
        other = page.context.new_page()
        other.goto("/playground")
        expect(other.get_by_role("button", name="Make a key")).to_be_visible()


@pytest.mark.drill
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_code_is_shown_and_it_is_accessible(rig: Rig, browser: Browser, person: Person, scheme: Any) -> None:
    key = issue(rig, person, rig.alias("sim:words=5,reasoning_text"))
    screen = {"viewport": PHONE} if scheme == "dark" else {}
    with window(browser, rig, person, color_scheme=scheme, **screen) as page:
        page.goto("/playground")
        assert accessibility_faults(page) == []
        paste(page, key.key)
        page.get_by_label("Temperature").fill("0.5")
        say(page, 'It\'s "me" \N{SNOWMAN}')
        expect(page.locator(".said[data-credits]")).to_be_visible()
        for summary in page.locator("#desk details > summary").all():
            summary.click()
        # What is folded is written once it has been opened, a moment after the click.
        expect(page.locator("#code-python")).to_contain_text("temperature=0.5")
        compile(page.locator("#code-python").inner_text(), "playground", "exec")
        assert "It'\\''s" in page.locator("#code-curl").inner_text()
        assert key.key not in page.content()
        assert accessibility_faults(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
