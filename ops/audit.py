"""Owns the operators' view of the audit log. Reading and checking it is `models/audit.py`."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pandas as pd

from models.audit import AuditCheck, audit_rows, verify_audit
from ops.drawer import Drawer
from ops.frames import MOMENT, frame, moment_us

_COLUMNS = {
    "id": "Int64",
    "at": MOMENT,
    "operator": "str",
    "action": "str",
    "subject": "str",
    "account": "str",
    "reason": "str",
    "before": "str",
    "after": "str",
    "hash": "str",
}


class AuditLog(Drawer):
    """`desk.audit`: who did what, when and why, with what was there before and after."""

    def verify(self, *, known_head: str | None = None) -> AuditCheck:
        """Recompute the whole chain of hashes; the first row that is wrong is named, and whether it was altered,
        removed or inserted.

        Keep `.head` somewhere else: given as `known_head` later, it shows that nothing before it was cut off or rewritten.
        """
        return self._read(verify_audit, known_head=known_head)

    def rows(
        self,
        since: date | str | None = None,
        until: date | str | None = None,
        *,
        action: str | None = None,
        subject: str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """A row per write, oldest first; `limit` keeps the newest. `account` is its e-mail, where it still exists.

        `action` is one like "credits.grant", or a kind like "credits"; `subject` is one like "key 3" or "model small-chat",
        or an account's e-mail. `before` and `after` are JSON.
        """
        since_us, until_us = moment_us(since, field="since"), moment_us(until, field="until")
        rows = self._read(audit_rows, since_us, until_us, action=action, subject=subject, limit=limit)
        return frame((_named(row) for row in rows), _COLUMNS)


def _named(row: dict[str, Any]) -> dict[str, Any]:
    sides = {
        name: None if row[name] is None else msgspec.json.encode(row[name]).decode() for name in ("before", "after")
    }
    return {**row, **sides, "at": row["at_us"]}
