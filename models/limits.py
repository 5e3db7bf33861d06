"""Owns the records of limits: `Limit(subject, unit, quota, window_s)`. Counting against them is `gateway/limits/`."""

from __future__ import annotations

from typing import Any

from models.changes import ACCOUNT, KEY, LIMITS, OperatorWrite, operator_write
from models.checks import check_choice, check_whole
from models.database import Database
from models.errors import NotFound
from models.records import Account, ApiKey, LimitRule, Route

UNITS = ("requests", "tokens", "concurrent")
SUBJECTS = ("key", "account", "route")
DEFAULTS = tuple(f"default_{subject}" for subject in SUBJECTS)
MOST_QUOTA = 10**15
MOST_WINDOW_S = 31 * 86_400
_RECORDS = {"key": ApiKey, "account": Account, "route": Route}
# Whom a worker must look at again: one key, all of one account, or, for what stands in the snapshot, everything.
_CHANGES = {"key": KEY, "account": ACCOUNT}


async def set_limit(
    database: Database,
    operator: str,
    *,
    subject: str,
    subject_id: int = 0,
    unit: str,
    quota: int | None,
    window_s: int = 60,
    reason: str = "",
) -> None:
    """Replace the limit of this subject and unit; `quota=None` removes it. `concurrent` counts and has no window.

    A `default_*` subject (id 0) serves every key, account or route without a limit of its own in that unit.
    """
    check_choice(subject, field="subject", choices=(*SUBJECTS, *DEFAULTS))
    subject_id = 0 if subject in DEFAULTS else check_whole(subject_id, field=subject, least=1)
    async with operator_write(database, operator) as write:
        if subject in SUBJECTS and not await _RECORDS[subject].filter(id=subject_id).exists():
            raise NotFound(f"{subject}: there is none with id {subject_id}", field=subject)
        await put_limit(
            write, subject=subject, subject_id=subject_id, unit=unit, quota=quota, window_s=window_s, reason=reason
        )


async def put_limit(
    write: OperatorWrite,
    *,
    subject: str,
    subject_id: int,
    unit: str,
    quota: int | None,
    window_s: int = 60,
    reason: str = "",
) -> None:
    """`set_limit` within an open write, for a subject that exists."""
    check_choice(unit, field="unit", choices=UNITS)
    if quota is not None:
        check_whole(quota, field="quota", least=1, most=MOST_QUOTA)
    check_whole(window_s, field="window_s", least=0 if unit == "concurrent" else 1, most=MOST_WINDOW_S)
    target: dict[str, Any] = {"subject": subject, "subject_id": subject_id, "unit": unit}
    values: dict[str, Any] = {"quota": quota, "window_s": 0 if unit == "concurrent" else window_s}
    known = await LimitRule.filter(**target).first()
    before = None if known is None else {"quota": known.quota, "window_s": known.window_s}
    after = None if quota is None else values
    if before == after:
        return
    if quota is None:
        await LimitRule.filter(**target).delete()
    elif known is None:
        await LimitRule.create(**target, **values)
    else:
        await LimitRule.filter(**target).update(**values)
    await write.changed(_CHANGES.get(subject, LIMITS), subject_id)
    shown = f"{subject} {subject_id}" if subject_id else subject
    await write.audit(f"limit.{unit}", shown, reason=reason, before=before, after=after)


async def own_limits(database: Database, subject: str, subject_id: int) -> dict[str, tuple[int, int]]:
    """By unit, the quota and its window in seconds of the limits that a subject has of its own."""
    rules = LimitRule.filter(subject=subject, subject_id=subject_id).using_db(database.connection)
    return {rule.unit: (rule.quota, rule.window_s) for rule in await rules}


async def limit_rows(database: Database) -> list[dict[str, Any]]:
    """Every limit; `name` is the key's, account's or route's own."""
    return await database.rows(
        "SELECT l.id, l.subject, l.subject_id, l.unit, l.quota, l.window_s,"
        " COALESCE(k.name, a.name, r.upstream_model, '') AS name FROM \"limit\" l"
        " LEFT JOIN api_key k ON l.subject = 'key' AND k.id = l.subject_id"
        " LEFT JOIN account a ON l.subject = 'account' AND a.id = l.subject_id"
        " LEFT JOIN route r ON l.subject = 'route' AND r.id = l.subject_id"
        " ORDER BY l.subject, l.subject_id, l.unit"
    )
