"""Owns one transfer of a customer's account inside an open write: the ledger applies it, the audit log says so.

Who may move what, and when, is decided by whoever asks (`credits.py`, `vouchers.py`, `topups.py`); the rules of money are
`money.py`.
"""

from __future__ import annotations

from typing import Any

from models.accounts import subject
from models.changes import OperatorWrite
from models.ledger import apply_one
from models.money import Move, Moved
from models.prices import credits_text
from models.records import Account


async def move_and_sign(
    write: OperatorWrite,
    account_id: int,
    move: Move,
    *,
    action: str,
    reason: str | None = None,
    more: dict[str, Any] | None = None,
) -> tuple[Moved, int]:
    """What was moved, and the balance afterwards, in nano-credits. A key that was used before moves and signs nothing.

    Raises what `decide` refuses: NotFound, InsufficientCredits, Conflict.
    """
    moved = await apply_one(write.transaction, move)
    assert isinstance(moved, Moved)
    balance_nano = (await Account.get(id=account_id)).balance_nano
    if not moved.repeated:
        added_nano = moved.amount_nano if move.credit_account == account_id else -moved.amount_nano
        await write.audit(
            action,
            subject(account_id),
            reason=move.note if reason is None else reason,
            before={"balance": credits_text(balance_nano - added_nano)},
            after={
                **(more or {}),
                "balance": credits_text(balance_nano),
                "amount": credits_text(added_nano),
                "writeoff": credits_text(moved.writeoff_nano),
                "grant_key": move.grant_key,
            },
        )
    return moved, balance_nano
