"""Owns how settlements leave quarantine: a person looks at one, tries it again or closes it, and says why.

Rows come from `gateway/billing.py` (a settlement that the database refused) and from `topups.py` (news of a payment that
cannot be right). One that left stays as it was, with the moment; who did it and why is in the audit log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from models.changes import OperatorWrite, operator_write
from models.checks import check_reason
from models.database import Database, is_away
from models.errors import BadInput, Conflict, DomainError, LedgerUnavailable, NotFound
from models.ledger import apply_one
from models.money import RELEASED, Capture, Release, Settled
from models.prices import credits_text
from models.records import Hold, Quarantine

_SETTLEMENTS: Mapping[str, type[Capture | Release]] = {"Capture": Capture, "Release": Release}


async def quarantine_rows(database: Database, *, closed: bool = False) -> list[dict[str, Any]]:
    """What waits for a person, oldest first, or with `closed` all that ever did: what was refused, and why."""
    return await database.rows(
        "SELECT id, at_us, request_id, error, command, closed_us FROM quarantine"
        f"{'' if closed else ' WHERE closed_us IS NULL'} ORDER BY id"
    )


async def close_quarantined(database: Database, operator: str, quarantine_id: int, *, reason: str) -> None:
    """Nothing more will come of it: it was made up for, or nobody has to pay. Twice is once; NotFound for an unknown id."""
    why = check_reason(reason)
    async with operator_write(database, operator) as write:
        row = await _find(quarantine_id)
        if row.closed_us is None:
            await _close(write, row, "quarantine.close", why, {})


async def retry_quarantined(database: Database, operator: str, quarantine_id: int, *, reason: str) -> Settled | None:
    """Settle it now, as the gateway would have: its transfer is of this moment, so no closed month changes. None: it had
    left quarantine before.

    Raises BadInput for what is no settlement, and Conflict when the ledger does not take it: it stays in quarantine then, and
    nothing was changed. Needs a database role that may write holds and usage, as the server's.
    """
    why = check_reason(reason)
    try:
        async with operator_write(database, operator) as write:
            row = await _find(quarantine_id)
            if row.closed_us is not None:
                return None
            settled = await _settle(write, _settlement(row))
            charged = {
                "charged": credits_text(settled.charged_nano),
                "written_off": credits_text(settled.writeoff_nano),
            }
            await _close(write, row, "quarantine.retry", why, charged)
            return settled
    except BadInput:
        raise
    except Exception as error:
        if isinstance(error, LedgerUnavailable) or is_away(error):
            raise
        raise Conflict(
            f"id: the ledger refuses settlement {quarantine_id} still: {error!r}; mend the cause, then retry",
            field="id",
        ) from error


async def _find(quarantine_id: object) -> Quarantine:
    valid = isinstance(quarantine_id, int) and not isinstance(quarantine_id, bool)
    row = await Quarantine.filter(id=quarantine_id).first() if valid else None
    if row is None:
        raise NotFound(f"id: nothing with id {quarantine_id!r} is or was in quarantine; list it first", field="id")
    return row


def _settlement(row: Quarantine) -> Capture | Release:
    kind, _, text = row.command.partition(" ")
    if kind not in _SETTLEMENTS:
        raise BadInput(
            f"id: {row.id} is no settlement but news of a payment: make up for it, then close it", field="id"
        )
    return msgspec.json.decode(text, type=_SETTLEMENTS[kind])


async def _settle(write: OperatorWrite, settlement: Capture | Release) -> Settled:
    hold = await Hold.get_or_none(request_id=settlement.request_id)
    if hold is None or (hold.status == RELEASED and isinstance(settlement, Capture)):
        why = "is not known to this database" if hold is None else "went back to its account"
        raise Conflict(
            f"id: what was held for {settlement.request_id} {why}, so it cannot be charged any more; if the answer "
            "arrived, make up for it with a correction, then close it",
            field="id",
        )
    outcome = await apply_one(write.transaction, msgspec.structs.replace(settlement, at_us=write.at_us))
    if not isinstance(outcome, Settled):
        raise DomainError(f"unexpected: {outcome!r}")
    return outcome


async def _close(write: OperatorWrite, row: Quarantine, action: str, reason: str, done: dict[str, str]) -> None:
    await Quarantine.filter(id=row.id).update(closed_us=write.at_us)
    told = {"request_id": row.request_id, "error": row.error, "command": row.command}
    await write.audit(
        action, f"quarantine {row.id}", reason=reason, before={"closed": False}, after=told | done | {"closed": True}
    )
