"""A running server rolls up the days that are over by itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from models.database import open_database, parse_url
from models.ids import DAY_US, now_us
from models.invariants import check_invariants
from models.prices import Meters
from models.records import Provider
from models.rollups import rolled_until
from models.schema import migrate
from models.secrets import Seal
from tests.models.shop import open_shop, stock_shop
from tests.rig import Process

WITHIN_S = 30
SECRET = "the secret key of this one test"


async def test_a_server_rolls_up_closed_days_and_leaves_today(tmp_path: Path) -> None:
    url = parse_url(f"sqlite://{tmp_path}/gateway.db")
    await migrate(url)
    async with open_database(url) as database:
        await stock_shop(database)
        await Provider.all().update(credential=Seal(SECRET).close("canary"))
        shop, today_us = await open_shop(database), now_us() // DAY_US * DAY_US
        for at_us in (today_us - 5 * DAY_US + 9, today_us - 4 * DAY_US - 9, now_us()):
            await shop.serve(Meters(fresh=1), at_us=at_us)
        settings = {"GATEWAY_DATABASE_URL": url.text, "GATEWAY_SECRET_KEY": SECRET}
        server = await asyncio.to_thread(Process, ["serve", "--port", "0"], settings, tmp_path / "gateway.log")
        try:
            deadline = time.monotonic() + WITHIN_S
            # Day by day, each in a transaction of its own.
            while (await rolled_until(database)).until_us != today_us - 4 * DAY_US:
                assert time.monotonic() < deadline, server.log.read_text()[-3000:]
                await asyncio.sleep(0.1)
        finally:
            await asyncio.to_thread(server.stop)
        assert [row["requests"] for row in await database.rows("SELECT requests FROM usage_day")] == [2]
        assert (await check_invariants(database))[12].ok
