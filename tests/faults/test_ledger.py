"""The books under attack: writes that fail, a locked or corrupt database, two writers, a notebook beside the load."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.database import parse_url
from models.errors import BadInput
from models.ids import new_request_id, now_us
from models.ledger import Ledger
from models.money import Capture, Command, Held, Place, Release, Settled
from models.postgres_ledger import PostgresLedger
from models.prices import NANO_PER_CREDIT
from models.sqlite_ledger import SqliteLedger
from tests.faults.books import PRICE, aliases, leave_after, logged, metric, record_of
from tests.faults.outages import InFlight
from tests.faults.wire import CHAT, chat_body
from tests.rig import Customer, Rig, client, start_rig


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A gateway of its own: what is done to its database here would hurt the tests that share one."""
    with start_rig(tmp_path_factory.mktemp("storm")) as running:
        yield running
        running.reconcile()


def database_of(rig: Rig) -> Path:
    return Path(rig.database_url.removeprefix("sqlite://"))


@contextlib.contextmanager
def open_database(rig: Rig) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(database_of(rig), timeout=10, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def account_id(rig: Rig, customer: Customer) -> int:
    balances = rig.desk.accounts.balances()
    return int(balances[balances["email"] == customer.email].iloc[0]["account_id"])


async def until_metric(rig: Rig, name: str, above: float) -> None:
    async with asyncio.timeout(15):
        while await metric(rig, name) <= above:
            await asyncio.sleep(0.02)


# ── writes that fail ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.only("sqlite")
async def test_a_settlement_is_repeated_after_a_failure_of_any_of_its_writes_and_counts_once(storm: Rig) -> None:
    """Faults 25: each table in turn is away when the settlements come; nothing of a failed attempt stays behind."""
    for table in ("hold", "transfer", "usage", "account"):
        flight = InFlight(storm)
        ada = flight.customer()
        await flight.begin([ada], 4)
        failures = await metric(storm, "gateway_ledger_retries_total")
        with open_database(storm) as database:
            database.execute(f'ALTER TABLE "{table}" RENAME TO "{table}_away"')
            await flight.release()
            await until_metric(storm, "gateway_ledger_retries_total", failures)
            assert not any(call.done() for call in flight.calls)
            database.execute(f'ALTER TABLE "{table}_away" RENAME TO "{table}"')
        answers = await asyncio.gather(*flight.calls)
        assert {answer.status for answer in answers} == {200}
        charges = [record_of(storm, ada, answer)["charge_nano"] for answer in answers]
        assert charges == [await flight.bill()] * 4
        assert storm.spent_nano(ada) == sum(charges)
        assert storm.held_nano(ada) == 0
    storm.reconcile()


@pytest.mark.only("sqlite")
async def test_while_the_database_is_locked_new_requests_get_503_and_settlements_wait(storm: Rig) -> None:
    """Faults 25 and 32: somebody holds the write lock for longer than anyone waits for it; some clients give up."""
    flight = InFlight(storm)
    ada = flight.customer()
    await flight.begin([ada], 8)
    with open_database(storm) as database:
        database.execute("BEGIN IMMEDIATE")
        refused = asyncio.create_task(storm.chat(ada, flight.quick))
        gone = asyncio.create_task(leave_after(storm, ada, flight.quick, 0.3))
        await until_metric(storm, "gateway_requests_running", 9)
        await flight.release()
        answer = await refused
        assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
        await gone
        # They were served, and wait for their money to be moved; half of the clients lose patience.
        for call in flight.calls[::2]:
            call.cancel()
        await asyncio.wait(flight.calls[::2])
        assert not any(call.done() for call in flight.calls[1::2])
        database.execute("ROLLBACK")
    for answer in await asyncio.gather(*flight.calls[1::2]):
        assert answer.status == 200
    await storm.settled(ada, records=8)
    assert [record["charge_nano"] for record in storm.records(ada)] == [await flight.bill()] * 8
    assert storm.spent_nano(ada) == 8 * await flight.bill()
    # Neither of the two that came meanwhile was let through, or left anything held.
    assert (await storm.chat(ada, flight.quick)).status == 200
    assert len(storm.records(ada)) == 9
    storm.reconcile()


@pytest.mark.only("sqlite")
@pytest.mark.parametrize("quarantine", ["takes it", "is broken"])
async def test_one_corrupt_account_stops_nobody_else_from_being_billed(storm: Rig, quarantine: str) -> None:
    """Faults 34: its settlements go into quarantine, everybody else's in the same batch are stored."""
    flight = InFlight(storm)
    rich, poor = flight.customer(), flight.customer()
    before = await metric(storm, "gateway_quarantined_total")
    corrupt = account_id(storm, poor)
    await flight.begin([rich, poor], 8)
    with open_database(storm) as database:
        if quarantine == "is broken":
            database.execute(
                "CREATE TRIGGER full BEFORE INSERT ON quarantine BEGIN SELECT RAISE(ABORT, 'quarantine is full'); END"
            )
        # Holding the lock gathers their settlements into one batch.
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE account SET balance_nano = 'corrupt' WHERE id = ?", [corrupt])
        await flight.release()
        await storm.provider.wait(flight.upstream, count=8, state="served")
        database.execute("COMMIT")
        answers = await asyncio.gather(*flight.calls)
        whole = [answer.status == 200 and b'"error"' not in answer.body for answer in answers]
        assert whole == [True, False] * 4
        assert (await storm.chat(rich, flight.quick)).status == 200
        refused = await storm.chat(poor, flight.quick)
        assert (refused.status, refused.error["code"]) == (503, "service_unavailable")
        assert await metric(storm, "gateway_quarantined_total") == before + 4
        # A person repairs the row from its transfers, and looks at what is in quarantine.
        database.execute("UPDATE account SET balance_nano = ? WHERE id = ?", [1000 * NANO_PER_CREDIT, corrupt])
        kept = [row[0] for row in database.execute("SELECT command FROM quarantine WHERE closed_us IS NULL")]
        if quarantine == "takes it":
            assert len(kept) == 4
            assert all(command.startswith("Capture") for command in kept)
            checked = storm.run("reconcile")
            assert checked.returncode == 1
            assert "4 settlements in quarantine" in checked.stdout
            assert storm.run("quarantine").stdout.count("Capture {") == 4
            for (number,) in database.execute("SELECT id FROM quarantine").fetchall():
                told = ("--reason", "the client saw an error")
                retried = storm.run("quarantine", "--retry", str(number), *told)
                assert (retried.returncode, "went back to its account" in retried.stderr) == (2, True)
                assert storm.run("quarantine", "--close", str(number), *told).stdout == f"{number} is closed\n"
            assert storm.run("quarantine").stdout == "nothing is in quarantine\n"
        else:
            assert kept == []
            database.execute("DROP TRIGGER full")
            await logged(storm, "the quarantine refused a settlement", 4)
    assert storm.spent_nano(rich) == 4 * await flight.bill() + storm.records(rich)[-1]["charge_nano"]
    assert storm.spent_nano(poor) == storm.held_nano(poor) == 0
    assert (await storm.chat(poor, flight.quick)).status == 200
    storm.reconcile()


# ── more than one writer ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_notebook_grants_a_hundred_times_while_thirty_two_clients_are_served(rig: Rig) -> None:
    """Faults 37: none of the writes fails, and every one of them counts."""
    [alias] = aliases(rig, "sim:words=2,calls=off")
    ada, bob = rig.customer(models=[alias]), rig.customer(models=[alias], credits="0")
    granted = asyncio.Event()

    async def ask_on() -> list[int]:
        statuses = []
        headers = {**ada.headers, "Content-Type": "application/json"}
        async with client() as session:
            while not granted.is_set():
                async with session.post(rig.url + CHAT, data=chat_body(alias), headers=headers) as response:
                    await response.read()
                    statuses.append(response.status)
        return statuses

    def grant() -> list[bool]:
        with rig.connect("notebook") as desk:
            grants = [
                desk.credits.grant(bob.email, credits="0.5", reason="load", grant_key=f"{bob.email}-{n}")
                for n in range(100)
            ]
            return [grant.repeated for grant in grants]

    asking = [asyncio.create_task(ask_on()) for _ in range(32)]
    try:
        assert await asyncio.to_thread(grant) == [False] * 100
    finally:
        granted.set()
    statuses = [status for each in await asyncio.gather(*asking) for status in each]
    assert set(statuses) == {200}
    assert len(statuses) >= 32
    assert rig.balance_nano(bob) == 50 * NANO_PER_CREDIT
    assert rig.spent_nano(ada) == sum(record["charge_nano"] for record in rig.records(ada, "served"))
    rig.reconcile()


def ledger_of(rig: Rig) -> Ledger:
    """Another writer beside the server's."""
    url = parse_url(rig.database_url)
    return PostgresLedger(url) if url.path is None else SqliteLedger(url.path)


class Clerk:
    """Places and settles by hand, beside the server, with all that a usage record needs."""

    def __init__(self, rig: Rig, customer: Customer, alias: str) -> None:
        self.account = account_id(rig, customer)
        self.key = customer.key_id
        [(self.model, self.price)] = rig.sql(
            "SELECT m.id, p.id FROM model m JOIN price p ON p.model_id = m.id WHERE m.alias = ?", alias
        )
        [(self.route,)] = rig.sql("SELECT id FROM route WHERE model_id = ?", self.model)
        [(self.epoch,)] = rig.sql("SELECT MAX(id) FROM epoch")

    def place(self) -> Place:
        at_us = now_us()
        amount = PRICE.charge_nano(output=100)
        return Place(new_request_id(at_us), self.account, amount, amount, self.price, self.epoch, at_us)

    def capture(self, place: Place, tokens: int) -> Capture:
        usage: tuple[Any, ...] = (
            place.request_id,
            place.at_us,
            self.account,
            self.key,
            self.model,
            self.route,
            self.price,
        )
        usage += ("served", False, False, 0, 0, 0, tokens, 1, 2, 0, "[]")
        charge = PRICE.charge_nano(output=tokens) if tokens >= 0 else tokens
        return Capture(place.request_id, self.account, charge, now_us(), usage)

    def release(self, place: Place) -> Release:
        return Release(place.request_id, self.account, now_us())


async def test_settling_and_releasing_race_and_one_of_them_counts(storm: Rig) -> None:
    """Faults 28: one way out of `open`, whoever comes first, in one batch or from two writers; less than 0 is refused."""
    [alias] = aliases(storm, "sim:words=3,tag=raced")
    ada = storm.customer(models=[alias])
    clerk, chance = Clerk(storm, ada, alias), random.Random(28)
    one, two = (ledger_of(storm) for _ in range(2))
    places = [clerk.place() for _ in range(60)]
    assert all(isinstance(held, Held) for held in await one.apply(places))
    assert all(isinstance(refused, BadInput) for refused in await two.apply([clerk.capture(p, -1) for p in places]))
    assert storm.held_nano(ada) == 60 * PRICE.charge_nano(output=100)

    batches: list[list[Command]] = [[], [], [], []]
    for place in places:
        commands: list[Command] = [clerk.capture(place, 7), clerk.release(place), clerk.capture(place, 9)]
        chance.shuffle(commands)
        for command in commands:
            chance.choice(batches).append(command)
    outcomes = await asyncio.gather(*(ledger.apply(b) for ledger, b in zip([one, two, one, two], batches, strict=True)))
    settled = [outcome for batch in outcomes for outcome in batch]
    assert all(isinstance(outcome, Settled) for outcome in settled)
    assert sum(not outcome.repeated for outcome in settled if isinstance(outcome, Settled)) == 60
    again = await one.apply([command for batch in batches for command in batch])
    assert all(isinstance(outcome, Settled) and outcome.repeated for outcome in again)

    by_status = "SELECT status, COUNT(*) FROM hold WHERE account_id = ? GROUP BY status"
    statuses = dict(storm.sql(by_status, clerk.account))
    taken = storm.sql("SELECT amount_nano FROM transfer WHERE debit_account = ?", clerk.account)
    assert set(statuses) == {"captured", "released"}
    assert len(taken) == statuses["captured"]
    assert storm.spent_nano(ada) == sum(amount for (amount,) in taken)
    assert storm.held_nano(ada) == 0
    await one.close()
    await two.close()
    storm.reconcile()
