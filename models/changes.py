"""Owns an operator's write: one transaction that changes records, says so in the change feed, and signs the audit log."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import msgspec
from tortoise.backends.base.client import TransactionalDBClient

from models.database import CHANGE_LOCK_ID, Database
from models.ids import now_us
from models.records import Audit, Change, User

# What a worker must look at again: the whole catalog snapshot, one key, or all keys of one account.
CATALOG, KEY, ACCOUNT, LIMITS = "catalog", "key", "account", "limits"
NO_HASH = "0" * 64
# What either database takes as the values of one statement.
_CHUNK = 5_000
# An e-mail address, or what may be one: `ada@localhost` is somebody's, `claude@20250101` is a model's name.
_ADDRESS = re.compile(r"(account )?([^\s@<>()\",;:\\]+)@([\w.-]+\.[^\W\d_]{2,}|[\w-]+)")


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
        """Append who, what, why, before and after to the chain; e-mail addresses in it become `account 1001`."""
        last = await Audit.all().order_by("-id").first()
        told = {"subject": subject, "reason": reason, "before": before, "after": after}
        row: dict[str, Any] = {
            "at_us": self.at_us,
            "operator": self.operator,
            "action": action,
            **await self.without_addresses(told),
            "previous_hash": last.hash if last else NO_HASH,
        }
        await Audit.create(**row, hash=audit_hash(row))

    async def without_addresses(self, value: Any) -> Any:
        """`value`, a text or JSON of texts, with every e-mail address replaced by its account's id.

        Rows that can never be changed outlive their customers, who may have their data deleted.
        """
        matches = [match for text in _texts(value) for match in _ADDRESS.finditer(text)]
        if not matches:
            return value
        maybe = sorted({address for match in matches for _, address in _addresses(match)})
        ids: dict[str, int] = {}
        for start in range(0, len(maybe), _CHUNK):
            some = maybe[start : start + _CHUNK]
            ids |= dict(await User.filter(email__in=some).values_list("email", "account_id"))

        def replaced(match: re.Match[str]) -> str:
            for start, address in _addresses(match):
                if address in ids:
                    return f"{(match[1] or '') if start else ''}{match[2][:start]}account {ids[address]}"
            return f"{match[1] or ''}[an address]" if "." in match[3] else match[0]

        return _rewritten(value, replaced)


# The write that this task is in, and its database.
_open: contextvars.ContextVar[tuple[Database, OperatorWrite] | None] = contextvars.ContextVar(
    "operator_write", default=None
)


def audit_hash(row: dict[str, Any]) -> str:
    """SHA-256 of the row's canonical JSON (keys sorted), the hash before it included."""
    return hashlib.sha256(msgspec.json.encode(row, order="sorted")).hexdigest()


@contextlib.asynccontextmanager
async def operator_write(database: Database, operator: str) -> AsyncIterator[OperatorWrite]:
    """One operator's write, all or nothing.

    On PostgreSQL all of them take one lock until they commit, so change ids become visible in order: a worker that polls
    by id would otherwise miss the row of a slow writer for ever. SQLite's write lock does the same. A write that begins
    within another joins it, and is kept or lost with it: so verbs are made of verbs. It has to be of the same operator on the
    same database; else it would be stored where nobody looks for it, or under another's name.
    """
    if (opened := _open.get()) is not None:
        where, outer = opened
        if where is not database or outer.operator != operator:
            raise RuntimeError(
                f"a write of {operator} on {database.url.shown} cannot be part of one of {outer.operator} on {where.url.shown}"
            )
        yield outer
        return
    async with database.transaction() as transaction:
        if database.dialect == "postgres":
            # A notebook that is gone in the middle must not keep an account from its customer until TCP notices.
            await transaction.execute_query("SET LOCAL idle_in_transaction_session_timeout = '10s'")
            await transaction.execute_query(f"SELECT pg_advisory_xact_lock({CHANGE_LOCK_ID})")
        write = OperatorWrite(transaction, operator, now_us())
        token = _open.set((database, write))
        try:
            yield write
        finally:
            _open.reset(token)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _rewritten(value: Any, replaced: Callable[[re.Match[str]], str]) -> Any:
    if isinstance(value, str):
        return _ADDRESS.sub(replaced, value)
    if isinstance(value, Mapping):
        return {name: _rewritten(part, replaced) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rewritten(part, replaced) for part in value]
    return value


def _addresses(match: re.Match[str]) -> Iterator[tuple[int, str]]:
    """All that the match may end with, the longest first: `welcome-ada@example.com` may be a key made for Ada."""
    starts = [0, *(found.end() for found in re.finditer(r"[\W_]", match[2]))]
    return ((start, f"{match[2][start:]}@{match[3]}".lower()) for start in starts)
