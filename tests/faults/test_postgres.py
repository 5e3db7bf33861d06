"""Faults 25 and 33 to 36 on PostgreSQL: it fails, stalls, is full, is gone; nobody is served unpaid, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import asyncpg
import pytest

from models.prices import NANO_PER_CREDIT
from tests.faults.books import logged, metric, record_of
from tests.faults.outages import InFlight, Outage, refused_for, start_outage
from tests.rig import Customer, Rig
from tests.stores import Sql

pytestmark = pytest.mark.only("cluster")
AT_MOST_S = 1.0


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    with start_outage(tmp_path_factory.mktemp("outage"), max_connections=30) as running:
        yield running
        running.rig.reconcile()


def account_id(rig: Rig, customer: Customer) -> int:
    balances = rig.desk.accounts.balances()
    return int(balances[balances["email"] == customer.email].iloc[0]["account_id"])


async def charged(rig: Rig, alias: str, nano: int) -> None:
    """Wait until so much was asked of the ledger for this alias, whether or not it has it."""
    async with asyncio.timeout(15):
        while round(await metric(rig, "gateway_charged_credits_total", model=alias) * NANO_PER_CREDIT) < nano:
            await asyncio.sleep(0.02)


# ── it is gone ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["crashed", "frozen", "cut off", "unreachable", "speechless"])
async def test_while_the_database_is_away_running_answers_finish_and_nobody_else_is_served(
    outage: Outage, kind: str
) -> None:
    """Faults 36: 503 within a second, before any provider is called; each charge arrives, once. Drills make it longer."""
    rig = outage.rig
    flight = InFlight(rig)
    ada = flight.customer()
    await flight.begin([ada], 40)
    assert {answer.status for answer in await rig.everywhere(ada, flight.quick)} == {200}
    before = len(await rig.provider.calls(flight.quick_upstream))
    with outage.of(kind):
        asking = asyncio.create_task(refused_for(rig, ada, flight.quick, 6))
        await asyncio.sleep(0.5)
        await flight.release()
        answers = await asyncio.wait_for(asyncio.gather(*flight.calls), 10)
        assert {answer.status for answer in answers} == {200}
        assert all(answer.is_done for answer in answers if b"data:" in answer.body)
        longest_s = await asking
        assert outage.spooled >= 40, "they were told whole because their charges are on disk"
    assert longest_s <= AT_MOST_S
    assert len(await rig.provider.calls(flight.quick_upstream)) == before
    await outage.over()
    await rig.settled(ada, records=40 + before)
    charges = [record_of(rig, ada, answer)["charge_nano"] for answer in answers]
    assert charges == [await flight.bill()] * 40
    assert len(rig.records(ada)) == 40 + before
    assert rig.spent_nano(ada) == sum(record["charge_nano"] for record in rig.records(ada))
    assert {answer.status for answer in await rig.everywhere(ada, flight.quick)} == {200}
    rig.reconcile()


# ── it is full ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_takes_a_handful_of_connections_however_much_is_asked_of_it(outage: Outage) -> None:
    """Faults 35: a pool of four for looking things up, two of the dashboard, one that rolls up, one that moves the money."""
    rig = outage.rig
    flight = InFlight(rig)
    customers = [flight.customer() for _ in range(20)]
    rig.close_desk()
    asked = asyncio.gather(*[rig.chat(customers[i % 20], flight.quick) for i in range(400)])
    most = 0
    with Sql(rig.database_url) as database:
        while not asked.done():
            most = max(
                most, int(database.value("SELECT COUNT(*) - 1 FROM pg_stat_activity WHERE datname = 'postgres'"))
            )
            await asyncio.sleep(0.01)
    assert {answer.status for answer in asked.result()} == {200}
    assert 2 <= most <= 8 * len(rig.workers.pids)


async def test_without_a_free_slot_new_requests_are_refused_before_any_provider_is_called(outage: Outage) -> None:
    """Faults 35: somebody else has taken every slot when the workers' connections break."""
    rig = outage.rig
    flight = InFlight(rig)
    ada = flight.customer()
    await flight.begin([ada], 10)
    rig.close_desk()
    async with contextlib.AsyncExitStack() as taken:
        outage.door.cut()
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                connection = await asyncpg.connect(outage.postgres.url, timeout=5)
                taken.push_async_callback(connection.close)
        outage.door.pass_on()
        asking = asyncio.create_task(refused_for(rig, ada, flight.quick, 4))
        await flight.release()
        answers = await asyncio.wait_for(asyncio.gather(*flight.calls), 10)
        assert {answer.status for answer in answers} == {200}
        assert await asking <= AT_MOST_S
        assert await rig.provider.calls(flight.quick_upstream) == []
    await outage.over()
    await rig.settled(ada, records=10)
    assert [record["charge_nano"] for record in rig.records(ada)] == [await flight.bill()] * 10
    assert rig.spent_nano(ada) == 10 * await flight.bill()
    assert (await rig.chat(ada, flight.quick)).status == 200
    rig.reconcile()


# ── somebody holds what a batch needs ─────────────────────────────────────────────────────────────────────────────


async def test_while_accounts_are_locked_new_requests_get_503_and_settlements_wait(outage: Outage) -> None:
    """Faults 25 and 32: a session that took the table and went for coffee; some clients give up meanwhile."""
    rig = outage.rig
    flight = InFlight(rig)
    ada = flight.customer()
    await flight.begin([ada], 8)
    with Sql(rig.database_url) as database:
        database.rows("BEGIN")
        database.rows("LOCK TABLE account IN EXCLUSIVE MODE")
        await flight.release()
        # Who leaves before the provider has answered is not charged: here all of them have their answer waiting.
        await charged(rig, flight.alias, 8 * await flight.bill())
        for call in flight.calls[::2]:
            call.cancel()
        await asyncio.wait(flight.calls[::2])
        assert await refused_for(rig, ada, flight.quick, 6) <= AT_MOST_S
        database.rows("ROLLBACK")
    for answer in await asyncio.gather(*flight.calls[1::2]):
        assert answer.status == 200
    await outage.over()
    await rig.settled(ada, records=8)
    assert [record["charge_nano"] for record in rig.records(ada)] == [await flight.bill()] * 8
    assert rig.spent_nano(ada) == 8 * await flight.bill()
    assert await rig.provider.calls(flight.quick_upstream) == []
    assert (await rig.chat(ada, flight.quick)).status == 200
    rig.reconcile()


async def test_a_deadlock_is_broken_by_the_database_and_nothing_is_lost_by_it(outage: Outage) -> None:
    """Faults 33: another writer takes two accounts in the other order, and the ledger's batch is the victim."""
    rig = outage.rig
    for _ in range(5):
        flight = InFlight(rig)
        customers = [flight.customer() for _ in range(2)]
        await flight.begin(customers, 40)
        await cross(outage, flight, *sorted(account_id(rig, customer) for customer in customers))
        answers = await asyncio.wait_for(asyncio.gather(*flight.calls), 15)
        assert {answer.status for answer in answers} == {200}
        await outage.over()
        for customer in customers:
            await rig.settled(customer, records=20)
            assert [record["charge_nano"] for record in rig.records(customer)] == [await flight.bill()] * 20
            assert rig.spent_nano(customer) == 20 * await flight.bill()
        assert await metric(rig, "gateway_quarantined_total") == 0
        rig.reconcile()
        if "deadlock detected" in outage.postgres.log:
            return
    raise AssertionError("no batch was caught between the two accounts")


async def cross(outage: Outage, flight: InFlight, low: int, high: int) -> None:
    """Hold the one account while a batch that has the other comes for it; then ask for the other."""
    lock = "SELECT 1 FROM account WHERE id = ? FOR UPDATE"
    with Sql(outage.rig.database_url) as other, Sql(outage.rig.database_url) as watching:
        # Whose patience ends first looks for a deadlock, and is its victim.
        other.rows("SET deadlock_timeout = '20s'")
        other.rows("BEGIN")
        other.rows(lock, high)
        await flight.release()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while not watching.value("SELECT COUNT(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.01)
        await asyncio.to_thread(other.rows, lock, low)
        other.rows("COMMIT")


# ── its writes fail ───────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def refusing(rig: Rig, table: str, verb: str, when: str, code: str) -> Iterator[None]:
    """A table that refuses such rows with this SQLSTATE."""
    with Sql(rig.database_url) as database:
        database.rows(
            f"CREATE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION 'refused by a test' USING ERRCODE = '{code}'; END $$"
        )
        database.rows(
            f"CREATE TRIGGER refuse BEFORE {verb} ON {table} FOR EACH ROW WHEN ({when})"
            f" EXECUTE FUNCTION refuse_{table}()"
        )
        try:
            yield
        finally:
            database.rows(f"DROP TRIGGER refuse ON {table}")
            database.rows(f"DROP FUNCTION refuse_{table}()")


@pytest.mark.parametrize("table", ["hold", "transfer", "usage", "account"])
async def test_a_settlement_is_repeated_after_a_failure_of_any_of_its_writes_and_counts_once(
    outage: Outage, table: str
) -> None:
    """Faults 25: the disk is full for each table in turn; nothing of a failed attempt stays behind."""
    rig = outage.rig
    flight = InFlight(rig)
    ada = flight.customer()
    await flight.begin([ada], 8)
    failures = await metric(rig, "gateway_ledger_retries_total")
    verb = "INSERT" if table in ("transfer", "usage") else "UPDATE"
    with refusing(rig, table, verb, "true", "53100"):
        await flight.release()
        async with asyncio.timeout(15):
            while await metric(rig, "gateway_ledger_retries_total") <= failures:
                await asyncio.sleep(0.02)
        answers = await asyncio.wait_for(asyncio.gather(*flight.calls), 15)
    assert {answer.status for answer in answers} == {200}
    await outage.over()
    await rig.settled(ada, records=8)
    charges = [record_of(rig, ada, answer)["charge_nano"] for answer in answers]
    assert charges == [await flight.bill()] * 8
    assert rig.spent_nano(ada) == sum(charges)
    rig.reconcile()


@pytest.mark.parametrize("quarantine", ["takes it", "is broken"])
async def test_one_poisoned_account_stops_nobody_else_from_being_billed(outage: Outage, quarantine: str) -> None:
    """Faults 34: its settlements go into quarantine, everybody else's in the same batch are stored."""
    rig = outage.rig
    flight = InFlight(rig)
    rich, poor = flight.customer(), flight.customer()
    before = await metric(rig, "gateway_quarantined_total")
    await flight.begin([rich, poor], 8)
    poisoned = f"OLD.id = {account_id(rig, poor)} AND NEW.balance_nano <> OLD.balance_nano"
    with contextlib.ExitStack() as broken:
        broken.enter_context(refusing(rig, "account", "UPDATE", poisoned, "P0001"))
        if quarantine == "is broken":
            broken.enter_context(refusing(rig, "quarantine", "INSERT", "true", "P0001"))
        with Sql(rig.database_url) as database:
            # Holding the lock gathers their settlements into a batch of each worker.
            database.rows("BEGIN")
            database.rows("LOCK TABLE account IN EXCLUSIVE MODE")
            await flight.release()
            await rig.provider.wait(flight.upstream, count=8, state="served")
            database.rows("COMMIT")
        answers = await asyncio.gather(*flight.calls)
        whole = [answer.status == 200 and b'"error"' not in answer.body for answer in answers]
        assert whole == [True, False] * 4
        assert (await rig.chat(rich, flight.quick)).status == 200
        assert await metric(rig, "gateway_quarantined_total") == before + 4
    kept = [row[0] for row in rig.sql("SELECT command FROM quarantine")]
    if quarantine == "takes it":
        assert len(kept) == 4
        assert all(command.startswith("Capture") for command in kept)
        checked = rig.run("reconcile")
        assert checked.returncode == 1
        assert "4 settlements in quarantine" in checked.stdout
        rig.sql("DELETE FROM quarantine")
    else:
        assert kept == []
        await logged(rig, "the quarantine refused a settlement", 4)
    assert rig.spent_nano(rich) == 4 * await flight.bill() + rig.records(rich)[-1]["charge_nano"]
    assert rig.spent_nano(poor) == rig.held_nano(poor) == 0
    assert rig.balance_nano(poor) == 1000 * NANO_PER_CREDIT
    assert (await rig.chat(poor, flight.quick)).status == 200
    rig.reconcile()
