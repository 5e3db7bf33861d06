"""What past usage would have cost: under the same price what was billed, under another the difference, by model and account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import ops
from models.database import open_database, parse_url
from models.ids import DAY_US, now_us, to_datetime
from models.prices import NANO_PER_CREDIT, Meters
from tests.models.shop import Shop, open_shop, sqlite_only
from tests.ops.test_proposals import SAME

MILLION = Meters(fresh=10**6)
CHARGE = 27_000 * 10**6


def live(address: str, story: Callable[[Shop], Awaitable[Any]]) -> None:
    """What happened in the shop meanwhile."""

    async def run() -> None:
        async with open_database(parse_url(address)) as database:
            await story(await open_shop(database))

    asyncio.run(run())


async def a_month(shop: Shop) -> None:
    """Three requests of the last days; one of long ago, one estimated, and one of which 19 credits are written off."""
    now = now_us()
    await shop.serve(Meters(), outcome="failed", at_us=now - DAY_US)
    for days in (3, 2, 1, 90):
        await shop.serve(MILLION, at_us=now - days * DAY_US)
    await shop.serve(MILLION, estimated=True, at_us=now - DAY_US)
    await shop.serve(Meters(output=8_000_000), at_us=now - DAY_US)


BILLED = 4 * CHARGE + 880 * NANO_PER_CREDIT
WRITEOFF = 15 * NANO_PER_CREDIT


def test_the_same_price_comes_to_what_was_billed_exactly(desk: ops.Desk, address: str) -> None:
    live(address, a_month)
    replay = desk.catalog.propose_price("small-chat", **SAME).replay(days=30)
    assert (replay.requests, replay.billed_nano, replay.writeoff_nano) == (5, BILLED, WRITEOFF)
    assert (replay.replayed_nano, replay.difference_nano) == (BILLED, 0)
    (row,) = replay.frame.to_dict("records")
    assert (row["model"], row["account"], row["estimated"]) == ("small-chat", "ada@example.com", 1)
    assert desk.catalog.propose_price("small-chat", **SAME).replay(days=100).requests == 6


def test_another_price_shows_the_difference_and_names_what_was_written_off(desk: ops.Desk, address: str) -> None:
    live(address, a_month)
    replay = desk.catalog.propose_price("small-chat", **{**SAME, "input_usd": "0.30"}).replay()
    assert replay.difference_nano == 4 * 3_000 * 10**6
    for text in (repr(replay), replay._repr_html_()):
        assert all(part in text for part in ("5 requests from ", "988", "1000", "12", "+1.2 %", "ada@example.com"))
        assert "15 credits of what was billed had to be written off" in text
        assert "margin over what the providers cost: +100.0 % before" in text


def test_a_list_is_replayed_in_one_and_names_only_what_changes(desk: ops.Desk, address: str, tmp_path: Path) -> None:
    live(address, a_month)
    desk.catalog.add_model("large-chat", context_tokens=9, max_output_tokens=9)
    path = tmp_path / "list.csv"
    path.write_text("model,input_usd,output_usd\nsmall-chat,0.30,1.10\nlarge-chat,1,2\n")
    assert desk.catalog.import_prices(path).replay().difference_nano == 4 * 3_000 * 10**6


@sqlite_only
def test_a_time_without_usage_comes_to_nothing(desk: ops.Desk) -> None:
    replay = desk.catalog.propose_price("small-chat", **SAME).replay()
    assert (len(replay.frame), replay.billed_nano) == (0, 0)
    assert "0 requests" in repr(replay)
    for days in (0, -1, 1.5, True, 10**9):
        with pytest.raises(ops.BadInput, match="days"):
            desk.catalog.propose_price("small-chat", **SAME).replay(days=days)  # type: ignore[arg-type]


# ── re-rating ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_past_time_is_re_rated_from_the_desk(desk: ops.Desk, address: str) -> None:
    start = now_us()
    live(address, lambda shop: shop.serve(MILLION, at_us=start + 1))
    version = desk.catalog.propose_price("small-chat", **{**SAME, "input_usd": "0.20"}).publish(reason="corrected").id
    since, until = (to_datetime(us) for us in (start, now_us()))
    preview = desk.rerating.preview("small-chat", price_version=version, since=since, until=until)
    assert preview.frame.to_dict("records") == [
        {
            "account": "ada@example.com",
            "requests": 1,
            "old_nano": CHARGE,
            "new_nano": 20_000 * 10**6,
            "difference_nano": -7_000 * 10**6,
            "given_back_nano": 7_000 * 10**6,
            "writeoff_undone_nano": 0,
        }
    ]
    for text in (repr(preview), preview._repr_html_()):
        assert all(part in text for part in ("1 customer (not posted)", "-25.9 %", "27", "20", "-7", "all"))
    assert preview.post(reason="corrected").given_nano == 7_000 * 10**6
    assert "(posted)" in repr(preview)
    again = desk.rerating.preview("small-chat", price_version=version, since=since, until=until)
    assert "(posted before)" in repr(again)
    assert again.post(reason="corrected").repeated
    assert list(desk.accounts.balances()["balance_nano"]) == [980 * NANO_PER_CREDIT]
    assert desk.reconcile()["ok"].all()


@sqlite_only
@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"since": None}, "since"),
        ({"until": "2026-11-01T00:00:00"}, "until"),
        ({"account": "nobody@example.com"}, "email"),
        ({"price_version": 99}, "price_version"),
    ],
)
def test_a_re_rating_of_nothing_that_can_be_found_is_refused(desk: ops.Desk, wrong: Any, field: str) -> None:
    asked = {"price_version": 1, "since": "2026-10-01", "until": "2026-11-01"} | wrong
    with pytest.raises(ops.BadInput) as refusal:
        desk.rerating.preview("small-chat", **asked)
    assert refusal.value.field == field
