"""Owns the money rules, all of them, as one pure function: `decide(book, commands) -> Effects`. No database, no clock.

Amounts are nano-credits (integers). A transfer moves an amount from one account to another in one row, so the books
balance by construction. A customer's account has a `balance` and, inside it, what is `held` for running requests;
0 ≤ held ≤ balance always. System accounts store no balance: theirs is the sum of their transfers.

    hold:  open ── captured
             ├──── released
             └──── expired ── captured   (a late settlement, charged from what is available)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec

from models.errors import BadInput, Conflict, DomainError, InsufficientCredits, LedgerUnavailable, NotFound
from models.prices import credits_text

ISSUED, REVENUE, WRITEOFF, CASH = 1, 2, 3, 4
SYSTEM_ACCOUNTS = {ISSUED: "issued", REVENUE: "revenue", WRITEOFF: "writeoff", CASH: "cash"}
FIRST_CUSTOMER = 1001

OPEN, CAPTURED, RELEASED, EXPIRED = "open", "captured", "released", "expired"


# ── commands: what can be asked of the ledger ─────────────────────────────────────────────────────────────────────


class Place(msgspec.Struct, frozen=True):
    """Hold between `least_nano` and `most_nano`: as much of it as is available, or refuse below the least."""

    request_id: str
    account_id: int
    least_nano: int
    most_nano: int
    price_id: int
    epoch_id: int
    at_us: int


class Capture(msgspec.Struct, frozen=True):
    """End a hold by charging `charge_nano`. `usage` is the usage record's row without its two money columns."""

    request_id: str
    account_id: int
    charge_nano: int
    at_us: int
    usage: tuple[Any, ...] | None = None


class Release(msgspec.Struct, frozen=True):
    """End a hold without a charge: the request failed, or (`expired`) its worker died."""

    request_id: str
    account_id: int
    at_us: int
    usage: tuple[Any, ...] | None = None
    expired: bool = False


class Move(msgspec.Struct, frozen=True):
    """An operator's transfer: a grant, a refund, a correction. A debit takes at most what is available.

    `shortfall` says what happens when that is not enough: refuse, or take what is there and write off the rest.
    """

    debit_account: int
    credit_account: int
    amount_nano: int
    kind: str
    grant_key: str
    at_us: int
    note: str = ""
    operator: str = ""
    shortfall: Literal["refuse", "writeoff"] = "refuse"


Command: TypeAlias = Place | Capture | Release | Move


# ── outcomes: what became of each command ─────────────────────────────────────────────────────────────────────────


class Held(msgspec.Struct, frozen=True):
    amount_nano: int


class Settled(msgspec.Struct, frozen=True):
    """`charged_nano` was taken from the account, `writeoff_nano` could not be. `repeated`: it had been settled before."""

    charged_nano: int
    writeoff_nano: int
    repeated: bool = False


class Moved(msgspec.Struct, frozen=True):
    amount_nano: int
    writeoff_nano: int = 0
    repeated: bool = False


Outcome: TypeAlias = Held | Settled | Moved | DomainError


# ── the book: what decide needs to know, and what it changes ──────────────────────────────────────────────────────


class Purse(msgspec.Struct):
    """A customer's account inside one decision."""

    balance_nano: int
    held_nano: int

    @property
    def available_nano(self) -> int:
        return self.balance_nano - self.held_nano


class HoldState(msgspec.Struct):
    account_id: int
    amount_nano: int
    status: str
    charged_nano: int = 0
    writeoff_nano: int = 0


class HoldRow(msgspec.Struct, frozen=True):
    request_id: str
    account_id: int
    amount_nano: int
    price_id: int
    epoch_id: int
    at_us: int


class TransferRow(msgspec.Struct, frozen=True):
    debit_account: int
    credit_account: int
    amount_nano: int
    kind: str
    at_us: int
    request_id: str | None = None
    grant_key: str | None = None
    note: str = ""
    operator: str = ""


class Book(msgspec.Struct):
    """The touched accounts, the holds that the commands name, and the grants already made under their keys.

    `epochs` are those known to be open. None where nobody can end another's epoch: then none is looked at.
    """

    purses: dict[int, Purse] = {}
    holds: dict[str, HoldState] = {}
    grants: dict[str, TransferRow] = {}
    epochs: set[int] | None = None


class Effects(msgspec.Struct):
    """What must be stored, all in one commit, and the outcome of each command in its order."""

    outcomes: list[Outcome] = []
    holds: list[HoldRow] = []
    ends: dict[str, tuple[str, int, str]] = {}  # by request id: (status, ended_us, the status it had before)
    transfers: list[TransferRow] = []
    usages: list[tuple[Any, ...]] = []  # usage rows, ending with (charge_nano, writeoff_nano)
    late: set[str] = set()  # requests whose hold had expired: the day of their usage may be rolled up already
    touched: set[int] = set()


def decide(book: Book, commands: Iterable[Command]) -> Effects:
    """Decide every command in arrival order. `book` is changed as it goes; refusals change nothing.

    A command for an account or hold that the book does not know gets NotFound as its outcome.
    """
    effects = Effects()
    for command in commands:
        try:
            outcome = _RULES[type(command)](book, command, effects)
        except DomainError as refusal:
            outcome = refusal
        effects.outcomes.append(outcome)
    return effects


def _place(book: Book, command: Place, effects: Effects) -> Outcome:
    if not 0 <= command.least_nano <= command.most_nano:
        raise BadInput(f"a hold needs 0 <= least <= most, got {command.least_nano} and {command.most_nano}")
    known = book.holds.get(command.request_id)
    if known is not None:
        if known.status != OPEN:
            raise Conflict(f"request {command.request_id} was settled before it was placed")
        return Held(known.amount_nano)
    if book.epochs is not None and command.epoch_id not in book.epochs:
        # Recovery took this worker for dead, and nobody would give back what it holds now.
        return LedgerUnavailable("the epoch of this worker is over")
    purse = _purse(book, command.account_id)
    available = purse.available_nano
    if available < command.least_nano:
        return InsufficientCredits(
            "the balance does not cover this request", available_nano=available, needed_nano=command.least_nano
        )
    amount = min(command.most_nano, available)
    purse.held_nano += amount
    book.holds[command.request_id] = HoldState(command.account_id, amount, OPEN)
    effects.touched.add(command.account_id)
    effects.holds.append(
        HoldRow(command.request_id, command.account_id, amount, command.price_id, command.epoch_id, command.at_us)
    )
    return Held(amount)


def _capture(book: Book, command: Capture, effects: Effects) -> Outcome:
    if command.charge_nano < 0:
        raise BadInput(f"a charge cannot be negative, got {command.charge_nano}")
    hold = _hold(book, command.request_id)
    if hold.status in (CAPTURED, RELEASED):
        return Settled(hold.charged_nano, hold.writeoff_nano, repeated=True)
    purse = _purse(book, hold.account_id)
    if hold.status == OPEN:
        purse.held_nano -= hold.amount_nano
    else:
        effects.late.add(command.request_id)
    # After the hold is given back, what is available is the hold and everything else that nobody holds.
    taken = min(command.charge_nano, purse.available_nano)
    writeoff = command.charge_nano - taken
    purse.balance_nano -= taken
    effects.touched.add(hold.account_id)
    if taken:
        effects.transfers.append(
            TransferRow(hold.account_id, REVENUE, taken, "charge", command.at_us, request_id=command.request_id)
        )
    if writeoff:
        effects.transfers.append(
            TransferRow(WRITEOFF, REVENUE, writeoff, "writeoff", command.at_us, request_id=command.request_id)
        )
    _end(hold, CAPTURED, command, effects)
    hold.charged_nano, hold.writeoff_nano = taken, writeoff
    if command.usage is not None:
        effects.usages.append((*command.usage, taken, writeoff))
    return Settled(taken, writeoff)


def _release(book: Book, command: Release, effects: Effects) -> Outcome:
    hold = _hold(book, command.request_id)
    if hold.status != OPEN:
        return Settled(hold.charged_nano, hold.writeoff_nano, repeated=True)
    _purse(book, hold.account_id).held_nano -= hold.amount_nano
    effects.touched.add(hold.account_id)
    _end(hold, EXPIRED if command.expired else RELEASED, command, effects)
    if command.usage is not None:
        effects.usages.append((*command.usage, 0, 0))
    return Settled(0, 0)


def _end(hold: HoldState, status: str, command: Capture | Release, effects: Effects) -> None:
    *_, before = effects.ends.get(command.request_id, (hold.status,))
    effects.ends[command.request_id] = (status, command.at_us, before)
    hold.status = status


def _move(book: Book, command: Move, effects: Effects) -> Outcome:
    if command.amount_nano <= 0:
        raise BadInput(f"amount: must be above zero, got {command.amount_nano} nano-credits", field="credits")
    if command.debit_account == command.credit_account:
        raise BadInput("a transfer needs two different accounts")
    known = book.grants.get(command.grant_key)
    if known is not None:
        return _repeat(known, command)
    taken = command.amount_nano
    if command.debit_account not in SYSTEM_ACCOUNTS:
        purse = _purse(book, command.debit_account)
        taken = min(command.amount_nano, purse.available_nano)
        if taken < command.amount_nano and command.shortfall == "refuse":
            raise InsufficientCredits(
                f"credits: {credits_text(purse.available_nano)} are available, not {credits_text(command.amount_nano)};"
                ' take less, or write the rest off: shortfall="writeoff"',
                available_nano=purse.available_nano,
                needed_nano=command.amount_nano,
            )
    if command.credit_account not in SYSTEM_ACCOUNTS:
        _purse(book, command.credit_account)
    for account, amount in ((command.debit_account, -taken), (command.credit_account, command.amount_nano)):
        if account not in SYSTEM_ACCOUNTS:
            book.purses[account].balance_nano += amount
            effects.touched.add(account)
    writeoff = command.amount_nano - taken
    rows: list[tuple[int, int, str, str | None]] = []
    if taken:
        rows.append((command.debit_account, taken, command.kind, command.grant_key))
    if writeoff:
        rows.append((WRITEOFF, writeoff, "writeoff", None if taken else command.grant_key))
    for debit, amount, kind, grant_key in rows:
        row = TransferRow(
            debit,
            command.credit_account,
            amount,
            kind,
            command.at_us,
            grant_key=grant_key,
            note=command.note,
            operator=command.operator,
        )
        effects.transfers.append(row)
        if grant_key is not None:
            book.grants[grant_key] = row
    return Moved(taken, writeoff)


def _repeat(known: TransferRow, command: Move) -> Moved:
    """The same grant key twice is one grant; the same key for something else is a mistake that must be heard."""
    same = known.credit_account == command.credit_account and known.debit_account in (command.debit_account, WRITEOFF)
    whole = known.amount_nano == command.amount_nano
    if same and (whole or (command.shortfall == "writeoff" and known.amount_nano < command.amount_nano)):
        taken = 0 if known.debit_account == WRITEOFF else known.amount_nano
        return Moved(taken, command.amount_nano - taken, repeated=True)
    raise Conflict(
        f"grant_key {command.grant_key!r} was already used for another transfer; choose a new key", field="grant_key"
    )


def _purse(book: Book, account_id: int) -> Purse:
    try:
        return book.purses[account_id]
    except KeyError:
        raise NotFound(f"there is no customer account {account_id}") from None


def _hold(book: Book, request_id: str) -> HoldState:
    try:
        return book.holds[request_id]
    except KeyError:
        raise NotFound(f"there is no hold for request {request_id}") from None


_RULES: dict[type[Any], Any] = {Place: _place, Capture: _capture, Release: _release, Move: _move}
