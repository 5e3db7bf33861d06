"""Owns API keys: issuing, editing, disabling, revoking. Looking a key up on the request path is `gateway/auth.py`.

Every verb takes `account_id`: with it, a key of another account is not found, exactly as one that does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from models.accounts import find_account
from models.changes import KEY, OperatorWrite, operator_write
from models.checks import MOST_BIGINT, check_text, check_whole
from models.database import Database
from models.errors import BadInput, Conflict, NotFound
from models.ids import DAY_US, SECOND_US, now_us
from models.key_scope import aliases_of, clean_aliases, model_ids, put_aliases, subject
from models.limits import put_limit
from models.records import ApiKey, KeyModel
from models.secrets import hash_key_secret, key_hint, new_key_secret

LONGEST_GRACE_S = 30 * DAY_US // SECOND_US


class IssuedKey(msgspec.Struct, frozen=True):
    """A key just made. `secret` stands nowhere else: only its hash is stored, and it is not shown by `repr`."""

    id: int
    account_id: int
    name: str
    models: tuple[str, ...]
    hint: str
    secret: str
    expires_us: int | None = None

    def __repr__(self) -> str:
        models = ", ".join(self.models)
        return (
            f"IssuedKey(id={self.id}, name={self.name!r}, hint={self.hint!r}, models=[{models}]; .secret is shown once)"
        )


async def issue_key(
    database: Database,
    operator: str,
    email: str | None = None,
    *,
    account_id: int | None = None,
    name: str,
    models: Iterable[str],
    expires_us: int | None = None,
    limits: Mapping[str, int | None] | None = None,
    secret: str | None = None,
) -> IssuedKey:
    """A new key of the account (named by its e-mail or its id), allowed to call `models` and nothing else.

    `limits` are the key's own, by unit, a minute. A `secret` of the caller's choosing is random and was never used before;
    with it, issuing twice is issuing once, and the key that there is comes back.
    """
    shown = check_text(name, field="name", most=200)
    aliases = clean_aliases(models)
    _check_expiry(expires_us)
    chosen = new_key_secret() if secret is None else secret
    async with operator_write(database, operator) as write:
        owner = account_id if account_id is not None else (await find_account(database, email or "")).id
        known = await ApiKey.filter(secret_hash=hash_key_secret(chosen), account_id=owner).first()
        if known is not None:
            await _living_key(known.id, owner)
            return await _issued(known, chosen)
        ids = await model_ids(aliases)
        key = await ApiKey.create(
            account_id=owner,
            name=shown,
            secret_hash=hash_key_secret(chosen),
            hint=key_hint(chosen),
            expires_us=expires_us,
            created_us=write.at_us,
        )
        await KeyModel.bulk_create([KeyModel(api_key_id=key.id, model_id=id_) for id_ in ids])
        await write.changed(KEY, key.id)
        # Its name is the customer's own words; the log keeps none.
        after = {"account_id": owner, "models": aliases, "hint": key.hint, "expires_us": expires_us}
        await write.audit("key.issue", subject(key.id), after=after)
        for unit, quota in (limits or {}).items():
            await put_limit(write, subject="key", subject_id=key.id, unit=unit, quota=quota)
    return IssuedKey(key.id, owner, shown, tuple(aliases), key.hint, chosen, expires_us)


async def revoke_key(
    database: Database, operator: str, key_id: int, *, account_id: int | None = None, reason: str = ""
) -> None:
    """For good, everywhere within a second. Revoking twice changes nothing."""
    async with operator_write(database, operator) as write:
        key = await _key(key_id, account_id)
        if key.revoked_us is None:
            await _update(write, key, "key.revoke", {"revoked_us": write.at_us}, reason=reason)


async def disable_key(
    database: Database, operator: str, key_id: int, *, account_id: int | None = None, reason: str = ""
) -> None:
    """Until it is enabled again."""
    async with operator_write(database, operator) as write:
        key = await _living_key(key_id, account_id)
        if key.disabled_us is None:
            await _update(write, key, "key.disable", {"disabled_us": write.at_us}, reason=reason)


async def enable_key(
    database: Database, operator: str, key_id: int, *, account_id: int | None = None, reason: str = ""
) -> None:
    async with operator_write(database, operator) as write:
        key = await _living_key(key_id, account_id)
        if key.disabled_us is not None:
            await _update(write, key, "key.enable", {"disabled_us": None}, reason=reason)


async def regenerate_key(
    database: Database,
    operator: str,
    key_id: int,
    *,
    account_id: int | None = None,
    grace_s: int = 0,
    secret: str | None = None,
    replaces: str | None = None,
    reason: str = "",
) -> IssuedKey:
    """A new secret for the same key (id, scope and limits stay).

    The old secret works for `grace_s` seconds more and stops within a second after; one that was older still stops now.
    `replaces` is the hint that was seen: Conflict if the key has another secret meanwhile. With a `secret` of the caller's
    choosing, sending it twice changes nothing the second time.
    """
    check_whole(grace_s, field="grace_s", least=0, most=LONGEST_GRACE_S)
    chosen = new_key_secret() if secret is None else secret
    hint = key_hint(chosen)
    async with operator_write(database, operator) as write:
        key = await _living_key(key_id, account_id)
        if key.secret_hash == hash_key_secret(chosen):
            return await _issued(key, chosen)
        if replaces is not None and replaces != key.hint:
            raise Conflict(f"key: {key_id} got another secret meanwhile; look at it again", field="key")
        # Also without grace the old hash stays: it tells that this key was regenerated.
        until_us = write.at_us + grace_s * SECOND_US
        await ApiKey.filter(id=key.id).update(secret_hash=hash_key_secret(chosen), old_secret_hash=key.secret_hash)
        await _update(write, key, "key.regenerate", {"hint": hint, "old_until_us": until_us}, reason=reason)
        key.hint = hint
        return await _issued(key, chosen)


async def end_grace(
    database: Database, operator: str, key_id: int, *, account_id: int | None = None, reason: str = ""
) -> None:
    """The secret before the last regeneration stops within a second, whatever was promised to it."""
    async with operator_write(database, operator) as write:
        key = await _living_key(key_id, account_id)
        if key.old_until_us is not None and key.old_until_us > write.at_us:
            await _update(write, key, "key.end_grace", {"old_until_us": write.at_us}, reason=reason)


async def edit_key(
    database: Database,
    operator: str,
    key_id: int,
    *,
    account_id: int | None = None,
    name: str | None = None,
    models: Iterable[str] | None = None,
    expires_us: int | UnsetType | None = UNSET,
    limits: Mapping[str, int | None] | None = None,
    reason: str = "",
) -> None:
    """Change what is given, all of it or nothing: the name, the aliases that it may call (all of them anew), when it expires
    (None: never), its own limits by unit, a minute (None: the default again).
    """
    shown = None if name is None else check_text(name, field="name", most=200)
    aliases = None if models is None else clean_aliases(models)
    async with operator_write(database, operator) as write:
        key = await _living_key(key_id, account_id)
        if shown is not None and shown != key.name:
            await ApiKey.filter(id=key.id).update(name=shown)
            await write.audit("key.rename", subject(key.id), reason=reason)
        if expires_us is not UNSET and expires_us != key.expires_us:
            _check_expiry(expires_us)
            await _update(write, key, "key.set_expiry", {"expires_us": expires_us}, reason=reason)
        if aliases is not None:
            await put_aliases(write, key.id, aliases, reason=reason)
        for unit, quota in (limits or {}).items():
            await put_limit(write, subject="key", subject_id=key.id, unit=unit, quota=quota, reason=reason)


async def set_key_models(
    database: Database, operator: str, key_id: int, models: Iterable[str], *, reason: str = ""
) -> None:
    """Replace the aliases that the key may call."""
    await edit_key(database, operator, key_id, models=clean_aliases(models), reason=reason)


def key_status(row: Mapping[str, Any], at_us: int) -> str:
    """Of a row of `key_rows`: active, disabled, expired or revoked."""
    if row["revoked_us"] is not None:
        return "revoked"
    if row["expires_us"] is not None and row["expires_us"] <= at_us:
        return "expired"
    return "active" if row["disabled_us"] is None else "disabled"


async def key_rows(
    database: Database, email: str | None = None, *, account_id: int | None = None, key_id: int | None = None
) -> list[dict[str, Any]]:
    """Every key, or those of one account, or one of them, with its aliases; never its secret."""
    if email is not None:
        account_id = (await find_account(database, email)).id
    asked = {"k.account_id": account_id, "k.id": key_id}
    given = {column: value for column, value in asked.items() if value is not None}
    where = f" WHERE {' AND '.join(f'{column} = ?' for column in given)}" if given else ""
    values = list(given.values())
    rows = await database.rows(
        "SELECT k.id, u.email AS account, k.name, k.hint, k.created_us, k.expires_us, k.disabled_us, k.revoked_us,"
        " k.last_used_us, k.old_until_us"
        ' FROM api_key k LEFT JOIN "user" u'
        ' ON u.id = (SELECT MIN(first.id) FROM "user" first WHERE first.account_id = k.account_id)'
        f"{where} ORDER BY k.id",
        values,
    )
    scopes: dict[int, list[str]] = {row["id"]: [] for row in rows}
    pairs = await database.rows(
        "SELECT s.api_key_id, m.alias FROM key_model s JOIN model m ON m.id = s.model_id"
        f" JOIN api_key k ON k.id = s.api_key_id{where} ORDER BY m.alias",
        values,
    )
    for pair in pairs:
        if pair["api_key_id"] in scopes:
            scopes[pair["api_key_id"]].append(pair["alias"])
    return [row | {"models": scopes[row["id"]]} for row in rows]


async def find_key(database: Database, account_id: int, key_id: int) -> dict[str, Any]:
    """The row of one key of the account. Raises NotFound."""
    await _key(key_id, account_id)
    return (await key_rows(database, account_id=account_id, key_id=key_id))[0]


async def _update(write: OperatorWrite, key: ApiKey, action: str, values: dict[str, Any], *, reason: str) -> None:
    before = {name: getattr(key, name) for name in values}
    await ApiKey.filter(id=key.id).update(**values)
    await write.changed(KEY, key.id)
    await write.audit(action, subject(key.id), reason=reason, before=before, after=values)


async def _issued(key: ApiKey, secret: str) -> IssuedKey:
    aliases = await aliases_of(key.id)
    return IssuedKey(key.id, key.account_id, key.name, tuple(aliases), key.hint, secret, key.expires_us)


def _check_expiry(expires_us: int | None) -> None:
    if expires_us is not None and expires_us <= now_us():
        raise BadInput("expires_at: is in the past; give a later moment, or leave it out", field="expires_at")


async def _key(key_id: int, account_id: int | None = None) -> ApiKey:
    is_id = isinstance(key_id, int) and not isinstance(key_id, bool) and 0 < key_id <= MOST_BIGINT
    owner = {} if account_id is None else {"account_id": account_id}
    key = await ApiKey.filter(id=key_id, **owner).first() if is_id else None
    if key is None:
        raise NotFound(f"key: there is no key with id {key_id!r}; list them to find it", field="key")
    return key


async def _living_key(key_id: int, account_id: int | None = None) -> ApiKey:
    key = await _key(key_id, account_id)
    if key.revoked_us is not None:
        raise Conflict(f"key: {key_id} was revoked for good; issue a new one", field="key")
    return key
