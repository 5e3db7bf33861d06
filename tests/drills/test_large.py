"""Large data on PostgreSQL: a million requests (ten with LONG=1) in a year of months. The books hold in bounded memory,
reports read what they ask for and no more, usage is replayed and re-rated under other prices in seconds, and months are
dropped while the ledger goes on writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

import ops
from models.database import Database, open_snapshot
from models.ids import DAY_US, now_us
from models.month_lines import month_lines
from models.months import Month, month_of
from models.partitions import name_of
from models.spend import spend_by
from models.usage import usage_rows
from tests.large import LONG, MONTHS, REQUESTS, served
from tests.rig import ROOT, close_desks

# The command itself takes 65 MiB, whatever it checks; Python's rows of one million requests would take a gigabyte.
MOST_MIB = 100
RECONCILE_WITHIN_S = 900 if LONG else 180
# With LONG=1 the last days that hold 3 million requests, else all there are: a million leave room for a busy machine.
REPLAYED_DAYS, REPLAY_WITHIN_S = 110 if LONG else 366, 10
# Every price of tests/large.py, doubled.
DOUBLED = """model,above_tokens,start,end,input_usd,cached_input_usd,output_usd
plain-chat,,,,0.54,0.14,2.20
tiered-chat,,,,2.5,,20
tiered-chat,2000,,,5,,30
windowed-chat,,,,1,,4
windowed-chat,,16:30,00:30,0.4,,2
"""
# Writers stand behind a drop for at most its short wait for the lock (see models/altering.py), on a busy machine.
PAUSE_WITHIN_S = 2.0
pytestmark = [pytest.mark.drill, pytest.mark.alone, pytest.mark.timeout(3_600)]


class Done(NamedTuple):
    """How a command ended; its peak memory."""

    code: int
    said: str
    seconds: float
    mib: int


def command(url: str, log: Path, *arguments: str) -> Done:
    """Run `gateway` to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "OPS_"))}
    environment |= {"GATEWAY_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    with log.open("wb") as file:
        program = [sys.executable, "-m", "gateway", *arguments]
        running = subprocess.Popen(program, cwd=log.parent, env=environment, stdout=file, stderr=file)
        most = 0
        while running.poll() is None:
            with contextlib.suppress(psutil.Error):
                most = max(most, psutil.Process(running.pid).memory_info().rss)
            time.sleep(0.02)
    done = Done(running.returncode, log.read_text(), time.monotonic() - started, most // 2**20)
    print(f"gateway {' '.join(arguments)}: {done.seconds:.1f} s, {done.mib} MiB")  # noqa: T201
    return done


async def check(url: str, log: Path) -> str:
    """Reconcile holds, in time and in bounded memory; what it said."""
    done = await asyncio.to_thread(command, url, log, "reconcile")
    assert done.code == 0, done.said
    assert done.mib < MOST_MIB
    assert done.seconds < RECONCILE_WITHIN_S
    return done.said


def month(back: int) -> Month:
    return month_of(now_us()).plus(-back)


async def test_the_books_hold_in_bounded_memory(filled: str, large: Database, tmp_path: Path) -> None:
    records = (await large.rows("SELECT COUNT(*) AS n FROM usage"))[0]["n"]
    assert records >= REQUESTS
    said = await check(filled, tmp_path / "log")
    assert f"{records} requests" in said
    assert "none were dropped" in said


async def test_reports_read_the_months_they_ask_for_by_index(large: Database) -> None:
    account = (await large.rows("SELECT MAX(account_id) AS id FROM api_key"))[0]["id"]
    day_us = 86_400_000_000
    first, last = month(6).start_us, month(5).start_us
    for since, until, more, tables in (
        (first, last, {"account_id": account}, 3),
        (first + 9 * day_us, first + 10 * day_us, {"limit": 100}, 1),
        (None, None, {"account_id": account, "limit": 100}, MONTHS + 3),
    ):
        started = time.monotonic()
        rows = await usage_rows(large, since, until, **more)  # type: ignore[arg-type]
        took_s = time.monotonic() - started
        assert rows
        plan = await explained(large, since, until, more)
        assert not re.search(r"Seq Scan on usage", plan), plan
        assert len(set(re.findall(r" on (usage_\d{4}_\d\d|usage_default) ", plan))) <= tables, plan
        print(f"{len(rows)} rows of {more} in {took_s:.3f} s")  # noqa: T201


def test_usage_is_replayed_and_re_rated_under_other_prices_in_seconds(filled: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(DOUBLED)
    close_desks()
    with ops.connect(filled, operator="olga") as desk:
        prices = desk.catalog.import_prices(tmp_path / "list.csv")
        started = time.monotonic()
        replay = prices.replay(days=REPLAYED_DAYS)
        took_s = time.monotonic() - started
        print(f"{replay.requests:,} requests replayed in {took_s:.1f} s")  # noqa: T201
        assert replay.requests > 0.9 * min(REQUESTS, 3_000_000)
        assert replay.replayed_nano == 2 * replay.billed_nano > 0
        assert took_s < REPLAY_WITHIN_S
        version = next(price.id for price in prices.publish(reason="doubled") if price.tiers[0].rates.fresh == 54_000)
        began, ended = (dt.datetime.fromtimestamp(month(n).start_us // 10**6, dt.UTC) for n in (3, 2))
        preview = desk.rerating.preview("plain-chat", price_version=version, since=began, until=ended)
        started = time.monotonic()
        posted = preview.post(reason="doubled")
        print(f"{posted.accounts:,} customers re-rated in {time.monotonic() - started:.1f} s")  # noqa: T201
        assert posted.accounts > 300
        assert posted.taken_nano == int(preview.frame["old_nano"].sum())
        assert preview.post(reason="doubled").repeated


async def test_the_lines_of_a_month_are_not_joined_row_by_row(large: Database) -> None:
    """The statistics say nothing of a span as short as a day: so it would be read once for every row of it."""
    listener = Listener(large)
    async with open_snapshot(large):
        async for lines in month_lines(listener, month(1)):  # type: ignore[arg-type]
            assert lines == []
    joined = [plan for plan in listener.plans if "Join" in plan]
    assert len(joined) >= 28
    assert not [plan for plan in joined if "Join Filter: (c.request_id" in plan]


class Listener:
    """In the place of a database: the plans of what is asked, and never a row."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.dialect = database.dialect
        self.plans: list[str] = []

    @property
    def connection(self) -> BaseDBAsyncClient:
        return self._database.connection

    async def rows(self, query: str, values: list[Any] | None = None) -> list[dict[str, Any]]:
        plan = await self._database.rows("EXPLAIN " + query, values)
        self.plans.append("\n".join(row["QUERY PLAN"] for row in plan))
        return []


async def explained(database: Database, since: int | None, until: int | None, more: dict[str, Any]) -> str:
    """The plan of the query that `usage_rows` makes."""
    listener = Listener(database)
    await usage_rows(listener, since, until, **more)  # type: ignore[arg-type]
    return "\n".join(listener.plans)


async def test_months_are_dropped_while_the_ledger_goes_on_and_the_books_still_hold(
    filled: str, large: Database, tmp_path: Path
) -> None:
    before, log = str(month(MONTHS - 4)), tmp_path / "log"
    count = "SELECT COUNT(*) AS n FROM usage WHERE request_id < ?"
    shown = command(filled, log, "drop-usage", "--before", before)
    assert shown.code == 0, shown.said
    gone = (await large.rows(count, [month(MONTHS - 4).lowest_id]))[0]["n"]
    assert gone > REQUESTS // 5  # three months of twelve, the last of which has only begun
    assert f"would drop {gone:,} usage records" in shown.said
    counted = await spend_by(large, ("day", "account"))
    async with served(filled) as took:
        dropped = await asyncio.to_thread(command, filled, log, "drop-usage", "--before", before, "--yes")
    assert dropped.code == 0, dropped.said
    assert [f"table {name_of(month(MONTHS - 1 - n))} as a whole" in dropped.said for n in range(3)] == [True] * 3
    print(f"{len(took)} requests settled meanwhile, the slowest in {max(took):.3f} s")  # noqa: T201
    assert len(took) > 10
    assert max(took) < PAUSE_WITHIN_S
    assert (await large.rows(count, [month(MONTHS - 4).lowest_id]))[0]["n"] == 0
    said = await check(filled, log)
    assert f"those before {before} were dropped" in said
    today = now_us() - 2 * DAY_US
    assert [row for row in await spend_by(large, ("day", "account")) if int(row.by["day"]) < today] == [
        row for row in counted if int(row.by["day"]) < today
    ]
