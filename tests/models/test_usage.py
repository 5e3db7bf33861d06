"""Reading usage records: by time, outcome and page."""

from __future__ import annotations

import pytest

from models.errors import BadInput
from models.ids import now_us
from models.prices import Meters
from models.usage import usage_rows
from tests.models.shop import Shop

METERS = Meters(fresh=10, output=5)
HOUR_US = 3_600_000_000


async def test_a_record_names_its_account_model_and_route(shop: Shop) -> None:
    request_id = await shop.serve(METERS)
    (row,) = await usage_rows(shop.database)
    assert row["request_id"] == request_id
    assert (row["account"], row["model"]) == ("ada@example.com", "small-chat")
    assert (row["provider"], row["upstream_model"]) == ("acme", "acme-1-small")
    assert row["charge_nano"] == 10 * 27_000 + 5 * 110_000
    assert (row["estimated"], row["streamed"]) == (False, False)
    assert row["attempts"] == [{"route": 1, "status": 200, "ms": 34}]


async def test_outcomes_and_times_choose_records(shop: Shop) -> None:
    now = now_us()
    old = await shop.serve(METERS, at_us=now + HOUR_US)
    new = await shop.serve(METERS, at_us=now + 3 * HOUR_US)
    failed = await shop.serve(Meters(), outcome="failed", at_us=now + 4 * HOUR_US)

    async def ids(since: int | None, until: int | None, outcome: str | None = "served") -> list[str]:
        return [row["request_id"] for row in await usage_rows(shop.database, since, until, outcome)]

    assert await ids(None, None) == [old, new]
    assert await ids(None, None, None) == [old, new, failed]
    assert await ids(None, None, "failed") == [failed]
    assert await ids(now + HOUR_US, now + 3 * HOUR_US) == [old]
    assert await ids(now + HOUR_US + 1, None) == [new]
    with pytest.raises(BadInput, match="outcome"):
        await usage_rows(shop.database, outcome="lost")


async def test_records_can_be_read_page_by_page(shop: Shop) -> None:
    now = now_us()
    ids = [await shop.serve(METERS, at_us=now + n * 1_000) for n in range(5)]
    found: list[str] = []
    while page := await usage_rows(shop.database, limit=2, after=found[-1] if found else None):
        found += [row["request_id"] for row in page]
    assert found == ids
