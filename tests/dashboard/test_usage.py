"""The overview and the usage explorer: what was called and charged, to the last digit of the ledger."""

from __future__ import annotations

import asyncio
import csv
import html
import io
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import aiohttp
import pytest
from playwright.sync_api import Browser, expect

from models.prices import credits_text
from tests.dashboard.browsers import PHONE, run, sign_up, window
from tests.dashboard.visitor import Visitor
from tests.rig import Customer, Rig

EXACT = "sim:words=3"


def customer(rig: Rig, email: str, *models: str, name: str = "laptop", credits: str = "100") -> Customer:
    """A key and credits for an account that has just signed up."""
    rig.desk.credits.grant(email, credits=credits, reason="test", grant_key=f"grant-{email}-{name}")
    issued = rig.desk.keys.issue(email, name=name, models=list(models))
    return Customer(email, issued.id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


async def test_a_charge_stands_on_the_overview_to_the_last_digit(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias(EXACT)
    key = customer(rig, ada.email, alias)
    answer = await rig.chat(key, alias)
    page = await ada.get("/")
    charged = answer.headers["x-credits-charged"]
    assert page.text.count(f">{charged}<") >= 3  # today, this month, the call itself
    assert credits_text(rig.balance_nano(key)) in page.text
    assert answer.headers["x-request-id"] in page.text


async def test_a_new_account_is_led_to_its_first_call_step_by_step(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias(EXACT)
    for done in (0, 2):
        page = await ada.get("/")
        assert page.text.count('<li class="done">') == done
        assert all(f'href="{address}"' in page.text for address in ("/billing", "/keys/new", "/playground"))
        # Who never had credits is not warned of having none left.
        assert "There are no credits left" not in page.text
        key = customer(rig, ada.email, alias)
    await rig.chat(key, alias)
    page = await ada.get("/")
    assert "Last calls" in page.text
    assert 'class="steps"' not in page.text
    assert "1 request<" in page.text


async def test_an_account_that_has_spent_all_is_told_so(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias(EXACT)
    key = customer(rig, ada.email, alias)
    await rig.chat(key, alias)
    await rig.settled(key)
    left = credits_text(rig.balance_nano(key))
    rig.desk.credits.take_back(ada.email, credits=left, reason="test", grant_key=f"all-{ada.email}", kind="correction")
    assert "There are no credits left" in (await ada.get("/")).text


async def test_large_amounts_are_read_in_thousands(rig: Rig, ada: Visitor) -> None:
    customer(rig, ada.email, rig.alias(EXACT), credits="1234567.000000001")
    for address in ("/", "/billing"):
        assert ">1,234,567.000000001<" in (await ada.get(address)).text
    assert "$12,345.67000000001" in (await ada.get("/billing")).text


async def test_a_failed_call_is_listed_and_free(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias("sim:status=500,tag=listed")
    key = customer(rig, ada.email, alias)
    assert (await rig.chat(key, alias)).status == 502
    await rig.recorded(key, 1)
    page = await ada.get("/usage?outcome=failed")
    assert "Failed" in page.text
    [line] = lines_of((await ada.get("/usage.csv?outcome=failed")).text)
    assert (line["outcome"], line["credits"]) == ("failed", "0")


@pytest.mark.parametrize("fault", ["status=500", "body=html"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_receipt_and_the_export_say_when_no_answer_came(
    rig: Rig, ada: Visitor, fault: str, stream: bool
) -> None:
    alias = rig.alias(f"sim:{fault},tag=unanswered")
    key = customer(rig, ada.email, alias)
    request_id = (await rig.chat(key, alias, stream=stream)).headers["x-request-id"]
    await rig.recorded(key, 1)
    page = await ada.get(f"/usage/{request_id}")
    assert re.search(r"<dd>no answer came; the request ended after [\d.]+ m?s</dd>", page.text)
    assert "first byte" not in page.text
    assert "Token counts" not in page.text
    [line] = lines_of((await ada.get("/usage.csv")).text)
    assert (line["first_byte_ms"], line["total_ms"].isdecimal()) == ("", True)


async def test_the_receipt_of_an_answer_that_broke_off_says_so(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias("sim:words=5,cut=2")
    key = customer(rig, ada.email, alias)
    request_id = (await rig.chat(key, alias, stream=True)).headers["x-request-id"]
    await rig.recorded(key, 1)
    page = await ada.get(f"/usage/{request_id}")
    assert re.search(r"streamed; its first byte after [\d.]+ m?s, broken off after [\d.]+ m?s</dd>", page.text)
    assert "Token counts" not in page.text
    [line] = lines_of((await ada.get("/usage.csv")).text)
    assert int(line["first_byte_ms"]) > 0


async def test_the_receipt_multiplies_tokens_by_the_price(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias(EXACT)
    answer = await rig.chat(customer(rig, ada.email, alias), alias)
    page = await ada.get(f"/usage/{answer.headers['x-request-id']}")
    cells = re.findall(r'<td class="number(?: amount)?">(?:<strong>)?([^<]+)', page.text)
    lines = [[Decimal(cell.replace(",", "")) for cell in cells[i : i + 3]] for i in range(0, 12, 3)]
    assert sum(tokens * per_million for tokens, per_million, _ in lines) == sum(c for _, _, c in lines) * 1_000_000
    assert sum(credits for _, _, credits in lines) == Decimal(cells[-1]) == Decimal(answer.headers["x-credits-charged"])


async def test_the_export_is_what_is_filtered_and_adds_up_to_the_balance(rig: Rig, ada: Visitor) -> None:
    one, two = rig.alias(EXACT), rig.alias("sim:words=5")
    laptop = customer(rig, ada.email, one, two)
    server = customer(rig, ada.email, one, name="=1+1", credits="1")
    await asyncio.gather(*[rig.chat(laptop, alias) for alias in (one, two, one)], rig.chat(server, one))
    await rig.settled(laptop, records=4)
    everything = lines_of((await ada.get("/usage.csv")).text)
    spent_nano = 101 * 10**9 - rig.balance_nano(laptop)
    assert sum(Decimal(line["credits"]) for line in everything) == Decimal(credits_text(spent_nano))
    assert sorted(line["key"] for line in everything) == ["'=1+1", "laptop", "laptop", "laptop"]
    assert [line["request_id"] for line in everything] == sorted((x["request_id"] for x in everything), reverse=True)
    only_two = lines_of((await ada.get(f"/usage.csv?model={two}&key={laptop.key_id}")).text)
    assert [line["model"] for line in only_two] == [two]
    assert lines_of((await ada.get("/usage.csv?until=2020-01-31")).text) == []


async def test_the_usual_spans_of_days_are_one_click_and_keep_the_filter(ada: Visitor) -> None:
    page = await ada.get("/usage?outcome=failed&since=2026-01-01&until=2026-01-02")
    today = datetime.now(UTC).date()
    for name, first in {
        "Today": today,
        "7 days": today - timedelta(days=6),
        "This month": today.replace(day=1),
    }.items():
        link = re.search(rf'href="([^"]+)">{name}</a>', page.text)
        assert link is not None
        shown = await ada.get(html.unescape(link[1]))
        assert f'name="since" type="date" value="{first}"' in shown.text
        assert f'name="until" type="date" value="{today}"' in shown.text
        assert '<option value="failed" selected>' in shown.text


async def test_pages_follow_each_other_without_gap_or_repeat(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias(EXACT)
    key = customer(rig, ada.email, alias)
    for _ in range(3):
        await asyncio.gather(*[rig.chat(key, alias) for _ in range(20)])
    await rig.settled(key, records=60)
    seen: list[str] = []
    path = "/usage"
    while path:
        text = (await ada.get(path)).text
        seen += re.findall(r'href="/usage/([0-9a-f-]{36})"', text)
        older = re.search(r'href="([^"]+)" rel="next"', text)
        path = older[1].replace("&amp;", "&") if older else ""
    assert len(seen) == len(set(seen)) == 60
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("since=yesterday", "&#39;yesterday&#39; is not a day"),
        ("since=2026-11-20&until=2026-11-01", "The first day is after the last one"),
        ("since=2026-11-20&until=tomorrow", "&#39;tomorrow&#39; is not a day"),
        ("until=tomorrow&since=yesterday", "&#39;yesterday&#39; is not a day"),
        ("outcome=lost", "outcome"),
        ("key=mine", "Choose a key from the list"),
        (f"key={'9' * 5_000}", "Choose a key from the list"),
        ("before=nonsense", "before"),
    ],
)
async def test_a_wrong_filter_is_named_and_kept(ada: Visitor, query: str, said: str) -> None:
    page = await ada.get(f"/usage?{query}")
    assert page.status == 422
    assert said in page.text
    name, _, value = query.partition("&")[0].partition("=")
    if name == "since":
        assert f'value="{value}"' in page.text


@pytest.mark.parametrize("query", ["outcome=lost", "since=yesterday", f"key={'9' * 5_000}", f"model={'x' * 300}"])
async def test_an_export_by_a_wrong_filter_is_an_error_and_not_an_empty_file(ada: Visitor, query: str) -> None:
    page = await ada.get(f"/usage.csv?{query}")
    assert (page.status, "content-disposition" in page.headers) == (400, False)


@pytest.mark.only("sqlite")
async def test_an_export_that_cannot_be_finished_is_not_taken_for_whole(rig: Rig, ada: Visitor) -> None:
    """Whoever adds up a file that ends too early adds up too little: so the connection breaks off."""
    alias = rig.alias(EXACT)
    key = customer(rig, ada.email, alias)
    await rig.chat(key, alias)
    await rig.settled(key, records=1)
    columns = (
        "account_id, key_id, model_id, route_id, price_id, outcome, streamed, estimated, fresh_tokens, cached_tokens,"
        " cache_write_tokens, output_tokens, first_byte_ms, total_ms, cost_nano, attempts, writeoff_nano, at_us"
    )
    # More than a page of the export, and in the oldest record something that cannot be read.
    copies = (
        "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1499)"
        f" INSERT INTO usage (request_id, charge_nano, {columns}) SELECT SUBSTR(request_id, 1, 14)"
        f" || PRINTF('7000-8000-%012x', i), CASE i WHEN 0 THEN 'x' ELSE 0 END, {columns} FROM usage, n WHERE key_id = ?"
    )
    rig.sql(copies, key.key_id)
    try:
        with pytest.raises(aiohttp.ClientError):
            await ada.get("/usage.csv")
    finally:
        rig.sql("DELETE FROM usage WHERE key_id = ? AND request_id LIKE '%-7000-8000-00000000%'", key.key_id)
    assert len(lines_of((await ada.get("/usage.csv")).text)) == 1


async def test_a_chart_of_centuries_is_as_short_as_what_was_used(rig: Rig, ada: Visitor) -> None:
    """Drawing each day of them would keep everybody else of this process waiting."""
    alias = rig.alias(EXACT)
    key = customer(rig, ada.email, alias)
    await rig.chat(key, alias)
    page = await ada.get("/usage?since=1970-01-01&until=2199-12-31")
    assert (page.status, len(page.text) < 50_000) == (200, True)
    chart = json.loads(html.unescape(re.search(r'data-chart="([^"]+)"', page.text)[1]))  # type: ignore[index]
    assert (len(chart["x"]), chart["totals"]) == (1, [credits_text(100 * 10**9 - rig.balance_nano(key))])


async def test_nobody_reads_another_accounts_usage(rig: Rig, ada: Visitor, ben: Visitor) -> None:
    alias = rig.alias(EXACT)
    key = customer(rig, ada.email, alias)
    request_id = (await rig.chat(key, alias)).headers["x-request-id"]
    theirs, nothing = await ben.get(f"/usage/{request_id}"), await ben.get(f"/usage/{'0' * 8}{request_id[8:]}")
    assert theirs.status == nothing.status == 404
    assert request_id not in (await ben.get(f"/usage?key={key.key_id}")).text
    assert lines_of((await ben.get(f"/usage.csv?key={key.key_id}")).text) == []
    assert (await ada.get(f"/usage/{request_id}")).status == 200


# ── in a browser ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.drill
def test_a_charge_appears_by_itself_within_five_seconds(rig: Rig, browser: Browser) -> None:
    alias = rig.alias(EXACT)
    person = sign_up(rig)
    key = customer(rig, person.email, alias)
    with window(browser, rig, person) as page:
        page.goto("/")
        answer = run(rig.chat(key, alias))
        page.wait_for_selector(f"#calls a[href='/usage/{answer.headers['x-request-id']}']", timeout=5_000)
        assert answer.headers["x-credits-charged"] in page.inner_text("#live")
        # The next call is in the chart and its numbers as well as in the figures.
        run(rig.chat(key, alias))
        page.get_by_text("Show the numbers").click()
        twice = str(2 * Decimal(answer.headers["x-credits-charged"]))
        expect(page.locator("#spend-numbers")).to_contain_text(twice, timeout=5_000)
        expect(page.locator("#spend canvas")).to_have_count(1)


def test_on_a_phone_paging_stays_with_the_requests_and_a_receipt_fits(rig: Rig, browser: Browser) -> None:
    alias = rig.alias(EXACT)
    person = sign_up(rig)
    key = customer(rig, person.email, alias, name="x" * 150)
    for _ in range(51):
        run(rig.chat(key, alias))
    with window(browser, rig, person, viewport=PHONE) as page:
        page.goto("/usage")
        page.get_by_role("link", name="Older").click()
        expect(page.locator("#results tbody a[href^='/usage/']")).to_have_count(1)
        expect(page.locator("h2#requests")).to_be_in_viewport()
        page.locator("#results tbody a[href^='/usage/']").click()
        expect(page.locator("h1")).to_have_text("Receipt")
        assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0


def test_filtering_changes_the_results_without_a_new_page(rig: Rig, browser: Browser) -> None:
    one, two = rig.alias(EXACT), rig.alias("sim:words=5")
    person = sign_up(rig)
    key = customer(rig, person.email, one, two)
    for alias in (one, two):
        run(rig.chat(key, alias))
    with window(browser, rig, person) as page:
        page.goto("/usage")
        page.evaluate("window.stays = true")
        page.select_option("#field-model", two)
        page.wait_for_url(f"**/usage?*model={two}*")
        expect(page.locator("#results tbody a")).to_have_count(1)
        assert page.evaluate("window.stays")
        assert page.locator("#by-day canvas").count() == 1
