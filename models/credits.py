"""Owns what operators do to balances: grants and their reverse, one transfer each. The rules are in `money.py`.

What is above a bound waits for a second operator: when, and how that is kept, is `approvals.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from models.accounts import AccountInfo, find_account, subject
from models.approvals import (
    APPROVED,
    REFUSED,
    approval_above_nano,
    ask,
    asked_for,
    check_same,
    decide_on,
    find_asked,
    move_of,
    told,
)
from models.changes import OperatorWrite, operator_write
from models.checks import MOST_BIGINT, check_amount, check_choice, check_grant_key, check_reason
from models.database import Database
from models.errors import BadInput, Conflict
from models.money import ISSUED, Move
from models.moves import move_and_sign
from models.prices import credits_text
from models.records import Account, Approval, Transfer, User

GRANT_KINDS = ("grant", "correction")
TAKE_BACK_KINDS = ("refund", "correction", "dispute")


class Granted(msgspec.Struct, frozen=True):
    """What became of a grant or of its reverse. `repeated`: its key had been used before, and nothing was done now.

    `approval_id`: nothing has moved; it waits under this id until a second operator approves it.
    """

    account_id: int
    email: str
    amount_nano: int
    writeoff_nano: int
    grant_key: str
    repeated: bool
    balance_nano: int
    approval_id: int | None = None

    def __repr__(self) -> str:
        key, balance = (
            f"grant_key {self.grant_key!r}",
            f"balance of {self.email}: {credits_text(self.balance_nano)} credits",
        )
        if self.approval_id is not None:
            return f"Nothing has moved: {key} waits for a second operator as number {self.approval_id}; {balance}"
        lost = f", {credits_text(self.writeoff_nano)} written off" if self.writeoff_nano else ""
        done = "were moved before" if self.repeated else "moved"
        return f"{credits_text(self.amount_nano)} credits {done}{lost}, {key}; {balance}"


async def grant(
    database: Database,
    operator: str,
    email: str,
    amount_nano: int,
    reason: str,
    grant_key: str,
    kind: str = "grant",
    *,
    above_nano: int | None = None,
) -> Granted:
    """Give credits out of nothing (`issued` → account). The same `grant_key` twice is one grant.

    Above OPS_APPROVAL_ABOVE, or `above_nano` if that is lower, it waits for a second operator.
    """
    check_choice(kind, field="kind", choices=GRANT_KINDS)
    note, key = _checked(amount_nano, reason, grant_key)
    above = approval_above_nano(above_nano)
    async with operator_write(database, operator) as write:
        account = await find_account(database, email)
        move = Move(ISSUED, account.id, amount_nano, kind, key, write.at_us, note, write.operator)
        return await _move_or_ask(write, account, move, above)


async def take_back(
    database: Database,
    operator: str,
    email: str,
    amount_nano: int,
    reason: str,
    grant_key: str,
    kind: str = "refund",
    shortfall: Literal["refuse", "writeoff"] = "refuse",
    *,
    above_nano: int | None = None,
) -> Granted:
    """Take credits from an account (account → `issued`): the refund of a grant, a correction, a dispute.

    It takes at most what is available. When that is less, `shortfall` refuses, or takes it and writes off the rest.
    Above the bound of `grant` it waits for a second operator too.
    """
    check_choice(kind, field="kind", choices=TAKE_BACK_KINDS)
    check_choice(shortfall, field="shortfall", choices=("refuse", "writeoff"))
    note, key = _checked(amount_nano, reason, grant_key)
    above = approval_above_nano(above_nano)
    async with operator_write(database, operator) as write:
        account = await find_account(database, email)
        move = Move(account.id, ISSUED, amount_nano, kind, key, write.at_us, note, write.operator, shortfall)
        return await _move_or_ask(write, account, move, above)


async def approve(database: Database, operator: str, approval_id: int, *, reason: str) -> Granted:
    """Do what another operator asked for. Twice is once; BadInput for one's own, Conflict for what was refused."""
    why = check_reason(reason)
    async with operator_write(database, operator) as write:
        asked = await find_asked(approval_id)
        if asked.decision == REFUSED:
            raise Conflict(f"id: {asked.decided_by} refused this; grant it anew under another key", field="id")
        account = await _account_of(asked)
        move = move_of(asked, write.at_us)
        if asked.decision == APPROVED:
            return await _apply(write, account, move)
        why = await write.without_addresses(why)
        await decide_on(write, asked, APPROVED, why)
        return await _apply(write, account, move, action="credits.approve", reason=why, more=told(asked))


async def _move_or_ask(write: OperatorWrite, account: AccountInfo, move: Move, above_nano: int | None) -> Granted:
    move = msgspec.structs.replace(move, note=await write.without_addresses(move.note))
    asked = (await asked_for([move.grant_key])).get(move.grant_key)
    if asked is not None:
        check_same(asked, move)
        if asked.decision is None:
            return await _waits(account, asked, repeated=True)
    elif above_nano is not None and move.amount_nano > above_nano and not await _is_done(move.grant_key):
        await _check_room(account, move)
        (asked,) = await ask(write, [move])
        await write.audit("credits.ask", subject(account.id), reason=move.note, after=told(asked))
        return await _waits(account, asked, repeated=False)
    return await _apply(write, account, move, action=f"credits.{move.kind}")


async def _apply(
    write: OperatorWrite,
    account: AccountInfo,
    move: Move,
    *,
    action: str = "",
    reason: str | None = None,
    more: dict[str, Any] | None = None,
) -> Granted:
    if not await _is_done(move.grant_key):
        await _check_room(account, move)
    moved, balance_nano = await move_and_sign(write, account.id, move, action=action, reason=reason, more=more)
    return Granted(
        account_id=account.id,
        email=account.email,
        amount_nano=moved.amount_nano,
        writeoff_nano=moved.writeoff_nano,
        grant_key=move.grant_key,
        repeated=moved.repeated,
        balance_nano=balance_nano,
    )


async def _waits(account: AccountInfo, asked: Approval, *, repeated: bool) -> Granted:
    balance_nano = (await Account.get(id=account.id)).balance_nano
    return Granted(account.id, account.email, 0, 0, asked.grant_key, repeated, balance_nano, asked.id)


async def _is_done(grant_key: str) -> bool:
    return await Transfer.filter(grant_key=grant_key).exists()


async def _check_room(account: AccountInfo, move: Move) -> None:
    if move.credit_account == account.id:
        check_room(account.email, (await Account.get(id=account.id)).balance_nano, move.amount_nano)


def check_room(email: str, balance_nano: int, amount_nano: int) -> None:
    """Raises BadInput when a balance would leave what 64 bits can hold."""
    if balance_nano + amount_nano > MOST_BIGINT:
        raise BadInput(f"credits: the balance of {email} would leave what it can hold", field="credits")


async def _account_of(asked: Approval) -> AccountInfo:
    """Whatever has become of its login meanwhile."""
    account = await Account.get(id=asked.account_id)
    user = await User.filter(account_id=account.id).order_by("id").first()
    return AccountInfo(account.id, user.email if user else "", account.name, account.suspended_us is not None)


def _checked(amount_nano: int, reason: str, grant_key: str) -> tuple[str, str]:
    check_amount(amount_nano)
    return check_reason(reason), check_grant_key(grant_key)
