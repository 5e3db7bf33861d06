"""The page of models: what can be called, at the very prices that are charged, and what changes when."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from playwright.sync_api import Browser, expect

from models.prices import credits_text
from tests.dashboard.browsers import PHONE, sign_up, window
from tests.dashboard.visitor import Visitor
from tests.rig import Price, Rig

EXACT = "sim:words=1"
# The column of the estimate.
ESTIMATE = 5


def rows_of(text: str, alias: str) -> list[list[str]]:
    """The rows of an alias's prices as people read them, cell by cell."""
    [body] = [part for part in re.findall(r"<tbody>(.*?)</tbody>", text, re.S) if f">{alias}</code>" in part]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in rows]
    return [
        [" ".join(re.sub(r"<button.*?</button>|<[^>]+>", " ", cell, flags=re.S).split()) for cell in r] for r in cells
    ]


async def test_prices_are_shown_in_dollars_and_in_credits(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias(EXACT, price=Price("0.27", "1.10", cached="0.07", written="0.3375"))
    [row] = rows_of((await ada.get("/models")).text, alias)
    assert row == [
        alias, "$0.27 27", "$0.07 7", "$0.3375 33.75", "$1.10 110",
        # 1,000 requests of 1,000 tokens in and 300 out
        "60 $0.60", "64,000", "8,192",
    ]  # fmt: skip


async def test_the_estimate_is_what_such_requests_are_charged(rig: Rig, ada: Visitor) -> None:
    price = Price("0.27", "1.10")
    alias = rig.alias(EXACT, price=price)
    page = await ada.get(f"/models?q={alias}&requests=7&input=1,234&output=56")
    assert rows_of(page.text, alias)[0][ESTIMATE].startswith(credits_text(7 * price.charge_nano(1_234, 56)) + " ")
    page = await ada.get(f"/models?q={alias}&output=8193")
    assert rows_of(page.text, alias)[0][ESTIMATE] == "does not fit"
    page = await ada.get(f"/models?q={alias}&input=-1")
    assert (page.status, 'value="-1"' in page.text) == (422, True)


async def test_tiers_time_windows_and_what_is_announced_have_a_row_each(rig: Rig, ada: Visitor) -> None:
    alias = rig.alias(EXACT, price=None, settled=False)
    now = datetime.now(UTC)
    start, end = (now - timedelta(hours=1)), (now + timedelta(hours=2))
    day = (now + timedelta(days=40)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    rig.desk.catalog.propose_price(
        alias, input_usd="1", output_usd="2", tiers=[{"above_tokens": 32_000, "input_usd": "3", "output_usd": "4"}],
        windows=[{"start": f"{start:%H:%M}", "end": f"{end:%H:%M}", "input_usd": "0.5", "output_usd": "1"}],
    ).publish(reason="test")  # fmt: skip
    rig.desk.catalog.propose_price(alias, input_usd="2.5", output_usd="2", effective_from=day).publish(
        reason="test", accept_warnings=True
    )
    rig.settle_feed()
    rows = rows_of((await ada.get(f"/models?q={alias}")).text, alias)
    assert [row[0] for row in rows] == [
        alias,
        "Above 32,000 input tokens",
        f"now {start:%H:%M}–{end:%H:%M} UTC",
        f"announced From {day.day} {day:%B %Y}",
    ]
    # Estimated by the window that is open now: 1,000 × (1,000 × 0.5 + 300 × 1) USD per million.
    assert rows[0][ESTIMATE] == "80 $0.80"
    assert [row[1] for row in rows[1:]] == ["$3.00 300", "$0.50 50", "$2.50 250"]


async def test_only_what_can_be_called_is_listed_and_nobody_learns_who_provides_it(rig: Rig, ada: Visitor) -> None:
    shown = rig.alias("sim:words=1,tag=upstream-name", settled=False)
    hidden = [
        rig.alias(EXACT, published=False, settled=False),
        rig.alias(EXACT, price=None, settled=False),
        rig.alias(settled=False),
    ]
    rig.settle_feed()
    text = (await ada.get("/models")).text
    assert f">{shown}</code>" in text
    assert not [alias for alias in hidden if f">{alias}<" in text]
    assert "upstream-name" not in text
    assert rig.provider.base_url not in text


async def test_a_search_is_text(ada: Visitor) -> None:
    page = await ada.get("/models?q=<script>alert(1)</script>")
    assert "<script>alert" not in page.text
    assert "No model matches" in page.text


def test_the_list_is_searched_while_one_types(rig: Rig, browser: Browser) -> None:
    alias, other = rig.alias(EXACT), rig.alias(EXACT)
    with window(browser, rig, sign_up(rig), permissions=["clipboard-read"]) as page:
        page.goto("/models")
        expect(page.get_by_text(other, exact=True)).to_be_visible()
        page.get_by_label("Search", exact=True).press_sequentially(alias)
        expect(page.get_by_text(other, exact=True)).to_have_count(0)
        page.get_by_role("button", name=f"Copy {alias}", exact=True).click()
        assert page.evaluate("() => navigator.clipboard.readText()") == alias


def test_on_a_phone_every_price_and_the_estimate_are_seen_with_their_names(rig: Rig, browser: Browser) -> None:
    alias = rig.alias(EXACT, price=Price("0.27", "1.10", cached="0.07", written="0.3375"))
    with window(browser, rig, sign_up(rig), viewport=PHONE) as page:
        page.goto(f"/models?q={alias}")
        box = page.get_by_role("region", name="Models and prices")
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth")
        seen = box.locator("td").evaluate_all(
            "cells => cells.map((cell) => [getComputedStyle(cell, '::before').content, cell.innerText])"
        )
        assert [(name.strip('"'), text.split()[0]) for name, text in seen] == [
            ("Input", "$0.27"), ("Cached input", "$0.07"), ("Cache write", "$0.3375"), ("Output", "$1.10"),
            ("1,000 requests of 1,000 in, 300 out", "60"), ("Context", "64,000"), ("Most output", "8,192"),
        ]  # fmt: skip
