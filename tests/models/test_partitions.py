"""Monthly partitions of `usage` on PostgreSQL: made ahead, at once and again; what has none is kept in the default one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

import models.altering
import models.partitions
from models.database import Database, DatabaseUrl, open_database, parse_url
from models.errors import LedgerUnavailable, MissingRights, SetupError
from models.ids import DAY_US, now_us
from models.invariants import check_invariants
from models.months import Month, month_of
from models.partitions import make_partitions, name_of, partitions
from models.prices import Meters
from models.schema import migrate
from models.usage import usage_rows
from tests.models.shop import Shop

postgres_only = pytest.mark.parametrize("dialect", ["postgres"], indirect=True)
METERS = Meters(fresh=10, output=5)
FAR = Month(2031, 5)


def ahead(count: int) -> list[str]:
    return [name_of(month_of(now_us()).plus(n)) for n in range(count)]


async def names(database: Database) -> list[str]:
    return [partition.name for partition in await partitions(database.connection)]


async def home_of(database: Database, request_id: str) -> str:
    """The table that keeps a record."""
    query = f"SELECT tableoid::regclass::text AS name FROM usage WHERE request_id = '{request_id}'"
    return str((await database.rows(query))[0]["name"])


@contextlib.asynccontextmanager
async def locked(url: DatabaseUrl, statement: str) -> AsyncIterator[None]:
    """Somebody else's transaction that stays open."""
    async with open_database(url, pool=1) as other, other.transaction() as transaction:
        await transaction.execute_query(statement)
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.altering, "LOCK_TIMEOUT_MS", 20)
    monkeypatch.setattr(models.altering, "TRIES", 3)
    monkeypatch.setattr(models.altering, "PAUSE_S", 0.01)


@postgres_only
async def test_migrate_makes_this_month_and_the_next_two(shop: Shop) -> None:
    assert await names(shop.database) == ahead(3)
    assert await home_of(shop.database, await shop.serve(METERS)) == ahead(1)[0]
    assert await make_partitions(shop.database, now_us()) == []


async def test_sqlite_has_none(database: Database) -> None:
    if database.dialect == "sqlite":
        assert await make_partitions(database, now_us()) == []


@postgres_only
async def test_time_goes_on_and_more_are_made_with_the_indexes_of_their_table(shop: Shop) -> None:
    made = await make_partitions(shop.database, FAR.start_us)
    assert made == ["usage_2031_05", "usage_2031_06", "usage_2031_07"]
    assert await make_partitions(shop.database, FAR.plus(1).start_us - 1) == []
    assert await make_partitions(shop.database, FAR.plus(1).start_us) == ["usage_2031_08"]
    invalid = await shop.database.rows("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
    assert invalid == []
    indexes = await shop.database.rows("SELECT indexname FROM pg_indexes WHERE tablename = 'usage_2031_08'")
    assert len(indexes) == 2


@postgres_only
async def test_many_machines_make_them_once(shop: Shop) -> None:
    async def machine() -> list[str]:
        async with open_database(shop.database.url, pool=1) as other:
            return await make_partitions(other, FAR.start_us)

    made = await asyncio.gather(*(machine() for _ in range(5)))
    assert sorted(name for some in made for name in some) == ["usage_2031_05", "usage_2031_06", "usage_2031_07"]


@postgres_only
async def test_a_record_of_a_far_month_is_kept_in_the_default_partition_and_its_month_stays_there(shop: Shop) -> None:
    request_id = await shop.serve(METERS, at_us=FAR.plus(1).start_us)
    assert await home_of(shop.database, request_id) == "usage_default"
    assert await make_partitions(shop.database, FAR.start_us) == ["usage_2031_05", "usage_2031_07"]
    second = await shop.serve(METERS, at_us=FAR.plus(1).start_us + DAY_US)
    assert await home_of(shop.database, second) == "usage_default"
    assert await home_of(shop.database, await shop.serve(METERS, at_us=FAR.start_us)) == "usage_2031_05"
    assert len(await usage_rows(shop.database)) == 3
    assert all(finding.ok for finding in await check_invariants(shop.database))


@postgres_only
async def test_the_first_and_the_last_moment_of_a_month_are_its_own(shop: Shop) -> None:
    await make_partitions(shop.database, FAR.start_us)
    for at_us in (FAR.start_us, FAR.plus(1).start_us - 1):
        assert await home_of(shop.database, await shop.serve(METERS, at_us=at_us)) == "usage_2031_05"
    assert await home_of(shop.database, await shop.serve(METERS, at_us=FAR.plus(1).start_us)) == "usage_2031_06"


@postgres_only
async def test_requests_are_served_while_partitions_are_made(shop: Shop) -> None:
    stop = asyncio.Event()

    async def make() -> None:
        async with open_database(shop.database.url, pool=1) as other:
            for n in range(8):
                await make_partitions(other, FAR.plus(n).start_us)
        stop.set()

    maker = asyncio.create_task(make())
    served = 0
    while not stop.is_set():
        await shop.serve(METERS)
        served += 1
    await maker
    assert served > 3
    assert len(await usage_rows(shop.database)) == served


@postgres_only
@pytest.mark.usefixtures("impatient")
async def test_a_table_that_stays_locked_is_left_alone_after_a_few_short_waits(shop: Shop) -> None:
    async with locked(shop.database.url, "SELECT 1 FROM usage_default"):
        with pytest.raises(LedgerUnavailable, match="2031-05"):
            await make_partitions(shop.database, FAR.start_us)
        assert await home_of(shop.database, await shop.serve(METERS)) == ahead(1)[0]
    assert len(await make_partitions(shop.database, FAR.start_us)) == 3


@postgres_only
async def test_a_lock_that_is_let_go_in_time_is_waited_for(shop: Shop) -> None:
    async with locked(shop.database.url, "SELECT 1 FROM usage_default"):
        making = asyncio.create_task(make_partitions(shop.database, FAR.start_us))
        await asyncio.sleep(0.5)
        assert not making.done()
    assert len(await making) == 3


@postgres_only
async def test_a_large_default_partition_is_proved_empty_of_the_month_beside_its_writers(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.partitions, "QUICKLY_READ_BYTES", 0)
    await shop.serve(METERS, at_us=FAR.plus(1).start_us)
    # The first is not ahead, the second has a record: both stay in the default partition.
    assert await make_partitions(shop.database, FAR.start_us) == ["usage_2031_07"]
    left = "SELECT conname FROM pg_constraint WHERE conrelid = 'usage_default'::regclass AND conname LIKE 'usage_2%'"
    assert await shop.database.rows(left) == []
    # One that was promised, and then cut off, is tried again.
    month = FAR.plus(3)
    assert await models.partitions._promise_absence(shop.database, month)
    assert await make_partitions(shop.database, FAR.plus(1).start_us) == ["usage_2031_08"]
    assert await shop.database.rows(left) == []


@postgres_only
async def test_a_proof_that_fails_leaves_nothing_that_would_refuse_records(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.partitions, "QUICKLY_READ_BYTES", 0)
    turns = []
    take_turn = models.partitions._take_turn

    async def run_out_of_time(transaction: BaseDBAsyncClient) -> None:
        turns.append(1)
        if len(turns) == 3:  # The first is of April, which has begun; the second makes the promise of May.
            raise TimeoutError
        await take_turn(transaction)

    monkeypatch.setattr(models.partitions, "_take_turn", run_out_of_time)
    with pytest.raises(LedgerUnavailable, match="2031-05"):
        await make_partitions(shop.database, FAR.plus(-1).start_us)
    assert len(turns) == 4
    assert await home_of(shop.database, await shop.serve(METERS, at_us=FAR.start_us)) == "usage_default"
    # A process that was killed in the middle cannot take it back; whoever comes later does, before the month begins.
    month = FAR.plus(1)
    assert await models.partitions._promise_absence(shop.database, month)
    assert await make_partitions(shop.database, month.start_us - DAY_US // 2) == ["usage_2031_07"]
    assert await home_of(shop.database, await shop.serve(METERS, at_us=month.start_us)) == "usage_default"


@postgres_only
async def test_a_foreign_table_in_the_way_is_named(shop: Shop) -> None:
    await shop.database.connection.execute_script("CREATE TABLE usage_2031_05 (x INT)")
    with pytest.raises(SetupError, match="usage_2031_05"):
        await make_partitions(shop.database, FAR.start_us)


@postgres_only
async def test_a_partition_that_somebody_made_by_hand_covers_its_months(shop: Shop) -> None:
    low, high = FAR.lowest_id, FAR.plus(2).lowest_id
    await shop.database.connection.execute_script(
        f"CREATE TABLE by_hand PARTITION OF usage FOR VALUES FROM ('{low}') TO ('{high}')"
    )
    assert await make_partitions(shop.database, FAR.start_us) == ["usage_2031_07"]


@postgres_only
async def test_a_role_that_may_not_create_tables_is_told_so_and_still_writes(shop: Shop) -> None:
    role = f"worker_of_{urlsplit(shop.database.url.text).path[-12:]}"
    await shop.database.connection.execute_script(
        f"CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role};"
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"
    )
    try:
        url = parse_url(shop.database.url.text.replace("//postgres@", f"//{role}@"))
        async with open_database(url, pool=1) as weak:
            assert await make_partitions(weak, now_us()) == []
            with pytest.raises(MissingRights, match="2031-05"):
                await make_partitions(weak, FAR.start_us)
            shop.database, strong = weak, shop.database
            request_id = await shop.serve(METERS, at_us=FAR.start_us)
            shop.database = strong
        assert await home_of(shop.database, request_id) == "usage_default"
    finally:
        with contextlib.suppress(asyncpg.PostgresError):
            await shop.database.connection.execute_script(f"DROP OWNED BY {role}; DROP ROLE {role}")


@postgres_only
async def test_two_migrations_at_once_make_the_partitions_once(empty_url: DatabaseUrl) -> None:
    await migrate(empty_url)
    async with open_database(empty_url) as database:
        for name in ahead(3):
            await database.connection.execute_script(f"DROP TABLE {name}")
        await asyncio.gather(*(migrate(empty_url) for _ in range(3)))
        assert await names(database) == ahead(3)
