"""The documentation: all that its source demands is on it, it says what the server does, and what can be copied runs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, expect

from gateway.errors import HTTP_CODES, TABLE
from gateway.openapi_schemas import SCHEMAS
from tests.dashboard import snippets as doc
from tests.dashboard.browsers import PHONE, accessibility_faults, window
from tests.dashboard.snippets import ADDRESSES, DocPage, key_of, read_all, read_page
from tests.dashboard.visitor import Visitor
from tests.rig import ROOT, Customer, Rig

# The simulated model's answers all begin so.
SAID = "Thank you"

# Every demand of the documentation's source, with the section that meets it and words that stand there.
DEMANDS = [
    ("one API for all enabled models", "/docs", "", "many models behind one address that speaks OpenAI's chat protocol"),
    ("the order: key, requests, billing, errors, tools", "/docs", "", "a key, a call, what it costs, what can go wrong"),
    ("create a key in the dashboard", "/docs", "create-a-key", "In the dashboard, under API keys"),
    ("shown in full only when created", "/docs", "create-a-key", "the only showing of the whole key: copy it at once"),
    ("or regenerated", "/docs/keys", "regenerate", "again is shown in full that one time"),
    ("choose one or several models", "/docs", "choose-models", "one, a few, or all"),
    ("calls only its models", "/docs", "choose-models", "To every other model the key is closed"),
    ("base URL, bearer key, alias", "/docs", "first-call", "this base URL, your key as a bearer token, and a model's alias"),
    ("integrations of clients and IDEs", "/docs", "next", "In an editor or app: Cursor, Cline"),
    ("credits are the unit", "/docs/billing", "credits", "Credits are the unit"),
    ("1 USD = 100 credits", "/docs/billing", "credits", "100 credits are one US dollar"),
    ("charged by actual tokens", "/docs/billing", "charge", "the tokens that the provider counted for input and output"),
    ("failures are free", "/docs/billing", "free", "Whatever does not succeed"),
    ("prices from the catalog", "/docs/prices", "catalog", "One catalog on our side holds the prices"),
    ("operations adjust them", "/docs/prices", "catalog", "our staff changes them there"),
    ("402 before any provider", "/docs/billing", "no-balance", "402 insufficient_credits . The check stands before the call"),
    ("POST chat completions", "/docs/chat-completions", "", "takes and gives what OpenAI's Chat Completions do"),
    ("GET models", "/docs/models", "", "what your key can call right now"),
    ("model is required", "/docs/chat-completions", "fields", "model Must be there. An alias that your key may call"),
    ("messages are required", "/docs/chat-completions", "fields", "messages Must be there. The conversation"),
    ("max_tokens", "/docs/chat-completions", "fields", "max_tokens The longest answer that you want"),
    ("stream", "/docs/chat-completions", "fields", "stream true sends the answer piece by piece"),
    ("unscoped, unpublished, unavailable are left out", "/docs/models", "hidden", "Models beyond the key's scope, models"),
    ("limits by key, account and route", "/docs/limits", "", "of your key, of your account as a whole, and of the route"),
    ("429 and exponential backoff", "/docs/limits", "backoff", "gets 429 , costs nothing"),
    ("back off exponentially", "/docs/limits", "backoff", "double the pause"),
    ("401", "/docs/errors", "by-name", "401 The key is missing, mistyped, unknown, past its day, disabled"),
    ("402", "/docs/errors", "by-name", "402 There are too few credits for what this request could cost. Top up , then go on"),
    ("403", "/docs/errors", "by-name", "403 The model is not in this key's scope , or is withdrawn"),
    ("429", "/docs/errors", "by-name", "429 A limit is used up. Slow down and try again later"),
    ("502", "/docs/errors", "by-name", "502 The model's provider cannot be reached, and so it went with every other one"),
    ("502 is free", "/docs/errors", "by-name", "You do not pay for that"),
    ("three changes to an SDK project", "/docs/sdks", "", "its key, its base URL, and the name of the model"),
    ("Cursor", "/docs/cursor", "set-up", "Turn on Override OpenAI Base URL"),
    ("Cursor's key", "/docs/cursor", "set-up", "paste a key that you made in the dashboard"),
    ("Cline", "/docs/cline", "set-up", "choose OpenAI Compatible"),
    ("Roo Code", "/docs/roo-code", "set-up", "choose OpenAI Compatible"),
    ("Dify's mode", "/docs/dify", "set-up", "as Completion mode choose Chat"),
    ("n8n's switch", "/docs/n8n", "set-up", "turn Use Responses API off"),
    ("LibreChat's switch", "/docs/librechat", "set-up", "Leave Use Responses API"),
    ("Open WebUI's switch", "/docs/open-webui", "set-up", "API type at chat completions"),
    ("Continue's switch", "/docs/continue", "", "useResponsesApi: false"),
    ("what Codex wants", "/docs/codex-and-claude-code", "codex", "speaks only the Responses API"),
    ("what Claude Code wants", "/docs/codex-and-claude-code", "claude-code", "speaks only the Messages API"),
]  # fmt: skip

# What each block that runs here must print. Those that need more than curl and the OpenAI library are run by the drills.
PRINTS = {
    "first-call-with-curl": r'"object": ?"chat.completion".*' + SAID,
    "stream-with-curl": r'"cost_credits": ?"[\d.]+".*data: \[DONE\]',
    "list-models-with-curl": r'"object":"list".*"{alias}"',
    "show-one-model-with-curl": r'^{{"id":"{alias}"',
    "environment": r'"{alias}"',
    "ask-from-python": SAID,
    "stream-from-python": SAID + r".*\d+ tokens, [\d.]+ credits",
    "read-the-charge-in-python": r"[0-9a-f-]{{36}} [\d.]+\s+" + SAID,
    "back-off": SAID,
}
# Where base URL, key and alias stand in each file to be saved.
CONFIGS: dict[str, Any] = {
    "continue-config": lambda d: [d["models"][0][name] for name in ("apiBase", "apiKey", "model")],
    "aider-config": lambda d: [d["openai-api-base"], d["openai-api-key"], d["model"].removeprefix("openai/")],
    "open-webui-compose": lambda d: [
        *(d["services"]["open-webui"]["environment"][f"OPENAI_API_{name}"] for name in ("BASE_URL", "KEY")),
        None,
    ],
    "librechat-config": lambda d: [
        d["endpoints"]["custom"][0][name] if name != "models" else d["endpoints"]["custom"][0][name]["default"][0]
        for name in ("baseURL", "apiKey", "models")
    ],
    "llm-config": lambda d: [d[0]["api_base"], None, d[0]["model_name"]],
    "opencode-config": lambda d: [
        *(d["provider"]["gateway"]["options"][name] for name in ("baseURL", "apiKey")),
        d["model"].removeprefix("gateway/"),
    ],
}
# What the drills run, by what it needs.
DRILLED = {
    ("node", "openai"), ("node", "ai"), ("python", "langchain-openai"), ("python", "llama-index-llms-openai-like"),
    ("python", "litellm"), ("bash", "llm"), ("bash", "aider"), ("bash", "cline"), ("bash", "cn"), ("bash", "opencode"),
    ("bash", "qwen"),
}  # fmt: skip


@pytest.fixture
async def pages(stranger: Visitor) -> dict[str, DocPage]:
    """The whole documentation as somebody reads it who is signed out."""
    return await read_all(stranger)


@pytest.fixture
async def reader(rig: Rig, ada: Visitor) -> tuple[Visitor, Customer, str]:
    """Somebody who is signed in, their key and its one alias."""
    return ada, *key_of(rig, ada.email)


# ── what it says ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_demand_of_the_source_is_met_where_one_would_look(pages: dict[str, DocPage]) -> None:
    unmet = [
        demand
        for demand, address, section, words in DEMANDS
        if _plain(words) not in _plain(pages[address].sections.get(section, "") if section else pages[address].text)
    ]
    assert not unmet


async def test_every_error_that_a_client_can_meet_is_explained(pages: dict[str, DocPage]) -> None:
    errors = pages["/docs/errors"]
    codes = {row.code for row in TABLE.values()} | {code for _, code in HTTP_CODES.values()}
    # Finer codes stand where they are raised.
    for file in (*ROOT.glob("gateway/*.py"), *ROOT.glob("models/*.py")):
        codes |= set(re.findall(r'code="(\w+)"', file.read_text()))
    assert {"insufficient_credits", "invalid_json", "responses_body"} <= codes
    assert not {code for code in codes if f"<code>{code}</code>" not in errors.html}
    for status, is_retried in {401: False, 402: False, 403: False, 429: True, 500: False, 502: True, 503: True}.items():
        row = errors.html.split(f'id="status-{status}"')[1].split("</tr>")[0]
        assert ("SDKs retry" in row) == is_retried


async def test_the_fields_and_headers_of_the_api_are_all_named(pages: dict[str, DocPage]) -> None:
    chat, limits = pages["/docs/chat-completions"].html, pages["/docs/limits"].html
    assert not {name for name in SCHEMAS["ChatCompletionRequest"]["properties"] if f"<code>{name}</code>" not in chat}
    for name in ("models", "provider", "fallbacks", "web_search_options", "audio"):
        assert f"<code>{name}</code>" in chat
    for unit in ("requests", "tokens"):
        assert f"<code>x-ratelimit-remaining-{unit}</code>" in limits


async def test_the_numbers_are_those_of_the_running_server(rig: Rig, stranger: Visitor) -> None:
    billing = read_page("/docs/billing", (await stranger.get("/docs/billing")).text)
    seconds = rig.environment["GATEWAY_DRAIN_S"]
    assert f"for at most {seconds} seconds" in billing.sections["stopped"]
    rig.desk.limits.set(default="key", unit="tokens", quota=123_456_789, window_s=60)
    try:
        rig.settle_feed()
        limits = read_page("/docs/limits", (await stranger.get("/docs/limits")).text)
        assert "for one key: 123,456,789 tokens a minute" in limits.sections["defaults"]
    finally:
        rig.desk.limits.set(default="key", unit="tokens", quota=None)
        rig.settle_feed()
    limits = read_page("/docs/limits", (await stranger.get("/docs/limits")).text)
    assert "no limit that holds for every key" in limits.sections["defaults"]


async def test_the_worked_example_costs_what_the_server_charges(
    rig: Rig, reader: tuple[Visitor, Customer, str]
) -> None:
    visitor, customer, _ = reader
    alias = rig.alias("sim:prompt=1000,completion=200")
    key = rig.desk.keys.issue(customer.email, name="example", models=[alias])
    rig.desk.keys.revoke(customer.key_id)
    page = read_page("/docs/prices", (await visitor.get("/docs/prices")).text)
    answer = await rig.chat(
        Customer(customer.email, key.id, key.secret, {"Authorization": f"Bearer {key.secret}"}), alias
    )
    assert f"Today {alias} costs" in page.sections["meters"]
    assert f"{answer.headers['x-credits-charged']} credits" in page.sections["meters"]


# ── who reads it ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_reader_sees_their_own_address_and_model_and_never_a_key(
    rig: Rig, reader: tuple[Visitor, Customer, str], ben: Visitor
) -> None:
    visitor, customer, alias = reader
    pages = await read_all(visitor)
    for page in pages.values():
        assert customer.key not in page.html
    assert pages["/docs"].settings == {"Base URL": f"{rig.url}/v1", "API key": "YOUR_API_KEY", "Model": alias}
    # Somebody else, who has no key, is shown what is offered to everybody.
    offered = {alias for (alias,) in rig.sql("SELECT alias FROM model WHERE published")}
    assert read_page("/docs", (await ben.get("/docs")).text).settings["Model"] in offered
    rig.desk.keys.disable(customer.key_id)
    other = rig.alias("sim:words=1")
    rig.desk.keys.issue(customer.email, name="other", models=[other])
    assert read_page("/docs", (await visitor.get("/docs")).text).settings["Model"] == other


async def test_behind_a_proxy_the_address_is_the_one_that_the_browser_shows(stranger: Visitor) -> None:
    answer = await stranger.get("/docs", headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "api.example.test"})
    assert read_page("/docs", answer.text).settings["Base URL"] == "https://api.example.test/v1"


async def test_there_is_no_page_of_another_name(stranger: Visitor) -> None:
    page = await stranger.get("/docs/nothing")
    assert (page.status, "There is no such page" in page.text) == (404, True)
    assert (await stranger.get("/docs/api")).status == 200


async def test_every_link_and_anchor_of_the_documentation_leads_somewhere(ada: Visitor, stranger: Visitor) -> None:
    mine, pages = await read_all(ada), await read_all(stranger)
    elsewhere: set[str] = set()
    for page in (*mine.values(), *pages.values()):
        assert len(page.anchors) == len(set(page.anchors)), page.path
        for link in page.links:
            address, _, anchor = link.partition("#")
            target = pages.get(address or page.path)
            if target is None:
                elsewhere.add(address)
            else:
                assert not anchor or anchor in target.anchors, f"{page.path}: {link}"
    answers = await asyncio.gather(*map(ada.get, sorted(elsewhere)))
    assert {answer.status for answer in answers} == {200}
    assert {"/keys", "/models", "/usage", "/billing", "/account", "/docs/api", "/signup"} <= elsewhere
    neighbours = [re.findall(r'rel="(prev|next)" href="([^"]+)"', page.html) for page in pages.values()]
    assert [dict(pair).get("next") for pair in neighbours] == [*ADDRESSES[1:], None]
    assert [dict(pair).get("prev") for pair in neighbours] == [None, *ADDRESSES[:-1]]


# ── what can be copied ────────────────────────────────────────────────────────────────────────────────────────────


async def test_whatever_can_be_copied_is_run_or_read_by_a_test_and_has_its_button(pages: dict[str, DocPage]) -> None:
    found = [snippet for page in pages.values() for snippet in page.snippets]
    for page in pages.values():
        assert page.html.count("<pre") == page.html.count('<pre class="sample"') + len(page.snippets)
        assert {snippet.id for snippet in page.snippets} <= page.copied
    drilled = {(snippet.kind, snippet.needs) for snippet in found} & DRILLED
    assert drilled == DRILLED
    here = {snippet.id for snippet in found if (snippet.kind, snippet.needs) not in DRILLED}
    assert here == set(PRINTS) | set(CONFIGS)


async def test_the_blocks_run_as_they_stand(rig: Rig, reader: tuple[Visitor, Customer, str], tmp_path: Path) -> None:
    visitor, customer, alias = reader
    found = {snippet.id: snippet for page in (await read_all(visitor)).values() for snippet in page.snippets}
    programs = {"bash": doc.bash(), "python": doc.python()}

    async def try_out(id_: str, prints: str) -> None:
        snippet = found[id_]
        printed = await doc.run(snippet.with_key(customer.key), *programs[snippet.kind], folder=tmp_path)
        assert re.search(prints.format(alias=re.escape(alias)), printed, re.DOTALL), f"{id_}: {printed}"

    await asyncio.gather(*(try_out(id_, prints) for id_, prints in PRINTS.items()), _back_off(rig, reader, tmp_path))


async def _back_off(rig: Rig, reader: tuple[Visitor, Customer, str], folder: Path) -> None:
    """With one request in two seconds, the second of two is refused, waits as the page says, and gets through."""
    visitor, customer, alias = reader
    limited = rig.desk.keys.issue(customer.email, name="limited", models=[alias])
    rig.desk.limits.set(key=limited.id, unit="requests", quota=1, window_s=2)
    rig.settle_feed()
    page = read_page("/docs/limits", (await visitor.get("/docs/limits")).text)
    (block,) = [snippet for snippet in page.snippets if snippet.id == "back-off"]
    again = 'began = time.monotonic()\nprint(ask("And what is it for?"))\nprint(time.monotonic() - began)\n'
    printed = await doc.run(block.with_key(limited.secret) + again, *doc.python(), folder=folder)
    assert printed.count(SAID) == 2
    assert float(printed.split()[-1]) >= 1


async def test_the_files_to_be_saved_hold_the_readers_address_and_model(
    rig: Rig, reader: tuple[Visitor, Customer, str]
) -> None:
    visitor, _, alias = reader
    pages = await read_all(visitor)
    found = {snippet.id: snippet for page in pages.values() for snippet in page.snippets}
    for id_, read in CONFIGS.items():
        # JSON is read as the YAML that it is.
        assert (found[id_].kind in ("yaml", "json"), bool(found[id_].file)) == (True, True)
        given = read(yaml.safe_load(found[id_].text))
        wanted = [f"{rig.url}/v1", "YOUR_API_KEY", alias]
        assert [ours for ours, theirs in zip(wanted, given, strict=True) if theirs not in (ours, None)] == [], id_
    for page in pages.values():
        for value in page.settings.values():
            assert value in (f"{rig.url}/v1", "YOUR_API_KEY", alias)


# ── how it looks ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.drill
def test_pages_are_accessible_light_and_dark_wide_and_narrow(rig: Rig, browser: Browser) -> None:
    """One of each make; the drills look at all of them."""
    for options in ({"color_scheme": "light"}, {"color_scheme": "dark", "viewport": PHONE}):
        with window(browser, rig, **options) as page:
            for address in ("/docs", "/docs/chat-completions", "/docs/errors", "/docs/apps"):
                page.goto(address)
                assert accessibility_faults(page) == [], address
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address


def test_the_index_folds_on_a_phone_and_needs_no_script(rig: Rig, browser: Browser) -> None:
    with window(browser, rig, viewport=PHONE, java_script_enabled=False) as page:
        page.goto("/docs")
        link = page.locator("details.index a", has_text="Errors")
        assert not link.is_visible()
        page.locator("details.index summary").click()
        link.click()
        assert page.inner_text("h1") == "Errors"
        # Without scripts nothing copies, so nothing offers to.
        assert page.locator("[data-copy]:visible").count() == 0


def test_the_page_of_the_api_leads_back_and_is_as_dark_as_is_preferred_or_chosen(rig: Rig, browser: Browser) -> None:
    inks = "['.opblock-tag', '.header-col'].map((name) => getComputedStyle(document.querySelector(name)).color)"
    for preferred, chosen, is_dark in (("light", "", False), ("dark", "", True), ("dark", "light", False)):
        with window(browser, rig, color_scheme=preferred, viewport=PHONE) as page:
            if chosen:
                page.context.add_cookies([{"name": "theme", "value": chosen, "url": rig.url}])
            page.goto("/docs/api")
            page.wait_for_selector(".opblock-tag")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.locator(".opblock-summary-control").first.click()
            page.wait_for_selector(".header-col")
            paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            assert (paper == "rgb(28, 32, 34)") == is_dark, (preferred, chosen)
            assert [_lightness(ink) > 128 for ink in page.evaluate(inks)] == [is_dark] * 2, (preferred, chosen)
            page.get_by_role("banner").get_by_role("link", name="Docs").click()
            page.wait_for_url("**/docs")
            page.goto("/docs/api")
            page.get_by_role("link", name="Dashboard").click()
            expect(page.locator("h1")).to_have_text("Sign in")


def _lightness(colour: str) -> float:
    """Of `rgb(…)`, from 0 to 255."""
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_a_page_is_light_and_its_button_copies_the_block(rig: Rig, browser: Browser) -> None:
    with window(browser, rig, permissions=["clipboard-read", "clipboard-write"]) as page:
        sizes: list[int] = []
        page.on("response", lambda response: sizes.append(len(response.body())))
        page.goto("/docs/sdks", wait_until="networkidle")
        assert 0 < sum(sizes) <= 250 * 1024
        page.click("[data-copy=ask-from-python]")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == page.inner_text("#ask-from-python")
        assert "base_url=" in copied


def _plain(text: str) -> str:
    """Without the spaces that markup puts before a comma."""
    return re.sub(r"\s+([.,;:])", r"\1", " ".join(text.split()))
