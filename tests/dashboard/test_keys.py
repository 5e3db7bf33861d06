"""API keys: made once, shown once, changed, renewed and stopped by forms; and nobody else's."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from models.secrets import hash_key_secret
from tests.dashboard.browsers import PHONE, accessibility_faults, run, sign_up, window
from tests.dashboard.visitor import Page as Shown
from tests.dashboard.visitor import Visitor, form_of
from tests.rig import Answer, Customer, Rig

EXACT = "sim:words=3"
WITHIN_S = 1.0


@pytest.fixture(scope="module")
def alias(rig: Rig) -> str:
    return rig.alias(EXACT)


def secret_on(page: Shown) -> str:
    found = re.search(r'id="secret">(sk-st-[\w-]+)<', page.text)
    assert found, page.text[-3000:]
    return found[1]


def key_id_on(page: Shown) -> int:
    return int(re.findall(r'href="/keys/(\d+)"', page.text)[0])


def holder(visitor: Visitor, page: Shown) -> Customer:
    """Who has the key that this page shows."""
    secret = secret_on(page)
    return Customer(visitor.email, key_id_on(page), secret, {"Authorization": f"Bearer {secret}"})


def give(rig: Rig, email: str) -> None:
    rig.desk.credits.grant(email, credits="100", reason="test", grant_key=f"grant-{email}")


async def create(visitor: Visitor, *models: str, **fields: Any) -> Shown:
    return await visitor.send("/keys/new", **{"name": "laptop", "models": list(models), **fields})


async def until(rig: Rig, customer: Customer, alias: str, status: int) -> list[Answer]:
    """Every worker answers so, within a second."""
    began = time.monotonic()
    while True:
        answers = await rig.everywhere(customer, alias)
        if {answer.status for answer in answers} == {status}:
            return answers
        assert time.monotonic() - began < WITHIN_S, [answer.status for answer in answers]


# ── making ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_key_is_shown_once_and_calls_what_was_ticked_and_nothing_else(
    rig: Rig, ada: Visitor, alias: str
) -> None:
    give(rig, ada.email)
    other = rig.alias(EXACT)
    page = await create(ada, alias)
    assert (page.status, page.headers["cache-control"]) == (200, "no-store")
    key = holder(ada, page)
    assert (await rig.chat(key, alias)).status == 200
    assert (await rig.chat(key, other)).status == 403
    for path in ("/keys", f"/keys/{key.key_id}"):
        again = await ada.get(path)
        assert key.key not in again.text
        assert f"{key.key[:10]}…{key.key[-4:]}" in again.text
    everything = str(rig.sql("SELECT * FROM api_key")) + str(rig.sql("SELECT * FROM audit"))
    assert key.key not in everything + rig.server.log.read_text()
    assert hash_key_secret(key.key) in everything


async def test_a_form_that_is_sent_twice_makes_one_key_and_both_answers_show_it(ada: Visitor, alias: str) -> None:
    form = {**form_of((await ada.get("/keys/new")).text, "/keys/new"), "name": "twice", "models": alias}
    first, second = await asyncio.gather(*[ada.post("/keys/new", form) for _ in range(2)])
    assert secret_on(first) == secret_on(second)
    assert (await ada.get("/keys")).text.count(">twice</bdi></a>") == 1


async def test_a_form_that_is_sent_again_does_not_bring_a_secret_back_that_was_replaced(
    ada: Visitor, alias: str
) -> None:
    form = {**form_of((await ada.get("/keys/new")).text, "/keys/new"), "name": "once", "models": alias}
    path = f"/keys/{key_id_on(await ada.post('/keys/new', form))}"
    for _ in range(2):
        await ada.send(path, f"{path}/regenerate")
    page = await ada.post("/keys/new", form)
    assert page.status == 422
    assert 'value="once"' in page.text
    assert (await ada.get("/keys")).text.count(">once</bdi></a>") == 1
    assert (await create(ada, alias)).status == 200


async def test_what_is_wrong_stands_beside_its_field_and_what_was_typed_stays(ada: Visitor, alias: str) -> None:
    page = await create(
        ada, alias, name="x" * 201, expires="2020-01-31", limit_requests="many", limit_tokens="5", limit_concurrent="0"
    )
    assert page.status == 422
    assert {"help-name", "help-expires", "help-limit_requests", "help-limit_concurrent"} == set(
        re.findall(r'<small id="([\w-]+)" class="error">', page.text)
    )
    assert "x" * 201 in page.text
    for kept in ('value="2020-01-31"', 'value="many"', 'value="5"', f'value="{alias}" checked'):
        assert kept in page.text
    page = await create(ada, name="")
    assert page.text.count('class="error"') == 2
    assert "Choose at least one model" in page.text
    assert "No keys yet" in (await ada.get("/keys")).text


async def test_a_model_that_cannot_be_called_cannot_be_chosen_and_is_not_told_of(rig: Rig, ada: Visitor) -> None:
    hidden = rig.alias(EXACT, published=False, settled=False)
    texts = []
    for name in (hidden, f"{hidden}x"):
        page = await create(ada, name)
        assert page.status == 422
        texts.append(re.findall(r'class="error">([^<]*)<', page.text)[0].replace(f"{hidden}x", hidden))
    assert texts[0] == texts[1]


async def test_a_script_as_a_name_is_text(ada: Visitor, alias: str) -> None:
    page = await create(ada, alias, name="<script>alert(1)</script>")
    for shown in (page, await ada.get("/keys"), await ada.get(f"/keys/{key_id_on(page)}")):
        assert "<script>alert" not in shown.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown.text


# ── changing ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_limits_and_scope_of_the_form_are_in_force_within_a_second(rig: Rig, ada: Visitor, alias: str) -> None:
    give(rig, ada.email)
    other = rig.alias(EXACT)
    key = holder(ada, await create(ada, alias, other, limit_requests="1"))
    assert (await rig.chat(key, alias)).status == 200
    refused = await rig.chat(key, alias)
    assert (refused.status, refused.headers["x-ratelimit-limit-requests"]) == (429, "1")
    path = f"/keys/{key.key_id}"
    page = await ada.send(path, name="server", models=[other], limit_requests="", expires="2999-12-31")
    assert (page.path, page.hops) == (f"{path}?done=saved", (303,))
    await until(rig, key, other, 200)
    assert (await until(rig, key, alias, 403))[0].error["code"] == "model_not_allowed"
    for shown in (">server ", 'value="2999-12-31"', f'value="{other}" checked'):
        assert shown in page.text
    assert f'value="{alias}" checked' not in page.text


async def test_a_keys_own_limit_can_be_tighter_than_every_keys_and_never_looser(
    rig: Rig, ada: Visitor, alias: str
) -> None:
    rig.desk.limits.set(default="key", unit="requests", quota=100_000, window_s=60)
    rig.settle_feed()
    try:
        assert "100,000 a minute, as for every key" in (await ada.get("/keys/new")).text
        assert (await create(ada, alias, limit_requests="100,001")).status == 422
        page = await create(ada, alias, limit_requests="99 000")
        assert 'value="99000"' in (await ada.get(f"/keys/{key_id_on(page)}")).text
    finally:
        rig.desk.limits.set(default="key", unit="requests", quota=None)


async def test_what_staff_has_set_in_other_terms_is_shown_and_stays(rig: Rig, ada: Visitor, alias: str) -> None:
    key_id = key_id_on(await create(ada, alias))
    rig.desk.limits.set(key=key_id, unit="requests", quota=1_000, window_s=86_400)
    moment = datetime(2999, 5, 4, 12, 30, tzinfo=UTC)
    issued = rig.desk.keys.issue(ada.email, name="by staff", models=[alias], expires_at=moment)
    assert "1,000 in 86,400 s, set by our staff" in (await ada.get(f"/keys/{key_id}")).text
    for each in (key_id, issued.id):
        assert (await ada.send(f"/keys/{each}", models=[alias])).path.endswith("?done=saved")
    frame = rig.desk.limits.list()
    assert frame[(frame["subject"] == "key") & (frame["subject_id"] == key_id)]["quota"].tolist() == [1_000]
    keys = rig.desk.keys.list(ada.email).set_index("id")
    assert keys.loc[issued.id, "expires_at"] == moment


async def test_a_model_that_was_withdrawn_is_shown_so_and_stays_in_scope(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias(EXACT)
    path = f"/keys/{key_id_on(await create(ada, alias))}"
    rig.desk.catalog.unpublish(alias)
    rig.settle_feed()
    assert "not available now" in (await ada.get("/keys")).text
    assert (await ada.send(path, models=[alias], name="kept")).path == f"{path}?done=saved"
    assert rig.desk.keys.list(ada.email)["models"].tolist() == [[alias]]


# ── stopping ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", ["disable", "delete", "regenerate"])
async def test_a_key_is_refused_within_a_second_of_its_end(rig: Rig, ada: Visitor, alias: str, ending: str) -> None:
    give(rig, ada.email)
    key = holder(ada, await create(ada, alias))
    assert {answer.status for answer in await rig.everywhere(key, alias)} == {200}
    path = f"/keys/{key.key_id}"
    page = await ada.send(path, f"{path}/{ending}")
    await until(rig, key, alias, 401)
    if ending == "disable":
        assert page.path == f"{path}?done=disabled"
        await ada.send(path, f"{path}/enable")
        await until(rig, key, alias, 200)
    elif ending == "delete":
        assert page.path == "/keys?done=deleted"
        assert f'href="{path}"' not in page.text
        assert "Deleted" in (await ada.get("/keys?old=1")).text
        assert "was deleted on" in (await ada.get(path)).text
    else:
        assert (await rig.chat(holder(ada, page), alias)).status == 200


async def test_an_old_secret_works_within_its_grace_until_that_is_ended(rig: Rig, ada: Visitor, alias: str) -> None:
    give(rig, ada.email)
    old = holder(ada, await create(ada, alias))
    path = f"/keys/{old.key_id}"
    page = await ada.send(path, f"{path}/regenerate", grace="3600")
    assert "works until" in page.text
    new = holder(ada, page)
    for _ in range(2):
        assert {answer.status for key in (old, new) for answer in await rig.everywhere(key, alias)} == {200}
    await ada.send(path, f"{path}/end-grace")
    await until(rig, old, alias, 401)
    assert (await rig.chat(new, alias)).status == 200


async def test_a_renewal_that_is_sent_twice_is_one(ada: Visitor, alias: str) -> None:
    path = f"/keys/{key_id_on(await create(ada, alias))}"
    form = form_of((await ada.get(path)).text, f"{path}/regenerate")
    first, second = [await ada.post(f"{path}/regenerate", form) for _ in range(2)]
    assert secret_on(first) == secret_on(second)
    third = await ada.send(path, f"{path}/regenerate")
    assert secret_on(third) != secret_on(first)
    stale = await ada.post(f"{path}/regenerate", form)
    assert stale.status == 422
    assert secret_on(third)[-4:] in stale.text
    assert (await ada.send(path, f"{path}/regenerate", grace="99")).status == 422


# ── nobody else's ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_another_accounts_keys_do_not_exist(rig: Rig, ada: Visitor, ben: Visitor, alias: str) -> None:
    his = key_id_on(await create(ben, alias, name="his secret plan"))
    mine = f"/keys/{key_id_on(await create(ada, alias))}"
    shown = await ada.get(mine)
    change, renew = form_of(shown.text, mine), form_of(shown.text, f"{mine}/regenerate")
    before = rig.sql("SELECT * FROM api_key WHERE id = ?", his)
    for key_id in (his, his + 1_000_000, 2**70):
        pages = [await ada.get(f"/keys/{key_id}")]
        pages.append(await ada.post(f"/keys/{key_id}", {**change, "name": "mine now", "models": alias}))
        for verb in ("regenerate", "disable", "enable", "end-grace", "delete"):
            pages.append(await ada.post(f"/keys/{key_id}/{verb}", renew))
        assert {page.status for page in pages} == {404}
        assert len({re.sub(r"value=\"[^\"]*\"", "", page.text).replace(str(key_id), "N") for page in pages}) == 1
    assert rig.sql("SELECT * FROM api_key WHERE id = ?", his) == before
    assert "his secret plan" not in (await ada.get("/keys?old=1")).text


async def test_the_list_says_what_each_key_spent_to_the_last_digit(rig: Rig, ada: Visitor, alias: str) -> None:
    give(rig, ada.email)
    key = holder(ada, await create(ada, alias))
    answer = await rig.chat(key, alias)
    await rig.recorded(key, 1)
    for path in ("/keys", f"/keys/{key.key_id}"):
        assert (await ada.get(path)).text.count(f">{answer.headers['x-credits-charged']}<") == 2


async def test_an_expired_key_is_listed_for_a_week(rig: Rig, ada: Visitor, alias: str) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    issued = rig.desk.keys.issue(ada.email, name="short", models=[alias], expires_at=soon)
    await asyncio.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()))
    page = await ada.get("/keys")
    assert ">Expired</span>" in page.text
    assert f'href="/keys/{issued.id}"' in page.text


# ── in a browser ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_copied_is_the_key_and_the_snippet_runs_as_shown(rig: Rig, browser: Browser, alias: str) -> None:
    person = sign_up(rig)
    give(rig, person.email)
    with window(browser, rig, person, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto("/keys/new")
        page.get_by_label("Name").fill("laptop")
        page.get_by_placeholder("Search").fill(alias)
        page.get_by_role("button", name="Select all").click()
        # The second click of two: the page that it leads to shows the key as well.
        page.get_by_role("button", name="Create the key").dblclick()
        secret = page.locator("#secret").inner_text()
        page.get_by_role("button", name="Copy the key").click()
        expect(page.get_by_role("button", name="Copy the key")).to_have_text("Copied")
        assert page.evaluate("() => navigator.clipboard.readText()") == secret
        page.get_by_role("button", name="Copy the curl snippet").click()
        command = page.evaluate("() => navigator.clipboard.readText()")
        assert secret in command
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=20)
        assert '"content":' in done.stdout
        assert accessibility_faults(page) == []
    assert rig.desk.keys.list(person.email)["models"].tolist() == [[alias]]


def test_a_long_name_makes_no_page_wider(rig: Rig, browser: Browser, alias: str) -> None:
    person = sign_up(rig)
    issued = rig.desk.keys.issue(person.email, name="x" * 200, models=[alias])
    with window(browser, rig, person) as page:
        for address in (f"/keys/{issued.id}", "/keys"):
            page.goto(address)
            for size in ({"width": 1280, "height": 800}, PHONE):
                page.set_viewport_size(size)  # type: ignore[arg-type]
                assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.locator("td bdi").evaluate("(name) => name.getBoundingClientRect().width") <= 300


def test_a_double_click_without_scripts_makes_one_key_and_shows_it(rig: Rig, browser: Browser, alias: str) -> None:
    person = sign_up(rig)
    with window(browser, rig, person, java_script_enabled=False) as page:
        page.goto("/keys/new")
        page.get_by_label("Name").fill("twice")
        page.get_by_label(alias, exact=True).check()
        page.get_by_role("button", name="Create the key").dblclick()
        assert page.locator("#secret").inner_text().startswith("sk-st-")
        page.goto("/keys")
        assert page.get_by_role("link", name="twice").count() == 1


def test_from_a_voucher_to_the_export_by_keyboard_alone(rig: Rig, browser: Browser, alias: str) -> None:
    person, clipboard = sign_up(rig), ["clipboard-read", "clipboard-write"]
    batch = rig.desk.vouchers.make("keyboard", credits="50", count=1, reason="test")
    with window(browser, rig, person, permissions=clipboard, accept_downloads=True) as page:
        page.goto("/billing")
        press_until(page, "Code", None)
        page.keyboard.type(batch.to_frame()["code"].iloc[0].lower())
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("+50 credits")
        press_until(page, "API keys", "Enter")
        page.wait_for_url("**/keys")
        press_until(page, "Create a key", "Enter")
        page.wait_for_url("**/keys/new")
        expect(page.get_by_label("Name")).to_be_focused()
        page.keyboard.type("by keyboard")
        press_until(page, "Search models", None)
        page.keyboard.type(alias)
        press_until(page, alias, "Space")
        press_until(page, "Create the key", "Enter")
        first = copied(page)

        press_until(page, "by keyboard", "Enter")
        expect(page.locator("h1")).to_contain_text("by keyboard")
        # From the end: before it are the checkboxes of all models.
        press_until(page, "Stop it now", "ArrowDown", key="Shift+Tab")
        press_until(page, "Regenerate", "Enter")
        expect(page.locator("h1")).to_have_text("The key's new secret")
        second = copied(page)
        assert second != first
        [key_id] = rig.desk.keys.list(person.email)["id"]
        for _ in range(2):
            # The old secret goes on for the hour that was chosen.
            for secret in (first, second):
                key = Customer(person.email, key_id, secret, {"Authorization": f"Bearer {secret}"})
                assert run(rig.chat(key, alias)).status == 200

        press_until(page, "Usage", "Enter")
        page.wait_for_url("**/usage")
        press_until(page, "Outcome", "f")
        page.wait_for_url("**outcome=failed**")
        expect(page.locator("#results")).to_contain_text("Nothing matches")
        # The focus stays where it was while the results change.
        page.keyboard.press("ArrowUp")
        page.wait_for_url("**outcome=served**")
        expect(page.locator("#results tbody a[href^='/usage/']")).to_have_count(4)
        press_until(page, "Export CSV", None)
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        lines = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
        assert [(line["key"], line["outcome"]) for line in lines] == [("by keyboard", "served")] * 4


def copied(page: Page) -> str:
    expect(page.locator("#secret")).to_be_visible()
    press_until(page, "Copy the key", "Enter")
    expect(page.get_by_role("button", name="Copy the key")).to_have_text("Copied")
    secret: str = page.evaluate("() => navigator.clipboard.readText()")
    assert secret == page.locator("#secret").inner_text()
    return secret


def press_until(page: Page, name: str, then: str | None, *, key: str = "Tab") -> None:
    """Go on by a key until what has the focus has this name, and press another there."""
    for _ in range(60):
        page.keyboard.press(key)
        focused = (
            "() => { const e = document.activeElement; return [e.ariaLabel, e.labels?.[0]?.innerText, e.innerText] }"
        )
        if name in [text.strip() for text in page.evaluate(focused) if text]:
            break
    else:
        raise AssertionError(f"{name} is not reached by {key}")
    if then is not None:
        page.keyboard.press(then)
