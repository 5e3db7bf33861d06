"""The money rules: random histories never break the books, and each rule says what it takes and what it leaves."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from models.errors import BadInput, Conflict, DomainError, InsufficientCredits
from models.money import (
    CAPTURED,
    ISSUED,
    OPEN,
    REVENUE,
    SYSTEM_ACCOUNTS,
    WRITEOFF,
    Book,
    Capture,
    Command,
    Effects,
    Held,
    HoldState,
    Move,
    Moved,
    Outcome,
    Place,
    Purse,
    Release,
    Settled,
    TransferRow,
    decide,
)
from models.prices import Meters, Rates

CUSTOMERS = (1001, 1002, 1003)


class Tables:
    """What a database would keep: it learns only from effects, as the real one does."""

    def __init__(self) -> None:
        self.purses = {account: Purse(0, 0) for account in CUSTOMERS}
        self.holds: dict[str, HoldState] = {}
        self.transfers: list[TransferRow] = []

    def apply(self, commands: list[Command]) -> tuple[list[Outcome], Effects]:
        book = Book(
            {id_: Purse(purse.balance_nano, purse.held_nano) for id_, purse in self.purses.items()},
            {id_: HoldState(*self._hold(id_)) for id_ in self.holds},
            {row.grant_key: row for row in self.transfers if row.grant_key is not None},
        )
        effects = decide(book, commands)
        for row in effects.holds:
            assert row.request_id not in self.holds
            self.holds[row.request_id] = HoldState(row.account_id, row.amount_nano, OPEN)
        for request_id, (status, _, before) in effects.ends.items():
            assert self.holds[request_id].status == before
            self.holds[request_id].status = status
        self.transfers += effects.transfers
        for account in effects.touched:
            self.purses[account] = book.purses[account]
        return effects.outcomes, effects

    def taken(self, request_id: str, kind: str) -> list[int]:
        return [row.amount_nano for row in self.transfers if row.request_id == request_id and row.kind == kind]

    def moved(self, account: int) -> int:
        gained = sum(row.amount_nano for row in self.transfers if row.credit_account == account)
        return gained - sum(row.amount_nano for row in self.transfers if row.debit_account == account)

    def _hold(self, request_id: str) -> tuple[int, int, str, int, int]:
        hold = self.holds[request_id]
        charged, writeoff = sum(self.taken(request_id, "charge")), sum(self.taken(request_id, "writeoff"))
        return hold.account_id, hold.amount_nano, hold.status, charged, writeoff


requests = st.integers(1, 12).map(lambda n: f"request-{n}")
amounts = st.one_of(st.integers(-2, 60), st.sampled_from([10**12, 2**62]))
customers = st.sampled_from(CUSTOMERS)


def _owner(request_id: str) -> int:
    """A request id is made for one account."""
    return CUSTOMERS[int(request_id.split("-")[1]) % len(CUSTOMERS)]


places = st.builds(
    lambda id_, least, more: Place(id_, _owner(id_), least, least + more, 1, 1, 1), requests, amounts, amounts
)
captures = st.builds(lambda id_, charge: Capture(id_, _owner(id_), charge, 2), requests, amounts)
releases = st.builds(lambda id_, expired: Release(id_, _owner(id_), 2, expired=expired), requests, st.booleans())
grants = st.builds(
    lambda account, amount, key: Move(ISSUED, account, amount, "grant", f"grant-{key}", 3),
    customers,
    st.integers(-1, 200),
    st.integers(1, 30),
)
debits = st.builds(
    lambda account, amount, key, shortfall: Move(
        account, ISSUED, amount, "refund", f"back-{key}", 3, shortfall=shortfall
    ),
    customers,
    st.integers(-1, 200),
    st.integers(1, 30),
    st.sampled_from(["refuse", "writeoff"]),
)


class MoneyMachine(RuleBasedStateMachine):
    """Any history of holds, settlements and grants, in batches of any mix."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = Tables()
        self.asked: dict[str, int] = {}

    @initialize(amount=st.integers(0, 300))
    def begin_with_some_credit(self, amount: int) -> None:
        if amount:
            self.tables.apply([Move(ISSUED, CUSTOMERS[0], amount, "grant", "first", 1)])

    @rule(commands=st.lists(st.one_of(places, places, captures, releases, grants, debits), min_size=1, max_size=5))
    def apply(self, commands: list[Command]) -> None:
        outcomes, _ = self.tables.apply(commands)
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(command, Capture) and isinstance(outcome, Settled) and not outcome.repeated:
                assert command.request_id not in self.asked
                self.asked[command.request_id] = command.charge_nano
                assert outcome.charged_nano + outcome.writeoff_nano == command.charge_nano

    @rule(command=st.one_of(captures, releases, grants))
    def do_it_twice(self, command: Command) -> None:
        self.apply([command])
        before = len(self.tables.transfers)
        (again,), effects = self.tables.apply([command])
        assert isinstance(again, DomainError) or again.repeated  # type: ignore[union-attr]
        assert len(self.tables.transfers) == before
        assert effects == Effects(outcomes=[again])

    @invariant()
    def all_balances_add_up_to_zero(self) -> None:
        system = sum(self.tables.moved(account) for account in SYSTEM_ACCOUNTS)
        assert system + sum(purse.balance_nano for purse in self.tables.purses.values()) == 0

    @invariant()
    def every_account_is_the_sum_of_its_rows(self) -> None:
        for account, purse in self.tables.purses.items():
            mine = [hold for hold in self.tables.holds.values() if hold.account_id == account and hold.status == OPEN]
            assert purse.balance_nano == self.tables.moved(account)
            assert purse.held_nano == sum(hold.amount_nano for hold in mine)
            assert 0 <= purse.held_nano <= purse.balance_nano

    @invariant()
    def a_captured_hold_has_its_one_charge_and_no_other_has_any(self) -> None:
        for request_id, hold in self.tables.holds.items():
            charges, writeoffs = self.tables.taken(request_id, "charge"), self.tables.taken(request_id, "writeoff")
            if hold.status == CAPTURED:
                assert len(charges) <= 1
                assert len(writeoffs) <= 1
                assert sum(charges) + sum(writeoffs) == self.asked[request_id]
            else:
                assert charges == writeoffs == []


TestMoney = MoneyMachine.TestCase
TestMoney.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


def book(balance: int = 100, held: int = 0) -> Book:
    return Book({1001: Purse(balance, held)})


def one(book: Book, command: Command) -> Outcome:
    return decide(book, [command]).outcomes[0]


def place(least: int, most: int | None = None, request_id: str = "r") -> Place:
    return Place(request_id, 1001, least, least if most is None else most, 1, 1, 1)


def test_a_second_hold_is_refused_when_the_credit_is_already_held() -> None:
    outcomes = decide(book(100), [place(60, request_id="a"), place(60, request_id="b")]).outcomes
    assert outcomes[0] == Held(60)
    assert isinstance(outcomes[1], InsufficientCredits)
    assert (outcomes[1].available_nano, outcomes[1].needed_nano) == (40, 60)


def test_a_large_request_in_a_batch_does_not_make_small_ones_fail() -> None:
    outcomes = decide(
        book(100), [place(50, request_id="a"), place(1_000, request_id="b"), place(50, request_id="c")]
    ).outcomes
    assert [type(outcome) for outcome in outcomes] == [Held, InsufficientCredits, Held]


def test_a_hold_takes_what_is_there_when_it_may_so_the_last_credit_can_be_spent() -> None:
    assert one(book(100), place(10, 1_000)) == Held(100)


def test_a_free_request_is_admitted_at_balance_zero() -> None:
    assert one(book(0), place(0)) == Held(0)


def test_a_charge_above_the_hold_takes_what_is_available_and_writes_off_the_rest() -> None:
    effects = decide(book(100), [place(30), Capture("r", 1001, 130, 2)])
    assert effects.outcomes[1] == Settled(100, 30)
    assert [(row.debit_account, row.credit_account, row.amount_nano) for row in effects.transfers] == [
        (1001, REVENUE, 100),
        (WRITEOFF, REVENUE, 30),
    ]


def test_a_charge_never_takes_what_another_request_holds() -> None:
    effects = decide(book(100), [place(30, request_id="a"), place(60, request_id="b"), Capture("a", 1001, 100, 2)])
    assert effects.outcomes[2] == Settled(40, 60)


def test_a_settlement_after_the_hold_expired_is_charged_once_from_what_is_available() -> None:
    steps = [place(30), Release("r", 1001, 2, expired=True), Capture("r", 1001, 30, 3), Capture("r", 1001, 30, 4)]
    outcomes = decide(book(100), steps).outcomes
    assert outcomes[2] == Settled(30, 0)
    assert outcomes[3] == Settled(30, 0, repeated=True)


def test_a_released_hold_cannot_be_charged_any_more() -> None:
    effects = decide(book(100), [place(30), Release("r", 1001, 2), Capture("r", 1001, 30, 3)])
    assert effects.outcomes[2] == Settled(0, 0, repeated=True)
    assert effects.transfers == []


def test_a_negative_charge_is_refused() -> None:
    assert isinstance(decide(book(100), [place(30), Capture("r", 1001, -1, 2)]).outcomes[1], BadInput)


def test_a_grant_key_used_for_something_else_is_a_conflict() -> None:
    outcomes = decide(book(0), [Move(ISSUED, 1001, amount, "grant", "key", 1) for amount in (5, 5, 6)]).outcomes
    assert outcomes[0] == Moved(5)
    assert outcomes[1] == Moved(5, repeated=True)
    assert isinstance(outcomes[2], Conflict)


@pytest.mark.parametrize(("shortfall", "expected"), [("refuse", InsufficientCredits), ("writeoff", Moved)])
def test_a_debit_takes_at_most_what_is_available(shortfall: str, expected: type) -> None:
    purse = book(100, held=40)
    outcome = one(purse, Move(1001, ISSUED, 80, "refund", "key", 1, shortfall=shortfall))  # type: ignore[arg-type]
    assert isinstance(outcome, expected)
    assert purse.purses[1001].balance_nano == (100 if shortfall == "refuse" else 40)


def test_a_million_requests_of_one_token_cost_what_one_of_a_million_does() -> None:
    rates = Rates(fresh=27_000, cached=7_000, written=33_750, output=110_000)
    small, large = Meters(1, 1, 1, 1), Meters(10**6, 10**6, 10**6, 10**6)
    purse = book(10**15)
    commands: list[Command] = []
    for n in range(1_000):
        commands += [
            place(rates.charge_nano(small), request_id=str(n)),
            Capture(str(n), 1001, rates.charge_nano(small), 2),
        ]
    decide(purse, commands)
    assert (10**15 - purse.purses[1001].balance_nano) * 1_000 == rates.charge_nano(large)
    assert sum(rates.charge_nano(small) for _ in range(10**6)) == rates.charge_nano(large)
