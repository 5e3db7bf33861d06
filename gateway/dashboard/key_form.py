"""Owns the form of a key: what it offers, and reading what was typed, with everything that is wrong beside its field."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

import msgspec

from gateway.catalog import Snapshot
from gateway.dashboard.pages import said
from gateway.limits import Limit
from models.checks import check_text
from models.database import Database
from models.errors import BadInput
from models.ids import DAY_US, to_datetime
from models.limits import MOST_QUOTA, own_limits

MINUTE_S = 60
LABELS = {"requests": "Requests a minute", "tokens": "Tokens a minute", "concurrent": "Requests at once"}
_EPOCH = date(1970, 1, 1)
_LAST_DAY = date(9000, 1, 1)


class LimitField(msgspec.Struct, frozen=True):
    """A limit that the form asks for: what the key has of its own, and the most that it may have.

    `fixed` is a limit in other terms than the form's, which only staff sets; then nothing is asked.
    """

    unit: str
    label: str
    hint: str
    own: int | None
    most: int
    fixed: str = ""

    @property
    def name(self) -> str:
        return f"limit_{self.unit}"


class Wanted(msgspec.Struct, frozen=True):
    """What the form asks for, ready for `models/keys.py`."""

    name: str
    models: list[str]
    expires_us: int | None
    limits: dict[str, int | None]


async def limit_fields(
    database: Database, snapshot: Snapshot, account_id: int, key_id: int | None = None
) -> list[LimitField]:
    """A key's own limits can be tighter than every key's, never looser."""
    own = await own_limits(database, "key", key_id) if key_id is not None else {}
    account = _by_unit(snapshot.defaults["account"]) | await own_limits(database, "account", account_id)
    everybody = _by_unit(snapshot.defaults["key"])
    fields = []
    for unit, label in LABELS.items():
        quota, window_s = own.get(unit, (None, MINUTE_S))
        is_fixed = quota is not None and unit != "concurrent" and window_s != MINUTE_S
        fields.append(
            LimitField(
                unit=unit,
                label=label,
                hint=_hint(everybody.get(unit), account.get(unit)),
                own=quota,
                most=_most(unit, everybody.get(unit)),
                fixed=f"{quota_text(quota, window_s)}, set by our staff" if is_fixed and quota is not None else "",
            )
        )
    return fields


def read_form(
    form: Mapping[str, str],
    chosen: Sequence[str],
    offered: Collection[str],
    limits: Sequence[LimitField],
    at_us: int,
    *,
    expires_us: int | None = None,
) -> tuple[Wanted | None, dict[str, str]]:
    """What was asked for, or what is wrong with it by field. `expires_us`: of the key that is being edited."""
    errors: dict[str, str] = {}
    name, wanted_us, quotas = "", expires_us, {}
    try:
        name = check_text(form.get("name", ""), field="name", most=200)
    except BadInput as error:
        is_empty = not form.get("name", "").strip()
        errors["name"] = "Give the key a name; you will know it by that." if is_empty else said(error)
    models = [alias for alias in dict.fromkeys(chosen) if alias in offered]
    strangers = [alias for alias in chosen if alias not in offered]
    if strangers:
        errors["models"] = f"{', '.join(strangers)[:200]} cannot be chosen now; choose others."
    elif not models:
        errors["models"] = "Choose at least one model; a key can call nothing else."
    try:
        wanted_us = _moment(form.get("expires", "").strip(), expires_us, at_us)
    except BadInput as error:
        errors["expires"] = str(error)
    for field in limits:
        try:
            if not field.fixed:
                quotas[field.unit] = _quota(form.get(field.name, ""), field)
        except BadInput as error:
            errors[field.name] = str(error)
    return (None if errors else Wanted(name, models, wanted_us, quotas)), errors


def filled(row: Mapping[str, Any] | None, limits: Sequence[LimitField]) -> dict[str, str]:
    """What stands in the form at first: of a key's row, or of none."""
    values = {field.name: "" if field.own is None else str(field.own) for field in limits}
    if row is None:
        return {"name": "", "expires": "", **values}
    return {"name": row["name"], "expires": last_day(row["expires_us"]), **values}


def typed(form: Mapping[str, str], limits: Sequence[LimitField]) -> dict[str, str]:
    """What was typed, to stand in the form again."""
    return {name: form.get(name, "") for name in ("name", "expires", *[field.name for field in limits])}


def last_day(expires_us: int | None) -> str:
    """The last day (UTC) on which a key works, as date fields have it."""
    return "" if expires_us is None else to_datetime(expires_us - 1).date().isoformat()


def quota_text(quota: int, window_s: int) -> str:
    """60 a minute; 1,000 in 86,400 s; 8 at once."""
    if window_s == 0:
        return f"{quota:,} at once"
    return f"{quota:,} a minute" if window_s == MINUTE_S else f"{quota:,} in {window_s:,} s"


def _moment(day: str, known_us: int | None, at_us: int) -> int | None:
    if not day:
        return None
    if day == last_day(known_us):
        # Staff may have chosen a moment within that day.
        return known_us
    try:
        chosen = date.fromisoformat(day)
    except ValueError:
        raise BadInput("Write the day like 2026-12-31, or leave it empty.", field="expires") from None
    moment_us = ((chosen - _EPOCH).days + 1) * DAY_US
    if moment_us <= at_us or chosen > _LAST_DAY:
        raise BadInput("This day is over; choose a later one, or leave it empty.", field="expires")
    return moment_us


def _quota(text: str, field: LimitField) -> int | None:
    digits = text.strip().replace(",", "").replace(" ", "")
    if not digits:
        return None
    if digits.isascii() and digits.isdecimal() and len(digits) <= len(str(MOST_QUOTA)):
        quota = int(digits)
        if 1 <= quota <= field.most or quota == field.own:
            return quota
    raise BadInput(f"Give a whole number from 1 to {field.most:,}, or leave it empty.", field=field.name)


def _by_unit(limits: Sequence[Limit]) -> dict[str, tuple[int, int]]:
    return {limit.unit: (limit.quota, limit.window_s) for limit in limits}


def _most(unit: str, everybody: tuple[int, int] | None) -> int:
    if everybody is None:
        return MOST_QUOTA
    quota, window_s = everybody
    return quota if unit == "concurrent" else max(1, min(quota, quota * MINUTE_S // window_s))


def _hint(everybody: tuple[int, int] | None, account: tuple[int, int] | None) -> str:
    empty = f"Empty: {quota_text(*everybody)}, as for every key." if everybody else "Empty: no limit of its own."
    return f"{empty} All your keys together: {quota_text(*account)}." if account else empty
