"""Owns the pages of API keys: making, showing once, changing, renewing, disabling and deleting them. Rules: `models/keys.py`.

A secret is made of the form's own wish (`Visit.wish`): sent twice, the form makes one key, and both answers show it. It is
stored as a hash alone, so a page that was left cannot be had again.
"""

from __future__ import annotations

from typing import Any

from sanic.response import HTTPResponse

from gateway.dashboard.key_form import Wanted, filled, limit_fields, read_form, typed
from gateway.dashboard.pages import Pages, said
from gateway.dashboard.snippets import snippets
from gateway.dashboard.visits import Visit
from models.errors import BadInput, Conflict, NotFound
from models.ids import DAY_US, to_datetime, to_us
from models.keys import (
    IssuedKey,
    disable_key,
    edit_key,
    enable_key,
    end_grace,
    find_key,
    issue_key,
    key_rows,
    key_status,
    regenerate_key,
    revoke_key,
)
from models.records import ApiKey
from models.secrets import key_secret_of
from models.spend import Sums, spend_per_key
from models.usage import UsageFilter

pages = Pages("keys")
GRACES_S = {0: "Stop it now", 3_600: "1 hour", 86_400: "24 hours", 7 * 86_400: "7 days"}
# What expired longer ago is listed among the deleted ones.
_OLD_US = 7 * DAY_US
_CHANGES_AN_HOUR = 300
_DONE = {
    "saved": "Saved. It is in force everywhere within a second.",
    "disabled": "Disabled. Calls with this key are refused from now on, until you enable it again.",
    "enabled": "Enabled. The key works again.",
    "deleted": "Deleted. The key is refused from now on, for good.",
    "ended": "The old secret has stopped.",
}
_STALE = "This form has done its work already, and the key has another secret since. Check it and send it again."


@pages.page("/keys")
async def show_keys(visit: Visit) -> HTTPResponse:
    rows = [row | {"status": key_status(row, visit.at_us)} for row in await _rows(visit)]
    old = [row for row in rows if _is_old(row, visit.at_us)]
    shows_old = visit.query.get("old") == "1"
    shown = [row for row in reversed(rows) if shows_old or row not in old]
    return visit.render(
        "keys.html",
        rows=shown,
        old_count=len(old),
        shows_old=shows_old,
        **await _spend(visit),
        available=available_aliases(visit),
        done=_DONE.get(visit.query.get("done", "")),
    )


@pages.page("/keys/new")
async def show_new(visit: Visit) -> HTTPResponse:
    return await _new_form(visit)


@pages.page("/keys/new", post=True)
async def create(visit: Visit) -> HTTPResponse:
    await throttle_changes(visit)
    limits = await limit_fields(visit.database, visit.gateway.catalog.snapshot, visit.me.account_id)
    wanted, errors = read_form(visit.form, visit.choices("models"), available_aliases(visit), limits, visit.at_us)
    if wanted is None:
        return await _new_form(visit, status=422, errors=errors)
    try:
        issued = await issue_by_form(visit, wanted)
    except BadInput as error:
        return await _new_form(visit, status=422, errors={error.field or "once": said(error)})
    return _show_secret(visit, issued, "Your new key")


@pages.page("/keys/<key_id:int>")
async def show_key(visit: Visit, key_id: int) -> HTTPResponse:
    return await _key_page(visit, key_id)


@pages.page("/keys/<key_id:int>", post=True)
async def change(visit: Visit, key_id: int) -> HTTPResponse:
    await throttle_changes(visit)
    me = visit.me
    row = await find_key(visit.database, me.account_id, key_id)
    limits = await limit_fields(visit.database, visit.gateway.catalog.snapshot, me.account_id, key_id)
    offered = {*available_aliases(visit), *row["models"]}
    wanted, errors = read_form(
        visit.form, visit.choices("models"), offered, limits, visit.at_us, expires_us=row["expires_us"]
    )
    if wanted is None:
        return await _key_page(visit, key_id, status=422, errors=errors)
    try:
        await edit_key(
            visit.database,
            me.actor,
            key_id,
            account_id=me.account_id,
            name=wanted.name,
            models=wanted.models,
            expires_us=wanted.expires_us,
            limits=wanted.limits,
        )
    except BadInput as error:
        return await _key_page(visit, key_id, status=422, errors={error.field or "name": said(error)})
    return visit.redirect(f"/keys/{key_id}?done=saved")


@pages.page("/keys/<key_id:int>/regenerate", post=True)
async def regenerate(visit: Visit, key_id: int) -> HTTPResponse:
    await throttle_changes(visit)
    grace = visit.form.get("grace", "")
    grace_s = next((seconds for seconds in GRACES_S if str(seconds) == grace), None)
    try:
        if grace_s is None:
            raise BadInput("Choose how long the old secret goes on.", field="grace")
        issued = await regenerate_key(
            visit.database,
            visit.me.actor,
            key_id,
            account_id=visit.me.account_id,
            grace_s=grace_s,
            secret=key_secret_of(visit.wish(), f"key {key_id}"),
            replaces=visit.form.get("replaces", ""),
        )
    except NotFound:
        raise
    except Conflict:
        return await _key_page(visit, key_id, status=422, errors={"grace": _STALE})
    except BadInput as error:
        return await _key_page(visit, key_id, status=422, errors={"grace": said(error)})
    row = await find_key(visit.database, visit.me.account_id, key_id)
    return _show_secret(visit, issued, "The key's new secret", until_us=row["old_until_us"])


@pages.page("/keys/<key_id:int>/disable", post=True)
async def disable(visit: Visit, key_id: int) -> HTTPResponse:
    return await _act(visit, key_id, disable_key, "disabled")


@pages.page("/keys/<key_id:int>/enable", post=True)
async def enable(visit: Visit, key_id: int) -> HTTPResponse:
    return await _act(visit, key_id, enable_key, "enabled")


@pages.page("/keys/<key_id:int>/end-grace", post=True)
async def stop_old_secret(visit: Visit, key_id: int) -> HTTPResponse:
    return await _act(visit, key_id, end_grace, "ended")


@pages.page("/keys/<key_id:int>/delete", post=True)
async def delete(visit: Visit, key_id: int) -> HTTPResponse:
    await _act(visit, key_id, revoke_key, "deleted")
    return visit.redirect("/keys?done=deleted")


# ── shared with the playground ────────────────────────────────────────────────────────────────────────────────────


async def issue_by_form(visit: Visit, wanted: Wanted) -> IssuedKey:
    """The key that this form makes; the same one however often it is sent. Raises BadInput."""
    secret = key_secret_of(visit.wish(), "new key")
    me = visit.me
    if await ApiKey.filter(
        account_id=me.account_id, created_us__gte=visit.opened_us, old_secret_hash__isnull=False
    ).exists():
        # Its first secret may be this form's: one that its owner has done away with must not come back to life.
        raise BadInput(_STALE, field="once")
    return await issue_key(
        visit.database,
        me.actor,
        account_id=me.account_id,
        name=wanted.name,
        models=wanted.models,
        expires_us=wanted.expires_us,
        limits=wanted.limits,
        secret=secret,
    )


async def throttle_changes(visit: Visit) -> None:
    await visit.throttle("key changes", str(visit.me.account_id), quota=_CHANGES_AN_HOUR, window_s=3_600)


def available_aliases(visit: Visit) -> list[str]:
    """The aliases that can be called now."""
    return [alias.name for alias, _ in visit.gateway.catalog.snapshot.listed(None, visit.at_us)]


# ── parts of the pages ────────────────────────────────────────────────────────────────────────────────────────────


async def _rows(visit: Visit) -> list[dict[str, Any]]:
    return await key_rows(visit.database, account_id=visit.me.account_id)


def _is_old(row: dict[str, Any], at_us: int) -> bool:
    is_long_over = row["status"] == "expired" and row["expires_us"] < at_us - _OLD_US
    return bool(row["status"] == "revoked" or is_long_over)


async def _spend(visit: Visit, **only: Any) -> dict[str, Any]:
    """What each key has spent this month (UTC) and in all."""
    account_id = visit.me.account_id
    month_us = to_us(to_datetime(visit.at_us).replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    return {
        "this_month": await spend_per_key(visit.database, account_id, UsageFilter(since_us=month_us, **only)),
        "in_all": await spend_per_key(visit.database, account_id, UsageFilter(**only)),
        "NOTHING": Sums(),
    }


async def _new_form(visit: Visit, *, status: int = 200, errors: dict[str, str] | None = None) -> HTTPResponse:
    limits = await limit_fields(visit.database, visit.gateway.catalog.snapshot, visit.me.account_id)
    available = available_aliases(visit)
    return visit.render(
        "key_new.html",
        status=status,
        errors=errors or {},
        form=typed(visit.form, limits) if errors else filled(None, limits),
        chosen=visit.choices("models") or visit.choices("model"),
        models=available,
        available=available,
        limits=limits,
        today=to_datetime(visit.at_us).date().isoformat(),
    )


async def _key_page(
    visit: Visit, key_id: int, *, status: int = 200, errors: dict[str, str] | None = None
) -> HTTPResponse:
    row = await find_key(visit.database, visit.me.account_id, key_id)
    limits = await limit_fields(visit.database, visit.gateway.catalog.snapshot, visit.me.account_id, key_id)
    available = available_aliases(visit)
    is_typed = errors is not None and "grace" not in errors
    return visit.render(
        "key.html",
        status=status,
        row=row | {"status": key_status(row, visit.at_us)},
        errors=errors or {},
        form=typed(visit.form, limits) if is_typed else filled(row, limits),
        chosen=visit.choices("models") if is_typed else row["models"],
        models=sorted({*available, *row["models"]}),
        available=available,
        limits=limits,
        graces=GRACES_S,
        now_us=visit.at_us,
        **await _spend(visit, keys=(key_id,)),
        today=to_datetime(visit.at_us).date().isoformat(),
        done=_DONE.get(visit.query.get("done", "")),
    )


def _show_secret(visit: Visit, issued: IssuedKey, title: str, *, until_us: int | None = None) -> HTTPResponse:
    available = set(available_aliases(visit))
    alias = next((alias for alias in issued.models if alias in available), issued.models[0])
    return visit.render(
        "key_secret.html",
        title=title,
        key=issued,
        until_us=until_us if until_us is not None and until_us > visit.at_us else None,
        alias=alias,
        base_url=visit.api_url,
        snippets=snippets(visit.api_url, issued.secret, alias),
    )


async def _act(visit: Visit, key_id: int, verb: Any, done: str) -> HTTPResponse:
    await throttle_changes(visit)
    try:
        await verb(visit.database, visit.me.actor, key_id, account_id=visit.me.account_id)
    except Conflict:
        # It was deleted meanwhile; its page says so.
        return visit.redirect(f"/keys/{key_id}")
    return visit.redirect(f"/keys/{key_id}?done={done}")
