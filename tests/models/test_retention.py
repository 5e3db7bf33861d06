"""Dropping usage records of past months: what goes, what stays, and that the books still hold afterwards."""

from __future__ import annotations

import pytest
from tortoise.exceptions import BaseORMException

import models.altering
import models.retention
from models.database import Database
from models.errors import BadInput, LedgerUnavailable
from models.ids import now_us
from models.invariants import Finding, check_invariants
from models.money import Capture, Release
from models.months import CLOSES_AFTER_US, Month, month_of
from models.partitions import make_partitions, partitions
from models.prices import Meters
from models.records import Audit, Hold, Transfer
from models.retention import Piece, drop_usage, plan_drop
from models.spend import total
from models.usage import usage_rows
from tests.models.shop import Shop, trace
from tests.models.test_partitions import locked, postgres_only

METERS = Meters(fresh=10, output=5)
# In these tests it is the first of April 2031: the shop's price is of today, and must be older than any request.
NOW = Month(2031, 4)
EACH = 3


@pytest.fixture
async def years(shop: Shop) -> Shop:
    """Three requests in each month from October 2030 to April 2031; on PostgreSQL only those from January on have
    partitions, and the older ones are in the default partition.
    """
    await make_partitions(shop.database, NOW.plus(-3).start_us)
    await make_partitions(shop.database, NOW.start_us)
    for back in range(6, -1, -1):
        month = NOW.plus(-back)
        for at_us in (month.start_us, month.start_us + 86_400_000_000, month.plus(1).start_us - 1):
            await shop.serve(METERS, at_us=at_us)
    return shop


async def months_kept(database: Database) -> list[str]:
    return sorted({str(month_of(row["at_us"])) for row in await usage_rows(database)})


async def broken(database: Database) -> dict[int, Finding]:
    return {finding.number: finding for finding in await check_invariants(database) if not finding.ok}


async def drop(shop: Shop, before: str, told: list[Piece] | None = None) -> list[Piece]:
    add = told.append if told is not None else None
    # The month before is over for good.
    return await drop_usage(shop.database, "olga", before, "retention", NOW.start_us + CLOSES_AFTER_US, told=add)


async def test_a_plan_counts_what_would_go_and_changes_nothing(years: Shop) -> None:
    before = await trace()
    plan = await plan_drop(years.database, "2031-03", NOW.start_us)
    assert [(piece.month, piece.records) for piece in plan if piece.records] == [
        ("2030-10", EACH),
        ("2030-11", EACH),
        ("2030-12", EACH),
        ("2031-01", EACH),
        ("2031-02", EACH),
    ]
    if years.database.dialect == "postgres":
        assert [piece.table for piece in plan if piece.records] == [
            *["usage_default"] * 3,
            "usage_2031_01",
            "usage_2031_02",
        ]
    assert len(await usage_rows(years.database)) == 7 * EACH
    assert await trace() == before


async def test_whole_months_go_and_the_others_stay_with_all_their_records(years: Shop) -> None:
    told: list[Piece] = []
    dropped = await drop(years, "2031-02", told)
    assert told == dropped
    assert sum(piece.records for piece in dropped) == 4 * EACH
    assert await months_kept(years.database) == ["2031-02", "2031-03", "2031-04"]
    assert len(await usage_rows(years.database)) == 3 * EACH
    assert await Transfer.filter(kind="charge").count() == 7 * EACH
    assert await Hold.all().count() == 7 * EACH
    assert await drop(years, "2031-02") == []
    if years.database.dialect == "postgres":
        left = [partition.name for partition in await partitions(years.database.connection)]
        assert "usage_2031_01" not in left
        assert "usage_2031_02" in left


async def test_the_books_hold_afterwards_and_name_the_oldest_that_is_kept(years: Shop) -> None:
    before = {finding.number: finding for finding in await check_invariants(years.database)}
    assert before[4].ok
    assert "of 2030-10-01, none were dropped" in before[4].detail
    await drop(years, "2031-02")
    assert await broken(years.database) == {}
    after = {finding.number: finding for finding in await check_invariants(years.database)}
    assert "9 requests" in after[4].detail
    assert "of 2031-02-01, those before 2031-02 were dropped" in after[4].detail
    await drop(years, "2031-04")
    assert await broken(years.database) == {}


async def test_a_record_lost_from_the_kept_months_is_still_found(years: Shop) -> None:
    await drop(years, "2031-02")
    oldest = (await usage_rows(years.database))[0]["request_id"]
    query = years.database.placed("DELETE FROM usage WHERE request_id = ?")
    await years.database.connection.execute_query(query, [oldest])
    found = await broken(years.database)
    assert set(found) == {4}
    assert "1 charges without a usage record" in found[4].detail


async def test_a_late_settlement_of_a_dropped_month_is_kept_until_the_next_drop(years: Shop) -> None:
    at_us = NOW.plus(-3).start_us + 5
    left = await years.hold(at_us)
    await years._apply(Release(left, years.account_id, at_us + 1, expired=True))
    await drop(years, "2031-03")
    usage = years.usage_row(left, at_us, METERS, "served", False)
    await years._apply(Capture(left, years.account_id, years.price.charge_nano(METERS, at_us), at_us + 2, usage))
    assert await broken(years.database) == {}
    (piece,) = await drop(years, "2031-03")
    assert (piece.month, piece.records) == ("2031-01", 1)
    assert await broken(years.database) == {}
    assert (await total(years.database)).requests == 7 * EACH + 1


async def test_each_month_is_signed_in_the_audit_log(years: Shop) -> None:
    await drop(years, "2031-02")
    rows = [row for row in await Audit.filter(action="usage.drop").order_by("id") if row.before["records"]]  # type: ignore[index]
    assert [row.subject for row in rows] == ["usage 2030-10", "usage 2030-11", "usage 2030-12", "usage 2031-01"]
    assert {(row.operator, row.reason) for row in rows} == {("olga", "retention")}
    assert rows[-1].after["kept_from"] == "2031-02"  # type: ignore[index]


@pytest.mark.parametrize("before", ["2031-05", "2032-01", "2031-1", "2031-13", "0000-01", "yesterday", "", None, 2031])
async def test_a_bad_or_future_month_is_refused(years: Shop, before: str) -> None:
    with pytest.raises(BadInput, match="before") as refusal:
        await drop(years, before)
    assert refusal.value.field == "before"
    assert len(await usage_rows(years.database)) == 7 * EACH


async def test_deleting_goes_in_batches_and_can_be_cut_off_and_run_again(
    years: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.retention, "BATCH", 2)
    whole = models.retention._delete_batch
    batches = []

    async def cut(database: Database, transaction: object, piece: Piece) -> bool:
        batches.append(piece.month)
        if len(batches) == 4:
            raise BaseORMException("the connection is lost")
        return await whole(database, transaction, piece)  # type: ignore[arg-type]

    monkeypatch.setattr(models.retention, "_delete_batch", cut)
    with pytest.raises(BaseORMException):
        await drop(years, "2031-01")
    assert batches == ["2030-10", "2030-10", "2030-11", "2030-11"]
    assert len(await usage_rows(years.database)) == 7 * EACH - 5
    assert await broken(years.database) == {}
    assert [piece.records for piece in await drop(years, "2031-01") if piece.records] == [1, 3]
    assert await broken(years.database) == {}


@postgres_only
async def test_a_partition_that_is_read_for_long_is_given_up_after_a_few_short_waits(
    years: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.altering, "LOCK_TIMEOUT_MS", 20)
    monkeypatch.setattr(models.altering, "TRIES", 2)
    await drop(years, "2031-01")
    async with locked(years.database.url, "SELECT 1 FROM usage_2031_01"):
        with pytest.raises(LedgerUnavailable, match="usage_2031_01"):
            await drop(years, "2031-02")
    assert len(await usage_rows(years.database)) == 4 * EACH
    assert await broken(years.database) == {}


@postgres_only
async def test_a_month_that_somebody_else_drops_at_the_same_time_is_dropped_once(years: Shop) -> None:
    plan = await plan_drop(years.database, "2031-02", NOW.start_us)
    await drop(years, "2031-02")
    audits = await Audit.filter(action="usage.drop").count()
    await models.retention._drop_table(years.database, "olga", "retention", plan[-1])
    assert await Audit.filter(action="usage.drop").count() == audits


async def test_dropping_what_is_not_there_is_nothing(database: Database) -> None:
    assert await drop_usage(database, "olga", str(month_of(now_us())), "retention", now_us()) == []
