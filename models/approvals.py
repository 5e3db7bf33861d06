"""Owns moves of credits that wait for a second operator: when one has to, asking, refusing. Moving is `credits.py`.

The bound stands here, below every desk and script: OPS_APPROVAL_ABOVE, and what a desk's environment says; the lower one
counts. It guards against slips: who an operator is, is what they say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from models.accounts import subject
from models.changes import OperatorWrite, operator_write
from models.checks import check_reason
from models.database import Database
from models.environment import variables
from models.errors import BadInput, Conflict, NotFound, SetupError
from models.money import ISSUED, Move
from models.prices import credits_text, nano_from_credits
from models.records import Approval

SETTING = "OPS_APPROVAL_ABOVE"
APPROVED, REFUSED = "approved", "refused"
_CHUNK = 5_000


class Waiting(msgspec.Struct, frozen=True):
    """A move that was asked for. `amount_nano` is below zero when it takes; `decision` None: it waits."""

    id: int
    account_id: int
    amount_nano: int
    kind: str
    reason: str
    grant_key: str
    requested_by: str
    requested_us: int
    decision: str | None
    decided_by: str | None
    decided_us: int | None
    decided_reason: str | None


def approval_above_nano(environment_nano: int | None = None) -> int | None:
    """Moves above this wait for a second operator; None: none does. Raises SetupError for a setting that is no amount."""
    text = variables().get(SETTING)
    if text is None:
        return environment_nano
    try:
        setting = nano_from_credits(text, field=SETTING)
    except BadInput as error:
        raise SetupError(f"{error}; write credits like 5000") from None
    if setting < 0:
        raise SetupError(f"{SETTING}: cannot be below 0; write credits like 5000, or leave it out")
    return setting if environment_nano is None else min(setting, environment_nano)


async def asked_for(grant_keys: Iterable[str]) -> dict[str, Approval]:
    """By its grant key, each move that was ever asked for."""
    keys, found = list(grant_keys), dict[str, Approval]()
    for start in range(0, len(keys), _CHUNK):
        rows = await Approval.filter(grant_key__in=keys[start : start + _CHUNK])
        found |= {row.grant_key: row for row in rows}
    return found


def check_same(asked: Approval, move: Move) -> None:
    """Raises Conflict when the key stands for something else, or for what was refused."""
    if (asked.account_id, asked.amount_nano, asked.kind) != (*_signed(move), move.kind):
        raise Conflict(
            f"grant_key {move.grant_key!r} was already used for another move of credits; choose a new key",
            field="grant_key",
        )
    if asked.decision == REFUSED:
        raise Conflict(
            f"grant_key {move.grant_key!r} was refused by {asked.decided_by} ({asked.decided_reason}); "
            "to ask again choose a new key",
            field="grant_key",
        )


async def ask(write: OperatorWrite, moves: Iterable[Move]) -> list[Approval]:
    """Put moves before a second operator. The caller signs the audit log, and has seen that their keys are new."""
    rows = [
        Approval(
            account_id=account_id,
            amount_nano=amount_nano,
            kind=move.kind,
            shortfall=move.shortfall,
            reason=move.note,
            grant_key=move.grant_key,
            requested_by=write.operator,
            requested_us=write.at_us,
        )
        for move in moves
        for account_id, amount_nano in [_signed(move)]
    ]
    await Approval.bulk_create(rows, batch_size=500)
    return list((await asked_for(row.grant_key for row in rows)).values())


def move_of(asked: Approval, at_us: int) -> Move:
    """What was asked for, signed by who asked."""
    gives = asked.amount_nano > 0
    return Move(
        ISSUED if gives else asked.account_id,
        asked.account_id if gives else ISSUED,
        abs(asked.amount_nano),
        asked.kind,
        asked.grant_key,
        at_us,
        asked.reason,
        asked.requested_by,
        "writeoff" if asked.shortfall == "writeoff" else "refuse",
    )


async def find_asked(approval_id: object) -> Approval:
    valid = isinstance(approval_id, int) and not isinstance(approval_id, bool)
    row = await Approval.filter(id=approval_id).first() if valid else None
    if row is None:
        raise NotFound(f"id: nothing with id {approval_id!r} was asked for; see who waits", field="id")
    return row


async def decide_on(write: OperatorWrite, asked: Approval, decision: str, reason: str) -> None:
    """Note who decided, when and why. Nobody approves what they asked for themselves."""
    if decision == APPROVED and asked.requested_by.casefold() == write.operator.casefold():
        raise BadInput(
            f"operator: {write.operator} asked for this; another operator has to approve it", field="operator"
        )
    await Approval.filter(id=asked.id).update(
        decision=decision, decided_by=write.operator, decided_us=write.at_us, decided_reason=reason
    )


async def refuse(database: Database, operator: str, approval_id: int, *, reason: str) -> Waiting:
    """It will not be done. Who asked may refuse it too. Twice is once; Conflict when it was approved."""
    why = check_reason(reason)
    async with operator_write(database, operator) as write:
        asked = await find_asked(approval_id)
        if asked.decision == APPROVED:
            raise Conflict(f"id: {asked.decided_by} approved this; take the credits back instead", field="id")
        if asked.decision is None:
            why = await write.without_addresses(why)
            await decide_on(write, asked, REFUSED, why)
            await write.audit(
                "credits.refuse",
                subject(asked.account_id),
                reason=why,
                before={"decision": None},
                after={"decision": REFUSED, **told(asked)},
            )
            asked = await find_asked(approval_id)
    return _waiting(asked)


async def approval_rows(database: Database, *, decided: bool = False) -> list[dict[str, Any]]:
    """What waits, oldest first, or with `decided` all that was ever asked for; with the account's address."""
    return await database.rows(
        "SELECT a.id, a.account_id, u.email AS account, a.amount_nano, a.kind, a.reason, a.grant_key, a.requested_by,"
        " a.requested_us, a.decision, a.decided_by, a.decided_us, a.decided_reason FROM approval a"
        ' LEFT JOIN "user" u'
        ' ON u.id = (SELECT MIN(first.id) FROM "user" first WHERE first.account_id = a.account_id)'
        f"{'' if decided else ' WHERE a.decision IS NULL'} ORDER BY a.id"
    )


def told(asked: Approval) -> dict[str, Any]:
    """What the audit log says of it."""
    return {
        "approval_id": asked.id,
        "amount": credits_text(asked.amount_nano),
        "kind": asked.kind,
        "grant_key": asked.grant_key,
        "requested_by": asked.requested_by,
    }


def _signed(move: Move) -> tuple[int, int]:
    """The customer's account, and the amount from its side."""
    gives = move.debit_account == ISSUED
    return (move.credit_account, move.amount_nano) if gives else (move.debit_account, -move.amount_nano)


def _waiting(asked: Approval) -> Waiting:
    return Waiting(**{name: getattr(asked, name) for name in Waiting.__struct_fields__})
