"""A settlement that waited while the database was away is dated by when it is made: a closed month stays as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.billing import Billing
from gateway.metrics import Metrics
from gateway.spool import Spool, path_of
from models.database import Database, open_database, parse_url
from models.epochs import Life
from models.ids import now_us
from models.money import Capture
from models.months import CLOSES_AFTER_US
from models.prices import Meters
from models.schema import migrate
from models.sqlite_ledger import SqliteLedger
from tests.models.shop import open_shop, stock_shop

HOUR_US = 3_600_000_000


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    url = parse_url(f"sqlite://{tmp_path}/gateway.db")
    await migrate(url)
    async with open_database(url) as opened:
        await stock_shop(opened)
        yield opened


async def test_what_waited_long_in_a_spool_is_charged_now_and_what_did_not_when_it_was_used(
    database: Database, tmp_path: Path
) -> None:
    shop = await open_shop(database)
    now = now_us()
    settled = {}
    for age_us in (2 * CLOSES_AFTER_US, HOUR_US // 60):
        id_ = await shop.hold(now - age_us)
        usage = shop.usage_row(id_, now - age_us, Meters(1), "served", False)
        settled[id_] = Capture(id_, shop.account_id, 27_000, now - age_us, usage)
    spool = Spool(path_of(tmp_path, Life(1, 1)), Life(1, 1))
    spool.append(list(settled.values()))
    assert database.url.path is not None
    ledger = SqliteLedger(database.url.path)
    await Billing(ledger, Metrics()).replay(spool)
    await ledger.close()
    spool.close()
    rows = await database.rows("SELECT request_id, at_us FROM transfer WHERE kind = 'charge'")
    found = {str(row["request_id"]): row["at_us"] for row in rows}
    old, young = settled
    assert now <= found[old] <= now_us()
    assert found[young] == settled[young].at_us
