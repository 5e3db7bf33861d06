"""Owns many grants at once: what would become of each line, and giving all of them in one transaction or none.

Reading a file or a frame into lines is the operators' plane; a grant by itself is `credits.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from models.accounts import clean_email
from models.approvals import approval_above_nano, ask, asked_for, check_same
from models.changes import OperatorWrite, operator_write
from models.checks import check_grant_key, check_reason
from models.credits import check_room
from models.database import Database
from models.errors import BadInput, DomainError
from models.ids import now_us
from models.ledger import apply_in
from models.money import ISSUED, Move
from models.prices import credits_text
from models.records import Account, Approval, Transfer, User

MOST_LINES = 10_000
ACTION, SUBJECT = "credits.grant_file", "accounts"
_CHUNK = 5_000
Fate = Literal["new", "done before", "needs approval", "waits for approval", "wrong"]


class GrantLine(msgspec.Struct, frozen=True):
    """One grant of a file. `where` says where it stands there, like "row 3"."""

    where: str
    email: str
    amount_nano: int
    grant_key: str


class Planned(msgspec.Struct, frozen=True):
    """What would become of a line. `column` and `problem`: what is wrong with it, and the remedy."""

    line: GrantLine
    fate: Fate
    account_id: int | None = None
    column: str | None = None
    problem: str | None = None


class GrantedFile(msgspec.Struct, frozen=True):
    """How many lines were granted now, were done before, and wait for a second operator; credits given now."""

    granted: int
    done_before: int
    waiting: int
    amount_nano: int

    def __repr__(self) -> str:
        return (
            f"{self.granted:,} granted now, {credits_text(self.amount_nano)} credits in all; {self.done_before:,} done before, "
            f"{self.waiting:,} wait for a second operator"
        )


async def plan_grants(
    database: Database, lines: Sequence[GrantLine], *, above_nano: int | None = None
) -> list[Planned]:
    """The fate of each line in order, if they were granted now. Reads only."""
    # The moves of a plan are never applied; who signs them does not matter.
    return [planned for planned, _ in await _plan(lines, approval_above_nano(above_nano), now_us(), "", "")]


async def grant_lines(
    database: Database, operator: str, lines: Sequence[GrantLine], *, reason: str, above_nano: int | None = None
) -> GrantedFile:
    """Grant all lines in one transaction, or none. Lines that were done before stay done; again, it changes nothing.

    Raises BadInput naming the first line that is wrong.
    """
    why, above = check_reason(reason), approval_above_nano(above_nano)
    if len(lines) > MOST_LINES:
        raise BadInput(f"rows: at most {MOST_LINES:,} in one go, got {len(lines):,}; split the file", field="rows")
    async with operator_write(database, operator) as write:
        note = await write.without_addresses(why)
        plan = await _plan(lines, above, write.at_us, write.operator, note)
        for planned, _ in plan:
            if planned.problem:
                raise BadInput(f"{planned.line.where}: {planned.problem}", field=planned.column)
        fresh = [(planned, move) for planned, move in plan if planned.fate == "new"]
        asked = [(planned, move) for planned, move in plan if planned.fate == "needs approval"]
        moves = [move for _, move in fresh]
        for (planned, _), outcome in zip(fresh, await apply_in(write.transaction, moves), strict=True):
            if isinstance(outcome, DomainError):
                raise BadInput(f"{planned.line.where}: {outcome}") from outcome
        await ask(write, [move for _, move in asked])
        if fresh or asked:
            await _sign(write, note, moves, [move for _, move in asked])
    fates = Counter(planned.fate for planned, _ in plan)
    return GrantedFile(
        granted=len(fresh),
        done_before=fates["done before"],
        waiting=fates["needs approval"] + fates["waits for approval"],
        amount_nano=sum(move.amount_nano for move in moves),
    )


class _Known(msgspec.Struct):
    """What the lines are decided from; `balances` and `places` (where each key stands) follow the lines."""

    accounts: dict[str, int]
    balances: dict[int, int]
    done: dict[str, Transfer]
    asked: dict[str, Approval]
    places: dict[str, str] = {}


async def _plan(
    lines: Sequence[GrantLine], above_nano: int | None, at_us: int, operator: str, note: str
) -> list[tuple[Planned, Move]]:
    accounts = await _accounts(line.email for line in lines)
    keys = [line.grant_key for line in lines]
    known = _Known(accounts, await _balances(accounts.values()), await _transfers(keys), await asked_for(keys))
    plan = []
    for line in lines:
        account_id = accounts.get(line.email.strip().lower())
        move = Move(ISSUED, account_id or 0, line.amount_nano, "grant", line.grant_key, at_us, note, operator)
        try:
            planned = Planned(line, _fate(known, line, move, above_nano), account_id)
        except BadInput as error:
            planned = Planned(line, "wrong", account_id, error.field, str(error))
        known.places.setdefault(line.grant_key, line.where)
        plan.append((planned, move))
    return plan


def _fate(known: _Known, line: GrantLine, move: Move, above_nano: int | None) -> Fate:
    """Raises BadInput for a line that cannot be granted."""
    if not move.credit_account:
        clean_email(line.email)
        raise BadInput(f"email: there is no account of {line.email}; create it first", field="email")
    check_grant_key(line.grant_key)
    place, transfer = known.places.get(line.grant_key), known.done.get(line.grant_key)
    asked = known.asked.get(line.grant_key)
    if place is not None:
        raise BadInput(f"grant_key: {line.grant_key!r} stands in {place} already; give each its own", field="grant_key")
    if transfer is not None:
        _check_transfer(transfer, move)
        return "done before"
    if asked is not None:
        check_same(asked, move)
        return "waits for approval"
    check_room(line.email, known.balances[move.credit_account], line.amount_nano)
    known.balances[move.credit_account] += line.amount_nano
    return "needs approval" if above_nano is not None and line.amount_nano > above_nano else "new"


def _check_transfer(known: Transfer, move: Move) -> None:
    had = (known.debit_account, known.credit_account, known.amount_nano)
    if had != (move.debit_account, move.credit_account, move.amount_nano):
        raise BadInput(
            f"grant_key: {move.grant_key!r} was already used for another transfer; choose a new key",
            field="grant_key",
        )


async def _sign(write: OperatorWrite, note: str, granted: list[Move], asked: list[Move]) -> None:
    """One row for the whole file, with each of its lines."""
    balances = await _balances(move.credit_account for move in granted)
    before = dict(balances)
    for move in granted:
        before[move.credit_account] -= move.amount_nano

    def shown(move: Move) -> dict[str, Any]:
        amount = credits_text(move.amount_nano)
        return {"account": move.credit_account, "amount": amount, "grant_key": move.grant_key}

    def by_account(amounts: dict[int, int]) -> list[dict[str, Any]]:
        return [{"account": id_, "balance": credits_text(nano)} for id_, nano in sorted(amounts.items())]

    await write.audit(
        ACTION,
        SUBJECT,
        reason=note,
        before={"balances": by_account(before)},
        after={
            "balances": by_account(balances),
            "amount": credits_text(sum(move.amount_nano for move in granted)),
            "granted": [shown(move) for move in granted],
            "waiting": [shown(move) for move in asked],
        },
    )


# ── reading, in pieces that either database takes ─────────────────────────────────────────────────────────────────


async def _accounts(emails: Iterable[str]) -> dict[str, int]:
    """By address in lower case."""
    wanted = [email.strip().lower() for email in emails]
    found: dict[str, int] = {}
    for some in _pieces(wanted):
        found |= dict(await User.filter(email__in=some).values_list("email", "account_id"))
    return found


async def _balances(account_ids: Iterable[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for some in _pieces(sorted(set(account_ids))):
        found |= dict(await Account.filter(id__in=some).values_list("id", "balance_nano"))
    return found


async def _transfers(grant_keys: Iterable[str]) -> dict[str, Transfer]:
    found: dict[str, Transfer] = {}
    for some in _pieces(list(grant_keys)):
        found |= {str(row.grant_key): row for row in await Transfer.filter(grant_key__in=some)}
    return found


def _pieces(values: list[Any]) -> Iterable[list[Any]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))
