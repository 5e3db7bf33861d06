"""Usage of a year in large databases, PostgreSQL (see `conftest.py`) and SQLite with a million records: days are rolled up
beside a busy ledger, sums are those of the records, and whatever a customer asks about their usage is answered at once.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import statistics
import time
from pathlib import Path

import psutil
import pytest

from models.database import Database, open_database, parse_url
from models.explorer import receipt, usage_page, usage_pages
from models.ids import DAY_US, lowest_id, now_us
from models.rollups import roll_up
from models.schema import migrate
from models.spend import overview, spend_by, spend_per_key, total
from models.usage import UsageFilter
from tests.large import REQUESTS, served

KEYS = 20
PAGE_WITHIN_S = 1.0
OVERVIEW_WITHIN_S = 0.3
# Beside it others are settled: on SQLite each of them waits for the disk, and for the one writer at a time.
PAUSE_WITHIN_S = 1.0
EXPORT_MIB = 64
pytestmark = [pytest.mark.drill, pytest.mark.alone, pytest.mark.timeout(3_600)]


async def test_days_are_rolled_up_beside_a_busy_ledger_and_are_the_sums_of_their_records(large: Database) -> None:
    await roll_up_and_compare(large)


async def test_any_filter_of_one_account_is_answered_at_once(large: Database) -> None:
    rows = await large.rows("SELECT MIN(account_id) AS heavy, MAX(account_id) AS light FROM api_key")
    await ask_everything(large, [rows[0]["heavy"], rows[0]["light"]])


async def test_an_export_of_all_records_takes_the_memory_of_a_page(large: Database) -> None:
    account = (await large.rows("SELECT MIN(account_id) AS id FROM api_key"))[0]["id"]
    only = UsageFilter(until_us=now_us() - DAY_US)
    wanted, counted, charge_nano, most = await total(large, only, account_id=account), 0, 0, 0
    before, started = psutil.Process().memory_info().rss, time.monotonic()
    async for page in usage_pages(large, account, only):
        counted += len(page)
        charge_nano += sum(record.charge_nano for record in page)
        most = max(most, psutil.Process().memory_info().rss - before)
    print(f"{counted:,} records in {time.monotonic() - started:.1f} s, {most / 2**20:.0f} MiB")  # noqa: T201
    assert counted > REQUESTS // 11
    assert (counted, charge_nano) == (wanted.requests, wanted.charge_nano)
    assert most < EXPORT_MIB * 2**20


async def test_all_that_on_sqlite(filled_sqlite: Path, tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    url = parse_url(f"sqlite://{path}")
    shutil.copy(filled_sqlite, path)
    account = give_most_to_one_account(path)
    await migrate(url)
    async with open_database(url) as database:
        await roll_up_and_compare(database)
        await ask_everything(database, [account, account + 1])


def give_most_to_one_account(path: Path) -> int:
    """Nine of ten records become those of one account with twenty keys, the others those of the next; returns its id."""
    with sqlite3.connect(path) as database:
        # An index is made faster than it is kept.
        database.executescript("PRAGMA synchronous = OFF; DROP INDEX usage_of_account")
        heavy = int(database.execute("SELECT MIN(account_id) FROM api_key").fetchone()[0])
        database.execute(
            f"UPDATE usage SET account_id = {heavy} + (account_id = {heavy}), key_id = key_id % {KEYS} + 1"
        )
    return heavy


async def roll_up_and_compare(database: Database) -> None:
    async with served(database.url.text) as took:
        started = time.monotonic()
        days = await roll_up(database, now_us())
        took_s = time.monotonic() - started
    print(f"{database.dialect}: {days} days rolled up in {took_s:.1f} s, slowest settled in {max(took):.3f} s")  # noqa: T201
    assert days > 30
    assert len(took) > 10
    assert max(took) < PAUSE_WITHIN_S
    names = ("charge_nano", "cost_nano", "fresh_tokens", "cached_tokens", "output_tokens", "total_ms")
    plain = await database.rows(
        f"SELECT account_id, COUNT(*) AS requests, {', '.join(f'SUM({name}) AS {name}' for name in names)} FROM usage"
        " GROUP BY account_id ORDER BY account_id"
    )
    found = await spend_by(database, ("account",))
    assert [(row.by["account"], row.sums.requests, *(getattr(row.sums, name) for name in names)) for row in found] == [
        (row["account_id"], row["requests"], *(int(row[name]) for name in names)) for row in plain
    ]


async def ask_everything(database: Database, accounts: list[int]) -> None:
    """Filters that match much, little or nothing, on first and deep pages; charts; and the overview."""
    pages, glances, charts = list[tuple[float, str]](), list[float](), list[float]()
    until_us = now_us()
    for account in accounts:
        keys = sorted(await spend_per_key(database, account))
        filters = [
            UsageFilter(since_us=since_us, models=models, keys=key, outcome=outcome, estimated=estimated)
            for since_us, models, key, outcome, estimated in itertools.product(
                (None, until_us - 200 * DAY_US),
                ((), ("tiered-chat",)),
                ((), (keys[0],), (keys[-1],), (1,)),
                (None, "failed", "left"),
                (None, True, False),
            )
        ]
        for only, days in itertools.product(filters, (0, 300)):
            started = time.monotonic()
            page = await usage_page(database, account, only, before=lowest_id(until_us - days * DAY_US))
            pages.append((time.monotonic() - started, f"{len(page.records)} of {only} {days} days ago"))
        (record,) = (await usage_page(database, account, size=1)).records
        since = UsageFilter(since_us=until_us - 30 * DAY_US)
        for kept, ask in (
            (glances, overview(database, account, until_us)),
            (glances, overview(database, account, until_us)),
            (charts, spend_by(database, ("day", "model"), since, account_id=account)),
            (charts, spend_per_key(database, account)),
        ):
            started = time.monotonic()
            await ask
            kept.append(time.monotonic() - started)
        assert (await receipt(database, account, record.request_id)).record == record
    p95_s = statistics.quantiles((took_s for took_s, _ in pages), n=20)[-1]
    print(  # noqa: T201
        f"{database.dialect}: {len(pages)} pages, p95 {p95_s:.3f} s, the slowest {max(pages)}; overview"
        f" {max(glances):.3f} s, charts {max(charts):.3f} s"
    )
    assert p95_s < PAGE_WITHIN_S
    assert max(glances) < OVERVIEW_WITHIN_S
    assert max(charts) < PAGE_WITHIN_S
