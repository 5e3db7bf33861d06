"""Owns the invariants of the money: a list of checks over one snapshot, so they hold or not under full load too.

Numbers 1 to 10 are the design's; 11 is the audit log's chain, 12 the settlements kept for a person to look at, and 13 the
roll-ups by day. How each is checked is `invariant_checks.py` and, for charges, `charge_check.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from models import invariant_checks as checks
from models.charge_check import charges_are_price_times_tokens
from models.database import Database, open_snapshot


class Finding(msgspec.Struct, frozen=True):
    """One invariant: whether it holds, and the figures behind that."""

    number: int
    name: str
    ok: bool
    detail: str


async def check_invariants(database: Database) -> list[Finding]:
    """Check all of them over one snapshot, on a connection of its own. Reads only."""
    async with open_snapshot(database) as snapshot:
        found = []
        for number, (name, check) in enumerate(CHECKS.items(), 1):
            ok, detail = await check(snapshot)
            found.append(Finding(number, name, ok, detail))
        return found


CHECKS: dict[str, Callable[[Database], Awaitable[checks.Verdict]]] = {
    "all balances add up to zero": checks.books_balance,
    "balances are the sums of their transfers, held of open holds": checks.balances_are_their_transfers,
    "a captured hold has its one charge, and no other hold has one": checks.captures_have_their_charge,
    "every charge is tokens × pinned price": charges_are_price_times_tokens,
    "what failed or was refused moved no money": checks.refusals_moved_nothing,
    "every call was in its key's scope": checks.calls_were_in_scope,
    "later edits change no past charge": checks.history_is_guarded,
    "the same key twice is one transfer": checks.keys_of_idempotency_are_unique,
    "nothing is held for a worker that ended": checks.nothing_is_left_held,
    "a revoked key admits nothing": checks.revoked_keys_admit_nothing,
    "the audit log is whole": checks.audit_log_is_whole,
    "no settlement is in quarantine": checks.no_settlement_waits,
    "days that are rolled up are the sums of their records": checks.days_are_their_records,
}
