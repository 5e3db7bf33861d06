"""Owns reading the audit log: whether its chain is whole, and its rows. Writing to it is `changes.py`.

Each row's hash covers the row and the hash before it, so whoever changes, removes or slips in a row breaks the chain at
that place. Cutting off the newest rows breaks nothing; it shows by the traces that each write leaves in other tables, and by
a `head` that somebody noted down earlier and that is no longer there.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from models.accounts import find_account, subject
from models.changes import NO_HASH, audit_hash
from models.checks import check_text, check_whole
from models.database import Database
from models.ids import to_datetime

PAGE = 1_000
_HASHED = ("at_us", "operator", "action", "subject", "reason", "before", "after", "previous_hash")
_COLUMNS = f"id, {', '.join(_HASHED)}, hash"


class AuditCheck(msgspec.Struct, frozen=True):
    """What became of recomputing the chain: `rows` were read; the first that is wrong, and how it is; the newest's hash."""

    ok: bool
    rows: int
    head: str
    broken_id: int | None = None
    how: Literal["altered", "removed", "inserted"] | None = None
    detail: str = ""

    def __repr__(self) -> str:
        if self.ok:
            return f"the audit log is whole: {self.rows:,} rows, head {self.head}"
        return f"the audit log is broken: {self.detail}"


async def verify_audit(database: Database, *, known_head: str | None = None) -> AuditCheck:
    """Recompute the whole chain, in pages, and name the first row that is wrong.

    `known_head` is the `head` of an earlier check, kept elsewhere: it must still be the hash of some row.
    """
    previous, last_id, count, newest_us, seen = NO_HASH, 0, 0, 0, known_head in (None, NO_HASH)
    while rows := await _page(database, last_id):
        for row in rows:
            if row["previous_hash"] != previous:
                return await _broken_link(database, row, previous, last_id, count)
            if row["hash"] != audit_hash({name: row[name] for name in _HASHED}):
                detail = f"row {row['id']} was altered: its hash is not that of what it says"
                return AuditCheck(False, count, previous, row["id"], "altered", detail)
            previous, last_id, count = row["hash"], row["id"], count + 1
            newest_us, seen = max(newest_us, row["at_us"]), seen or row["hash"] == known_head
    cut = "" if seen else f"the row with the known head {known_head} is gone"
    cut = cut or await _trace_without_row(database, newest_us)
    if cut:
        detail = f"rows after row {last_id} were removed: {cut}"
        return AuditCheck(False, count, previous, last_id, "removed", detail)
    return AuditCheck(True, count, previous)


async def audit_rows(
    database: Database,
    since_us: int | None = None,
    until_us: int | None = None,
    *,
    action: str | None = None,
    subject: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Rows from `since_us` to `until_us` (excluded), oldest first, with the address of the account where it still exists.

    `action` is one like "credits.grant", or all of a kind like "credits". `subject` is one like "key 3", or an account's
    e-mail. `limit` keeps the newest.
    """
    tests, values = ["1 = 1"], list[Any]()
    for test, bound in (("at_us >= ?", since_us), ("at_us < ?", until_us)):
        if bound is not None:
            tests.append(test)
            values.append(bound)
    if action is not None:
        kind = check_text(action, field="action", most=60)
        tests.append("(action = ? OR SUBSTR(action, 1, ?) = ?)")
        values += [kind, len(kind) + 1, f"{kind}."]
    if subject is not None:
        test, more = await _about(database, check_text(subject, field="subject", most=300))
        tests.append(test)
        values += more
    tail = ""
    if limit is not None:
        tail = " LIMIT ?"
        values.append(check_whole(limit, field="limit", least=1))
    rows = await database.rows(
        f"SELECT {_COLUMNS} FROM audit WHERE {' AND '.join(tests)} ORDER BY id DESC{tail}", values
    )
    emails = await _emails(database, {row["subject"] for row in rows})
    return [_plain(row) | {"account": emails.get(row["subject"])} for row in reversed(rows)]


# ── the chain ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _page(database: Database, last_id: int) -> list[dict[str, Any]]:
    rows = await database.rows(f"SELECT {_COLUMNS} FROM audit WHERE id > ? ORDER BY id LIMIT {PAGE}", [last_id])
    return [_plain(row) for row in rows]


async def _broken_link(database: Database, row: dict[str, Any], previous: str, last_id: int, count: int) -> AuditCheck:
    """The row does not follow the one before it: either that one was slipped in, or another stood between them."""
    before = await database.rows("SELECT id FROM audit WHERE hash = ? AND id < ?", [row["previous_hash"], row["id"]])
    if before or row["previous_hash"] == NO_HASH:
        origin = before[0]["id"] if before else 0
        first = await database.rows("SELECT MIN(id) AS id FROM audit WHERE id > ?", [origin])
        which = f"{first[0]['id']} to {last_id} were" if first[0]["id"] < last_id else f"{last_id} was"
        detail = f"row{'s' if first[0]['id'] < last_id else ''} {which} inserted: row {row['id']} does not follow"
        return AuditCheck(False, count, previous, first[0]["id"], "inserted", detail)
    detail = f"what stood between row {last_id} and row {row['id']} was removed"
    return AuditCheck(False, count, previous, row["id"], "removed", detail)


async def _trace_without_row(database: Database, newest_us: int) -> str:
    """Every operator's write has its audit row in the same commit and of the same moment."""
    for table, column in (("price", "created_us"), ("change", "at_us"), ("approval", "requested_us")):
        rows = await database.rows(f"SELECT {column} AS at_us FROM {table} ORDER BY id DESC LIMIT 1")
        if rows and rows[0]["at_us"] > newest_us:
            return f"the newest row of table {table}, of {to_datetime(rows[0]['at_us']).isoformat()}, has none here"
    return ""


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The two databases differ in how they return JSON."""
    sides = {name: row[name] for name in ("before", "after")}
    return {**row, **{k: msgspec.json.decode(v) if isinstance(v, str | bytes) else v for k, v in sides.items()}}


# ── whom a row is about ───────────────────────────────────────────────────────────────────────────────────────────


async def _about(database: Database, text: str) -> tuple[str, list[Any]]:
    if "@" in text:
        text = subject((await find_account(database, text)).id)
    kind, _, number = text.partition(" ")
    if kind != "account" or not number.isdigit():
        return "subject = ?", [text]
    # A file of grants is one row about several accounts.
    among = "CAST(after AS TEXT) LIKE ? OR CAST(after AS TEXT) LIKE ?"
    return (
        f"(subject = ? OR (subject = 'accounts' AND ({among})))",
        [text, f'%"account":{number},%', f'%"account": {number},%'],
    )


async def _emails(database: Database, subjects: set[str]) -> dict[str, str]:
    """The address behind each subject that is an account or a key, where it still exists."""
    queries = {
        "account": 'SELECT account_id AS id, email FROM "user" WHERE account_id IN ({}) ORDER BY id DESC',
        "key": 'SELECT k.id, u.email FROM api_key k JOIN "user" u ON u.account_id = k.account_id'
        " WHERE k.id IN ({}) ORDER BY u.id DESC",
    }
    found: dict[str, str] = {}
    for kind, query in queries.items():
        parts = (text.partition(" ") for text in subjects)
        ids = sorted({int(number) for word, _, number in parts if word == kind and number.isdigit()})
        for start in range(0, len(ids), PAGE):
            some = ids[start : start + PAGE]
            rows = await database.rows(query.format(", ".join("?" * len(some))), some)
            found |= {f"{kind} {row['id']}": row["email"] for row in rows}
    return found
