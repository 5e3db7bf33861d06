"""Owns what operators do to balances: grants and their reverse, one transfer each. The rules are in `money.py`."""

from __future__ import annotations

from typing import Literal

import msgspec

from models.accounts import find_account
from models.changes import OperatorWrite, operator_write
from models.checks import MOST_BIGINT, check_choice, check_reason, check_text, check_whole
from models.database import Database
from models.errors import BadInput
from models.ledger import apply_one
from models.money import ISSUED, Move, Moved
from models.prices import credits_text
from models.records import Account

GRANT_KINDS = ("grant", "correction")
TAKE_BACK_KINDS = ("refund", "correction", "dispute")


class Granted(msgspec.Struct, frozen=True):
    """What became of a grant or of its reverse. `repeated`: its key had been used before, and nothing was done now."""

    account_id: int
    email: str
    amount_nano: int
    writeoff_nano: int
    grant_key: str
    repeated: bool
    balance_nano: int


async def grant(
    database: Database,
    operator: str,
    email: str,
    amount_nano: int,
    reason: str,
    grant_key: str,
    kind: str = "grant",
) -> Granted:
    """Give credits out of nothing (`issued` → account). The same `grant_key` twice is one grant."""
    check_choice(kind, field="kind", choices=GRANT_KINDS)
    note, key = _checked(amount_nano, reason, grant_key)
    async with operator_write(database, operator) as write:
        account = await find_account(database, email)
        balance_nano = (await Account.get(id=account.id)).balance_nano
        if balance_nano + amount_nano > MOST_BIGINT:
            raise BadInput(f"credits: the balance of {account.email} would leave what it can hold", field="credits")
        move = Move(ISSUED, account.id, amount_nano, kind, key, write.at_us, note, write.operator)
        return await _apply(write, account.id, account.email, move)


async def take_back(
    database: Database,
    operator: str,
    email: str,
    amount_nano: int,
    reason: str,
    grant_key: str,
    kind: str = "refund",
    shortfall: Literal["refuse", "writeoff"] = "refuse",
) -> Granted:
    """Take credits from an account (account → `issued`): the refund of a grant, a correction, a dispute.

    It takes at most what is available. When that is less, `shortfall` refuses, or takes it and writes off the rest.
    """
    check_choice(kind, field="kind", choices=TAKE_BACK_KINDS)
    check_choice(shortfall, field="shortfall", choices=("refuse", "writeoff"))
    note, key = _checked(amount_nano, reason, grant_key)
    async with operator_write(database, operator) as write:
        account = await find_account(database, email)
        move = Move(account.id, ISSUED, amount_nano, kind, key, write.at_us, note, write.operator, shortfall)
        return await _apply(write, account.id, account.email, move)


async def _apply(write: OperatorWrite, account_id: int, email: str, move: Move) -> Granted:
    moved = await apply_one(write.transaction, move)
    assert isinstance(moved, Moved)
    after = await Account.get(id=account_id)
    if not moved.repeated:
        sign = 1 if move.credit_account == account_id else -1
        await write.audit(
            f"credits.{move.kind}",
            f"account {email}",
            reason=move.note,
            before={"balance": credits_text(after.balance_nano - sign * moved.amount_nano)},
            after={
                "balance": credits_text(after.balance_nano),
                "amount": credits_text(sign * moved.amount_nano),
                "writeoff": credits_text(moved.writeoff_nano),
                "grant_key": move.grant_key,
            },
        )
    return Granted(
        account_id=account_id,
        email=email,
        amount_nano=moved.amount_nano,
        writeoff_nano=moved.writeoff_nano,
        grant_key=move.grant_key,
        repeated=moved.repeated,
        balance_nano=after.balance_nano,
    )


def _checked(amount_nano: int, reason: str, grant_key: str) -> tuple[str, str]:
    check_whole(amount_nano, field="credits", least=1)
    return check_reason(reason), check_text(grant_key, field="grant_key", most=200)
