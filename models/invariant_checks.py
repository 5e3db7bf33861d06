"""Owns how each invariant is checked: a function of a snapshot that says whether it holds, and the figures behind that.

What is checked row by row is read in bounded pieces; everything else is counted by the database. Charges against prices:
`charge_check.py`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from models.audit import verify_audit
from models.database import Database
from models.day_repair import unequal_days
from models.ids import to_datetime
from models.key_scope import subject
from models.money import FIRST_CUSTOMER, REVENUE, WRITEOFF
from models.protections import INDEXES, triggers
from models.records import Audit
from models.rollups import rolled_until

# SQLite's SUM fails beyond 64 bits, and the system accounts may grow beyond them: sums are taken in two parts.
_PART = 1_000_000_000
# Two machines' clocks may differ by this much; a revoked key that was heeded later than this is a fault.
REVOKE_GRACE_US = 5_000_000

Verdict: TypeAlias = tuple[bool, str]


async def books_balance(snapshot: Database) -> Verdict:
    system = await _sum(
        snapshot,
        "SELECT amount_nano AS amount FROM transfer WHERE credit_account < {0}"
        " UNION ALL SELECT -amount_nano FROM transfer WHERE debit_account < {0}",
    )
    customers = await _sum(snapshot, "SELECT balance_nano AS amount FROM account WHERE id >= {0}")
    return (
        system + customers == 0,
        f"system accounts {system}, customers {customers}, together {system + customers} nano",
    )


async def balances_are_their_transfers(snapshot: Database) -> Verdict:
    balances = await _unequal(
        snapshot,
        "SELECT credit_account AS account, amount_nano AS amount FROM transfer WHERE credit_account >= {0}"
        " UNION ALL SELECT debit_account, -amount_nano FROM transfer WHERE debit_account >= {0}"
        " UNION ALL SELECT id, -balance_nano FROM account WHERE id >= {0}",
    )
    helds = await _unequal(
        snapshot,
        "SELECT account_id AS account, amount_nano AS amount FROM hold WHERE status = 'open'"
        " UNION ALL SELECT id, -held_nano FROM account WHERE id >= {0}",
    )
    bounds = await _count(
        snapshot,
        "FROM account WHERE (id >= ? AND NOT (0 <= held_nano AND held_nano <= balance_nano))"
        " OR (id < ? AND (balance_nano <> 0 OR held_nano <> 0))",
        [FIRST_CUSTOMER, FIRST_CUSTOMER],
    )
    accounts = await _count(snapshot, "FROM account WHERE id >= ?", [FIRST_CUSTOMER])
    wrong = [f"account {id_}: balance off by {-off} nano" for id_, off in balances]
    wrong += [f"account {id_}: held off by {-off} nano" for id_, off in helds]
    wrong += [f"{bounds} accounts outside 0 <= held <= balance"] if bounds else []
    return _verdict(wrong, f"{accounts} accounts")


async def captures_have_their_charge(snapshot: Database) -> Verdict:
    stray = await _count(
        snapshot,
        "FROM transfer t LEFT JOIN hold h ON h.request_id = t.request_id WHERE t.request_id IS NOT NULL AND NOT"
        " (COALESCE(h.status, '') = 'captured' AND t.credit_account = ? AND ("
        "(t.kind = 'charge' AND t.debit_account = h.account_id) OR (t.kind = 'writeoff' AND t.debit_account = ?)))",
        [REVENUE, WRITEOFF],
    )
    unlike = await _count(
        snapshot,
        "FROM usage u LEFT JOIN transfer c ON c.request_id = u.request_id AND c.kind = 'charge'"
        " LEFT JOIN transfer w ON w.request_id = u.request_id AND w.kind = 'writeoff'"
        " WHERE u.charge_nano <> COALESCE(c.amount_nano, 0) OR u.writeoff_nano <> COALESCE(w.amount_nano, 0)",
    )
    wrong = [f"{stray} charges without a captured hold of that account"] if stray else []
    wrong += [f"{unlike} usage records whose charge is not their transfer"] if unlike else []
    return _verdict(wrong, f"{await _count(snapshot, 'FROM transfer WHERE request_id IS NOT NULL')} transfers")


async def refusals_moved_nothing(snapshot: Database) -> Verdict:
    charged = await _count(snapshot, "FROM usage WHERE outcome = 'failed' AND (charge_nano <> 0 OR writeoff_nano <> 0)")
    others = await _count(snapshot, "FROM usage WHERE outcome = 'failed'")
    wrong = [f"{charged} failed requests were charged"] if charged else []
    return _verdict(wrong, f"{others} requests failed; refused ones leave no record and no transfer")


async def calls_were_in_scope(snapshot: Database) -> Verdict:
    pairs = await snapshot.rows(
        "SELECT DISTINCT u.key_id, u.model_id, m.alias FROM usage u LEFT JOIN model m ON m.id = u.model_id"
        " LEFT JOIN key_model s ON s.api_key_id = u.key_id AND s.model_id = u.model_id WHERE s.id IS NULL"
    )
    ever: dict[str, set[str]] = {}
    for subject_ in {subject(pair["key_id"]) for pair in pairs}:
        rows = await Audit.filter(subject=subject_, action__in=("key.issue", "key.set_models"))
        ever[subject_] = {alias for row in rows for side in (row.before, row.after) for alias in _models_in(side)}
    strays = [pair for pair in pairs if pair["alias"] not in ever[subject(pair["key_id"])]]
    wrong = [f"key {pair['key_id']} called {pair['alias']}, which it never had" for pair in strays]
    earlier = f"; {len(pairs)} by scopes of the audit log, since edited" if pairs else ""
    return _verdict(wrong, f"every key called aliases of its scope{earlier}")


async def history_is_guarded(snapshot: Database) -> Verdict:
    if snapshot.dialect == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type IN ('trigger', 'index')"
    else:
        # A trigger that was switched off guards nothing.
        query = (
            "SELECT tgname AS name FROM pg_trigger WHERE tgenabled <> 'D'"
            " UNION ALL SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()"
        )
    there = {str(row["name"]) for row in await snapshot.rows(query)}
    guards = {*triggers(snapshot.dialect), *INDEXES}
    wrong = [f"{name} is missing; bring it back with: gateway migrate" for name in sorted(guards - there)]
    return _verdict(wrong, f"prices, transfers and audit are append-only; {len(guards)} guards and indexes in place")


async def keys_of_idempotency_are_unique(snapshot: Database) -> Verdict:
    grants = await _count(
        snapshot,
        "FROM (SELECT 1 FROM transfer WHERE grant_key IS NOT NULL GROUP BY grant_key HAVING COUNT(*) > 1) twice",
    )
    charges = await _count(
        snapshot,
        "FROM (SELECT 1 FROM transfer WHERE request_id IS NOT NULL"
        " GROUP BY request_id, kind HAVING COUNT(*) > 1) twice",
    )
    wrong = [f"{grants} grant keys were used twice"] if grants else []
    wrong += [f"{charges} requests have two transfers of a kind"] if charges else []
    return _verdict(wrong, f"{await _count(snapshot, 'FROM transfer WHERE grant_key IS NOT NULL')} grant keys")


async def nothing_is_left_held(snapshot: Database) -> Verdict:
    left = await _count(
        snapshot,
        "FROM hold h LEFT JOIN epoch e ON e.id = h.epoch_id"
        " WHERE h.status = 'open' AND (e.id IS NULL OR e.ended_us IS NOT NULL)",
    )
    now = await _count(snapshot, "FROM hold WHERE status = 'open'")
    wrong = [f"{left} open holds of workers that ended"] if left else []
    return _verdict(wrong, f"{now} open holds now, all of running workers")


async def revoked_keys_admit_nothing(snapshot: Database) -> Verdict:
    late = await _count(
        snapshot,
        "FROM api_key k JOIN usage u ON u.key_id = k.id JOIN hold h ON h.request_id = u.request_id"
        " WHERE k.revoked_us IS NOT NULL AND h.at_us > k.revoked_us + ?",
        [REVOKE_GRACE_US],
    )
    revoked = await _count(snapshot, "FROM api_key WHERE revoked_us IS NOT NULL")
    wrong = [f"{late} requests were admitted more than {REVOKE_GRACE_US // 1_000_000} s after a revoke"] if late else []
    return _verdict(wrong, f"{revoked} revoked keys")


async def audit_log_is_whole(snapshot: Database) -> Verdict:
    check = await verify_audit(snapshot)
    return check.ok, check.detail or f"{check.rows} rows"


async def days_are_their_records(snapshot: Database) -> Verdict:
    """Of days whose records are kept."""
    until_us = (await rolled_until(snapshot)).until_us
    rows = await unequal_days(snapshot, most=10)
    wrong = [f"{to_datetime(row['day_us']):%Y-%m-%d} of account {row['account_id']}" for row in rows]
    fine = f"rolled up until {to_datetime(until_us):%Y-%m-%d}" if until_us else "no day is rolled up"
    remedy = "sum them again with: gateway reconcile --sum-days"
    return not wrong, f"not the sums of their records: {', '.join(wrong)}; {remedy}" if wrong else fine


async def no_settlement_waits(snapshot: Database) -> Verdict:
    waiting = await _count(snapshot, "FROM quarantine WHERE closed_us IS NULL")
    return waiting == 0, f"{waiting} settlements in quarantine"


# ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _models_in(side: Any) -> list[str]:
    return side["models"] if isinstance(side, dict) and isinstance(side.get("models"), list) else []


async def _count(snapshot: Database, tail: str, values: list[Any] | None = None) -> int:
    rows = await snapshot.rows(f"SELECT COUNT(*) AS n {tail}", values)
    return int(rows[0]["n"])


async def _sum(snapshot: Database, amounts: str) -> int:
    """The exact sum of the column `amount`, however large."""
    rows = await snapshot.rows(
        f"SELECT SUM(amount / {_PART}) AS high, SUM(amount % {_PART}) AS low"
        f" FROM ({amounts.format(FIRST_CUSTOMER)}) parts"
    )
    return int(rows[0]["high"] or 0) * _PART + int(rows[0]["low"] or 0)


async def _unequal(snapshot: Database, amounts: str) -> list[tuple[int, int]]:
    """Accounts whose amounts do not add up to zero, with by how much; ten of them are enough to begin looking."""
    rows = await snapshot.rows(
        f"SELECT account, SUM(amount / {_PART}) AS high, SUM(amount % {_PART}) AS low"
        f" FROM ({amounts.format(FIRST_CUSTOMER)}) parts GROUP BY account"
        f" HAVING SUM(amount / {_PART}) * {_PART} + SUM(amount % {_PART}) <> 0 ORDER BY account LIMIT 10"
    )
    return [(row["account"], int(row["high"]) * _PART + int(row["low"])) for row in rows]


def _verdict(wrong: list[str], fine: str) -> Verdict:
    return not wrong, "; ".join(wrong) or fine
