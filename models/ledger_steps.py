"""Owns the sequence of one batch: what is read, in which order, before `decide`; what is stored after it. No input, no output.

It is a generator: it yields what it wants read or stored and receives rows. Who drives it (`sqlite_ledger.py`,
`postgres_ledger.py`, `ledger.py`) knows a database's words for that, and owns the transaction around it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

import msgspec

from models.ids import DAY_US
from models.money import OPEN, Book, Command, Effects, HoldState, Move, Outcome, Place, Purse, TransferRow, decide

USAGE_COLUMNS = (
    "request_id, at_us, account_id, key_id, model_id, route_id, price_id, outcome, streamed, estimated, fresh_tokens,"
    " cached_tokens, cache_write_tokens, output_tokens, first_byte_ms, total_ms, cost_nano, attempts"
)

# What a row of `usage_day` has: what its records have in common, and their sums.
DAY_GROUP = ("day_us", "account_id", "key_id", "model_id", "route_id", "outcome", "estimated")
DAY_SUMS = (
    *("requests", "fresh_tokens", "cached_tokens", "cache_write_tokens", "output_tokens"),
    *("charge_nano", "writeoff_nano", "cost_nano", "first_byte_ms", "total_ms"),
)

DAY_COLUMNS = ", ".join((*DAY_GROUP, *DAY_SUMS))


class LoadAccounts(msgspec.Struct, frozen=True):
    """Rows `(id, balance_nano, held_nano)`, locked in the order of ids; and of epochs that are open `(-id, 0, 0)`."""

    accounts: list[int]
    epochs: list[int]


class LoadHolds(msgspec.Struct, frozen=True):
    """Rows `(request_id, account_id, amount_nano, status)`."""

    requests: list[str]


class LoadTaken(msgspec.Struct, frozen=True):
    """Rows `(request_id, kind, amount_nano)` of the transfers of requests."""

    requests: list[str]


class LoadGrants(msgspec.Struct, frozen=True):
    """Rows `(debit_account, credit_account, amount_nano, kind, at_us, grant_key)`."""

    keys: list[str]


class Store(msgspec.Struct, frozen=True):
    """No rows. All of it, or an error; `purses` are rows `(balance_nano, held_nano, id)`."""

    effects: Effects
    purses: list[tuple[int, int, int]]


class AddToDays(msgspec.Struct, frozen=True):
    """No rows. Whoever rolls up a day begins anew, and those of these `usage_day` rows whose day is rolled up are stored."""

    rows: list[tuple[Any, ...]]


Step: TypeAlias = LoadAccounts | LoadHolds | LoadTaken | LoadGrants | Store | AddToDays
Steps: TypeAlias = Generator[Step, Sequence[Any], list[Outcome]]


def steps(book: Book, commands: Sequence[Command], *, repeated: bool = False) -> Steps:
    """Everything that one batch does inside its transaction. What `book` knows already is not read again.

    `repeated`: these commands may have been stored before, so a hold to be placed may stand there already.
    """
    ended = yield from _load(book, commands, repeated)
    effects = decide(book, commands)
    purses = book.purses
    touched = [(purses[id_].balance_nano, purses[id_].held_nano, id_) for id_ in sorted(effects.touched)]
    if touched or effects.transfers or effects.usages or effects.ends:
        yield Store(effects, touched)
    if effects.late and (days := [_day_row(usage) for usage in effects.usages if usage[0] in effects.late]):
        yield AddToDays(days)
    # Only open holds are worth remembering.
    for request_id in (*effects.ends, *ended):
        book.holds.pop(request_id, None)
    return effects.outcomes


def _load(book: Book, commands: Sequence[Command], repeated: bool) -> Generator[Step, Sequence[Any], list[str]]:
    """What the commands are about. Returns the requests among them whose hold has ended before."""
    ended: list[str] = []
    accounts: set[int] = set()
    epochs: set[int] = set()
    requests: list[str] = []
    grants: list[str] = []
    for command in commands:
        if isinstance(command, Move):
            accounts.update((command.debit_account, command.credit_account))
            grants.append(command.grant_key)
            continue
        accounts.add(command.account_id)
        if isinstance(command, Place):
            epochs.add(command.epoch_id)
            if not repeated:
                continue
        if command.request_id not in book.holds:
            requests.append(command.request_id)
    unknown = sorted(accounts.difference(book.purses))
    lost = sorted(epochs.difference(book.epochs)) if book.epochs is not None else []
    if unknown or lost:
        for id_, balance_nano, held_nano in (yield LoadAccounts(unknown, lost)):
            if id_ > 0:
                book.purses[id_] = Purse(balance_nano, held_nano)
            elif book.epochs is not None:
                book.epochs.add(-id_)
    # Only under the lock of their accounts do holds stand still.
    if requests:
        for request_id, account_id, amount_nano, status in (yield LoadHolds(requests)):
            book.holds[str(request_id)] = HoldState(account_id, amount_nano, status)
            if status != OPEN:
                ended.append(str(request_id))
        if ended:
            for request_id, kind, amount_nano in (yield LoadTaken(ended)):
                hold = book.holds[str(request_id)]
                if kind == "charge":
                    hold.charged_nano = amount_nano
                else:
                    hold.writeoff_nano = amount_nano
    if grants:
        for debit, credit, amount_nano, kind, at_us, grant_key in (yield LoadGrants(grants)):
            book.grants[grant_key] = TransferRow(debit, credit, amount_nano, kind, at_us, grant_key=grant_key)
    return ended


def _day_row(usage: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row of `usage_day` that one usage record makes by itself."""
    record = dict(zip((*USAGE_COLUMNS.split(", "), "charge_nano", "writeoff_nano"), usage, strict=True))
    record |= {"day_us": record["at_us"] - record["at_us"] % DAY_US, "requests": 1}
    return tuple(record[name] for name in DAY_COLUMNS.split(", "))
