"""Owns an operator's write: one transaction that changes records, says so in the change feed, and signs the audit log."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from tortoise.backends.base.client import TransactionalDBClient

from models.database import CHANGE_LOCK_ID, Database
from models.ids import now_us
from models.records import Audit, Change

# What a worker must look at again: the whole catalog snapshot, one key, or all keys of one account.
CATALOG, KEY, ACCOUNT, LIMITS = "catalog", "key", "account", "limits"
NO_HASH = "0" * 64


class OperatorWrite:
    """An open write. ORM calls inside it use its transaction by themselves; raw SQL goes through `transaction`."""

    def __init__(self, transaction: TransactionalDBClient, operator: str, at_us: int) -> None:
        self.transaction = transaction
        self.operator = operator
        self.at_us = at_us

    async def changed(self, kind: str, subject_id: int = 0) -> None:
        """Tell every worker, within the same commit."""
        await Change.create(kind=kind, subject_id=subject_id, at_us=self.at_us)

    async def audit(
        self, action: str, subject: str, *, reason: str = "", before: object = None, after: object = None
    ) -> None:
        """Append who, what, why, before and after to the chain."""
        last = await Audit.all().order_by("-id").first()
        row: dict[str, Any] = {
            "at_us": self.at_us,
            "operator": self.operator,
            "action": action,
            "subject": subject,
            "reason": reason,
            "before": before,
            "after": after,
            "previous_hash": last.hash if last else NO_HASH,
        }
        await Audit.create(**row, hash=audit_hash(row))


def audit_hash(row: dict[str, Any]) -> str:
    """SHA-256 of the row's canonical JSON (keys sorted), the hash before it included."""
    return hashlib.sha256(msgspec.json.encode(row, order="sorted")).hexdigest()


@contextlib.asynccontextmanager
async def operator_write(database: Database, operator: str) -> AsyncIterator[OperatorWrite]:
    """One operator's write, all or nothing.

    On PostgreSQL all of them take one lock until they commit, so change ids become visible in order: a worker that polls
    by id would otherwise miss the row of a slow writer for ever. SQLite's write lock does the same.
    """
    async with database.transaction() as transaction:
        if database.dialect == "postgres":
            await transaction.execute_query(f"SELECT pg_advisory_xact_lock({CHANGE_LOCK_ID})")
        yield OperatorWrite(transaction, operator, now_us())
