"""Owns API keys: issuing, scoping, disabling, revoking. Looking a key up on the request path is `gateway/auth.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from models.accounts import find_account
from models.changes import KEY, OperatorWrite, operator_write
from models.checks import check_text
from models.database import Database
from models.errors import BadInput, Conflict, NotFound
from models.ids import now_us
from models.records import ApiKey, CatalogModel, KeyModel
from models.secrets import hash_key_secret, key_hint, new_key_secret


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
    email: str,
    *,
    name: str,
    models: Iterable[str],
    expires_us: int | None = None,
) -> IssuedKey:
    """A new key of the account, allowed to call `models` and nothing else."""
    shown = check_text(name, field="name", most=200)
    aliases = _clean_aliases(models)
    if expires_us is not None and expires_us <= now_us():
        raise BadInput("expires_at: is in the past; give a later moment, or leave it out", field="expires_at")
    secret = new_key_secret()
    async with operator_write(database, operator) as write:
        account = await find_account(database, email)
        ids = await _model_ids(aliases)
        key = await ApiKey.create(
            account_id=account.id,
            name=shown,
            secret_hash=hash_key_secret(secret),
            hint=key_hint(secret),
            expires_us=expires_us,
            created_us=write.at_us,
        )
        await KeyModel.bulk_create([KeyModel(api_key_id=key.id, model_id=id_) for id_ in ids])
        await write.changed(KEY, key.id)
        after = {"account": account.email, "name": shown, "models": aliases, "hint": key.hint, "expires_us": expires_us}
        await write.audit("key.issue", subject(key.id), after=after)
    return IssuedKey(key.id, account.id, shown, tuple(aliases), key.hint, secret, expires_us)


async def revoke_key(database: Database, operator: str, key_id: int, *, reason: str = "") -> None:
    """For good, everywhere within a second. Revoking twice changes nothing."""
    async with operator_write(database, operator) as write:
        key = await _key(key_id)
        if key.revoked_us is None:
            await _update(write, key, "key.revoke", {"revoked_us": write.at_us}, reason=reason)


async def disable_key(database: Database, operator: str, key_id: int, *, reason: str = "") -> None:
    """Until it is enabled again."""
    async with operator_write(database, operator) as write:
        key = await _living_key(key_id)
        if key.disabled_us is None:
            await _update(write, key, "key.disable", {"disabled_us": write.at_us}, reason=reason)


async def enable_key(database: Database, operator: str, key_id: int, *, reason: str = "") -> None:
    async with operator_write(database, operator) as write:
        key = await _living_key(key_id)
        if key.disabled_us is not None:
            await _update(write, key, "key.enable", {"disabled_us": None}, reason=reason)


async def regenerate_key(database: Database, operator: str, key_id: int, *, reason: str = "") -> IssuedKey:
    """A new secret for the same key (id, scope and limits stay); the old secret stops within a second."""
    secret = new_key_secret()
    async with operator_write(database, operator) as write:
        key = await _living_key(key_id)
        hint = key_hint(secret)
        await ApiKey.filter(id=key.id).update(secret_hash=hash_key_secret(secret))
        await _update(write, key, "key.regenerate", {"hint": hint}, reason=reason)
        aliases = await _aliases_of(key.id)
    return IssuedKey(key.id, key.account_id, key.name, tuple(aliases), hint, secret, key.expires_us)


async def set_key_models(
    database: Database, operator: str, key_id: int, models: Iterable[str], *, reason: str = ""
) -> None:
    """Replace the aliases that the key may call."""
    aliases = _clean_aliases(models)
    async with operator_write(database, operator) as write:
        key = await _living_key(key_id)
        before = await _aliases_of(key.id)
        ids = await _model_ids(aliases)
        if sorted(before) == sorted(aliases):
            return
        await KeyModel.filter(api_key_id=key.id).delete()
        await KeyModel.bulk_create([KeyModel(api_key_id=key.id, model_id=id_) for id_ in ids])
        await write.changed(KEY, key.id)
        await write.audit(
            "key.set_models", subject(key.id), reason=reason, before={"models": before}, after={"models": aliases}
        )


async def key_rows(database: Database, email: str | None = None) -> list[dict[str, Any]]:
    """Every key, or those of one account, with its aliases; never its secret."""
    where, values = "", []
    if email is not None:
        where, values = " WHERE k.account_id = ?", [(await find_account(database, email)).id]
    rows = await database.rows(
        "SELECT k.id, u.email AS account, k.name, k.hint, k.created_us, k.expires_us, k.disabled_us, k.revoked_us"
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
        scopes[pair["api_key_id"]].append(pair["alias"])
    return [row | {"models": scopes[row["id"]]} for row in rows]


def subject(key_id: int) -> str:
    """How the audit log names a key."""
    return f"key {key_id}"


async def _update(write: OperatorWrite, key: ApiKey, action: str, values: dict[str, Any], *, reason: str) -> None:
    before = {name: getattr(key, name) for name in values}
    await ApiKey.filter(id=key.id).update(**values)
    await write.changed(KEY, key.id)
    await write.audit(action, subject(key.id), reason=reason, before=before, after=values)


async def _key(key_id: int) -> ApiKey:
    key = None if isinstance(key_id, bool) or not isinstance(key_id, int) else await ApiKey.filter(id=key_id).first()
    if key is None:
        raise NotFound(f"key: there is no key with id {key_id!r}; list them to find it", field="key")
    return key


async def _living_key(key_id: int) -> ApiKey:
    key = await _key(key_id)
    if key.revoked_us is not None:
        raise Conflict(f"key: {key_id} was revoked for good; issue a new one", field="key")
    return key


def _clean_aliases(models: object) -> list[str]:
    # A lone text would be read letter by letter, and "all" would quietly grow with the catalog.
    if models is None or isinstance(models, str | bytes) or not isinstance(models, Iterable):
        raise BadInput('models: list the aliases that the key may call, like ["small-chat"]', field="models")
    aliases = list(models)
    if not aliases:
        raise BadInput("models: is empty; a key may call one or several models, list them", field="models")
    for alias in aliases:
        if not isinstance(alias, str):
            raise BadInput(f"models: {alias!r} is not an alias", field="models")
    return list(dict.fromkeys(aliases))


async def _model_ids(aliases: list[str]) -> list[int]:
    known = dict(await CatalogModel.filter(alias__in=aliases).values_list("alias", "id"))
    unknown = [alias for alias in aliases if alias not in known]
    if unknown:
        raise NotFound(f"models: there is no model {', '.join(map(repr, unknown))}; add it first", field="models")
    return [known[alias] for alias in aliases]


async def _aliases_of(key_id: int) -> list[str]:
    rows = await KeyModel.filter(api_key_id=key_id).order_by("model__alias").values_list("model__alias", flat=True)
    return [str(alias) for alias in rows]
