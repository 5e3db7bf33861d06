"""Moves of credits above a bound wait for a second operator, whoever asks and however: desk, file or script."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest

import ops
from models.credits import grant
from models.database import open_database, parse_url
from tests.models.shop import sqlite_only

ADA = "ada@example.com"
CREDIT = 10**9


@pytest.fixture(autouse=True)
def bound(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there is the business, in which Ada was given more than that."""
    monkeypatch.setenv("OPS_APPROVAL_ABOVE", "500")


@pytest.fixture
def second(address: str, bound: None) -> Iterator[ops.Desk]:
    with ops.connect(address, operator="otto") as opened:
        yield opened


def balance(desk: ops.Desk) -> int:
    return int(desk.accounts.balances().set_index("email").loc[ADA, "balance_nano"])


def ask(desk: ops.Desk, credits: str = "500.000000001", key: str = "large") -> int:
    asked = desk.credits.grant(ADA, credits=credits, reason="a large gift", grant_key=key)
    assert asked.approval_id is not None
    return asked.approval_id


def test_a_grant_above_the_bound_moves_nothing_until_another_operator_approves(
    desk: ops.Desk, second: ops.Desk
) -> None:
    exactly = desk.credits.grant(ADA, credits="500", reason="a gift", grant_key="at-the-bound")
    assert (exactly.approval_id, balance(desk)) == (None, 1_500 * CREDIT)
    asked = desk.credits.grant(ADA, credits="501", reason="a large gift", grant_key="large")
    assert (asked.amount_nano, asked.repeated, balance(desk)) == (0, False, 1_500 * CREDIT)
    (row,) = second.credits.waiting().to_dict("records")
    assert (row["id"], row["account"], str(row["credits"]), row["requested_by"]) == (
        asked.approval_id, ADA, "501", "olga"
    )  # fmt: skip
    done = second.credits.approve(row["id"], reason="as agreed")
    assert (done.amount_nano, done.repeated, balance(desk)) == (501 * CREDIT, False, 2_001 * CREDIT)
    assert len(second.credits.waiting()) == 0
    (past,) = second.credits.waiting(history=True).to_dict("records")
    assert (past["decision"], past["decided_by"], past["decided_reason"]) == ("approved", "otto", "as agreed")
    assert desk.reconcile()["ok"].all()


def test_asking_and_approving_twice_is_once(desk: ops.Desk, second: ops.Desk) -> None:
    waiting = ask(desk)
    again = desk.credits.grant(ADA, credits="500.000000001", reason="a large gift", grant_key="large")
    assert (again.approval_id, again.repeated) == (waiting, True)
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: second.credits.approve(waiting, reason="as agreed"), range(8)))
    assert [one.repeated for one in done].count(False) == 1
    assert balance(desk) == 1_500 * CREDIT + 1
    after = desk.credits.grant(ADA, credits="500.000000001", reason="a large gift", grant_key="large")
    assert (after.repeated, after.approval_id, after.amount_nano) == (True, None, 500 * CREDIT + 1)
    assert list(desk.audit.rows(action="credits", limit=2)["action"]) == ["credits.ask", "credits.approve"]


@pytest.mark.parametrize("name", ["olga", "OLGA", " Olga "])
def test_nobody_approves_their_own(desk: ops.Desk, address: str, name: str) -> None:
    waiting = ask(desk)
    with ops.connect(address, operator=name) as same, pytest.raises(ops.BadInput, match="another operator") as refusal:
        same.credits.approve(waiting, reason="trust me")
    assert refusal.value.field == "operator"
    assert balance(desk) == 1_000 * CREDIT
    assert len(desk.credits.waiting()) == 1


def test_what_was_refused_stays_refused(desk: ops.Desk, second: ops.Desk) -> None:
    waiting = ask(desk)
    for _ in range(2):
        assert second.credits.refuse(waiting, reason="too much").decision == "refused"
    with pytest.raises(ops.Conflict, match="refused"):
        second.credits.approve(waiting, reason="or not")
    with pytest.raises(ops.Conflict, match=r"refused by otto \(too much\)"):
        ask(desk)
    assert balance(desk) == 1_000 * CREDIT
    assert desk.credits.refuse(ask(desk, key="mine"), reason="a slip of mine").decided_by == "olga"
    approved = ask(desk, key="another")
    second.credits.approve(approved, reason="as agreed")
    with pytest.raises(ops.Conflict, match="take the credits back"):
        second.credits.refuse(approved, reason="too late")


def test_a_key_that_waits_stands_for_nothing_else(desk: ops.Desk, second: ops.Desk) -> None:
    ask(desk)
    desk.accounts.create("bob@example.com")
    for email, credits in ((ADA, "5"), (ADA, "600"), ("bob@example.com", "500.000000001")):
        with pytest.raises(ops.Conflict, match="large"):
            desk.credits.grant(email, credits=credits, reason="another", grant_key="large")
    with pytest.raises(ops.Conflict, match="welcome-ada"):
        desk.credits.grant(ADA, credits="600", reason="another", grant_key="welcome-ada")
    assert desk.credits.grant(ADA, credits="1000", reason="welcome", grant_key="welcome-ada").repeated
    assert len(second.credits.waiting()) == 1


def test_a_debit_waits_too_and_takes_what_is_there_when_it_is_approved(desk: ops.Desk, second: ops.Desk) -> None:
    asked = desk.credits.take_back(
        ADA, credits="1200", reason="dispute", grant_key="d-1", kind="dispute", shortfall="writeoff"
    )
    strict = desk.credits.take_back(ADA, credits="1200", reason="dispute", grant_key="d-2", kind="dispute")
    assert list(second.credits.waiting()["amount_nano"]) == [-1_200 * CREDIT] * 2
    assert asked.approval_id is not None
    assert strict.approval_id is not None
    with pytest.raises(ops.InsufficientCredits):
        second.credits.approve(strict.approval_id, reason="as agreed")
    assert (balance(desk), len(second.credits.waiting())) == (1_000 * CREDIT, 2)
    done = second.credits.approve(asked.approval_id, reason="as agreed")
    assert (done.amount_nano, done.writeoff_nano, balance(desk)) == (1_000 * CREDIT, 200 * CREDIT, 0)


def test_a_script_that_goes_past_the_desk_is_bound_as_well(desk: ops.Desk, address: str) -> None:
    async def script() -> int | None:
        async with open_database(parse_url(address)) as database:
            return (await grant(database, "olga", ADA, 501 * CREDIT, "quick", "quick")).approval_id

    assert asyncio.run(script()) is not None
    assert balance(desk) == 1_000 * CREDIT


def test_lines_of_a_file_above_the_bound_wait(desk: ops.Desk, second: ops.Desk) -> None:
    file = pd.DataFrame({"email": [ADA, ADA], "credits": ["501", "2"], "grant_key": ["f-1", "f-2"]})
    preview = desk.credits.grants_from(file)
    assert list(preview.rows["status"]) == ["needs approval", "new"]
    done = preview.grant(reason="spring")
    assert (done.granted, done.waiting, done.amount_nano) == (1, 1, 2 * CREDIT)
    assert list(desk.credits.grants_from(file).rows["status"]) == ["waits for approval", "done before"]
    second.credits.approve(int(second.credits.waiting()["id"][0]), reason="as agreed")
    assert list(desk.credits.grants_from(file).rows["status"]) == ["done before", "done before"]
    assert balance(desk) == 1_503 * CREDIT
    assert (preview.grant(reason="spring").done_before, balance(desk)) == (2, 1_503 * CREDIT)


@sqlite_only
@pytest.mark.parametrize(
    ("id_", "reason", "field"), [(99, "why", "id"), ("1", "why", "id"), (True, "why", "id"), (1, " ", "reason")]
)
def test_a_bad_decision_changes_nothing(desk: ops.Desk, second: ops.Desk, id_: Any, reason: str, field: str) -> None:
    ask(desk)
    for decide in (second.credits.approve, second.credits.refuse):
        with pytest.raises(ops.BadInput) as refusal:
            decide(id_, reason=reason)
        assert refusal.value.field == field
    assert (balance(desk), len(desk.credits.waiting())) == (1_000 * CREDIT, 1)


@sqlite_only
@pytest.mark.parametrize("setting", ["many", "-1", "1.0000000001", "5,000"])
def test_a_bound_that_nobody_understands_stops_the_desk(
    address: str, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("OPS_APPROVAL_ABOVE", setting)
    with pytest.raises(ops.SetupError, match="OPS_APPROVAL_ABOVE"):
        ops.connect(address)
