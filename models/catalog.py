"""Owns what is sold and who makes it: providers and aliases. Routes are in `routes.py`, prices in `price_list.py`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from models.changes import CATALOG, operator_write
from models.checks import check_choice, check_text, check_whole
from models.database import Database
from models.epochs import living_secret_marks
from models.errors import AlreadyExists, BadInput, NotFound, SetupError
from models.records import CatalogModel, Provider
from models.secrets import Seal

# Products of rates and tokens must stay within 64 bits; no model's context comes near this.
MOST_TOKENS = 100_000_000
MAX_TOKENS_FIELDS = ("as_given", "max_tokens", "max_completion_tokens")


class ProviderInfo(msgspec.Struct, frozen=True):
    """A provider without its credential."""

    id: int
    name: str
    base_url: str
    max_tokens_field: str


class ModelInfo(msgspec.Struct, frozen=True):
    """A model alias and the bounds of what one request may use."""

    id: int
    alias: str
    context_tokens: int
    max_output_tokens: int
    media_tokens: int
    published: bool
    owned_by: str


async def add_provider(
    database: Database,
    operator: str,
    name: str,
    *,
    base_url: str,
    api_key: str,
    seal: Seal,
    max_tokens_field: str = "as_given",
) -> ProviderInfo:
    """A vendor, with its credential sealed.

    `max_tokens_field` is how its API calls the bound of the output: `max_tokens`, `max_completion_tokens`, or `as_given`,
    which passes on the client's own choice. Name it for a provider that ignores one of the two: a bound that a provider
    ignores does not bind, and what is used beyond the hold may have to be written off.
    """
    shown = check_text(name, field="name", most=100)
    url = clean_base_url(base_url)
    credential = seal.close(_clean_credential(api_key))
    field = check_choice(max_tokens_field, field="max_tokens_field", choices=MAX_TOKENS_FIELDS)
    async with operator_write(database, operator) as write:
        await _check_seal(database, seal)
        if await Provider.filter(name=shown).exists():
            raise AlreadyExists(f"name: there is a provider {shown!r} already", field="name")
        other = await Provider.all().order_by("-id").first()
        if other is not None:
            # Sealed under two keys, one of the credentials could never be read; this raises with the remedy.
            seal.open(other.credential)
        row = await Provider.create(
            name=shown, base_url=url, credential=credential, max_tokens_field=field, created_us=write.at_us
        )
        await write.changed(CATALOG)
        await write.audit(
            "provider.add", f"provider {shown}", after={"base_url": url, "max_tokens_field": field, "id": row.id}
        )
    return ProviderInfo(row.id, shown, url, field)


async def set_credential(
    database: Database, operator: str, provider: str, *, api_key: str, seal: Seal, reason: str = ""
) -> None:
    """Replace the key that we call the provider with. The audit log says that it changed, never what it is.

    The same one again changes nothing.
    """
    text = _clean_credential(api_key)
    credential = seal.close(text)
    async with operator_write(database, operator) as write:
        await _check_seal(database, seal)
        row = await find_provider(provider)
        if _opened(seal, (await Provider.get(id=row.id)).credential) == text:
            return
        await Provider.filter(id=row.id).update(credential=credential)
        await write.changed(CATALOG)
        await write.audit("provider.set_credential", f"provider {row.name}", reason=reason)


async def set_base_url(database: Database, operator: str, provider: str, *, base_url: str, reason: str = "") -> None:
    """Move the provider to another address. The same one again changes nothing."""
    url = clean_base_url(base_url)
    async with operator_write(database, operator) as write:
        row = await find_provider(provider)
        if row.base_url == url:
            return
        await Provider.filter(id=row.id).update(base_url=url)
        await write.changed(CATALOG)
        await write.audit(
            "provider.set_base_url",
            f"provider {row.name}",
            reason=reason,
            before={"base_url": row.base_url},
            after={"base_url": url},
        )


async def add_model(
    database: Database,
    operator: str,
    alias: str,
    *,
    context_tokens: int,
    max_output_tokens: int,
    media_tokens: int = 8_192,
    published: bool = False,
    owned_by: str = "supertomorrow",
) -> ModelInfo:
    """A name that customers send. It can be called once it is published, priced and has an enabled route."""
    shown = check_text(alias, field="alias", most=200, spaces=False)
    context = check_whole(context_tokens, field="context_tokens", least=1, most=MOST_TOKENS)
    output = check_whole(max_output_tokens, field="max_output_tokens", least=1, most=MOST_TOKENS)
    if output > context:
        raise BadInput(
            f"max_output_tokens: {output} is above context_tokens ({context}); give at most that",
            field="max_output_tokens",
        )
    media = check_whole(media_tokens, field="media_tokens", least=0, most=MOST_TOKENS)
    owner = check_text(owned_by, field="owned_by", most=100)
    values: dict[str, Any] = {
        "alias": shown,
        "context_tokens": context,
        "max_output_tokens": output,
        "media_tokens": media,
        "published": _clean_flag(published),
        "owned_by": owner,
    }
    async with operator_write(database, operator) as write:
        if await CatalogModel.filter(alias=shown).exists():
            raise AlreadyExists(f"alias: there is a model {shown!r} already", field="alias")
        row = await CatalogModel.create(**values, created_us=write.at_us)
        await write.changed(CATALOG)
        await write.audit("model.add", f"model {shown}", after=values)
    return _model_info(row)


async def publish_model(database: Database, operator: str, alias: str) -> ModelInfo:
    """Offer the alias to the keys that have it in their scope. Twice changes nothing."""
    return await _set_published(database, operator, alias, True)


async def unpublish_model(database: Database, operator: str, alias: str) -> ModelInfo:
    """Offer the alias no more; its keys, prices and records stay."""
    return await _set_published(database, operator, alias, False)


async def find_provider(name: object) -> ProviderInfo:
    row = await Provider.filter(name=name).first() if isinstance(name, str) else None
    if row is None:
        raise NotFound(f"provider: there is no provider {name!r}; add it first", field="provider")
    return ProviderInfo(row.id, row.name, row.base_url, row.max_tokens_field)


async def find_model(alias: object) -> ModelInfo:
    row = await CatalogModel.filter(alias=alias).first() if isinstance(alias, str) else None
    if row is None:
        raise NotFound(f"model: there is no model {alias!r}; add it first", field="model")
    return _model_info(row)


async def provider_rows(database: Database) -> list[dict[str, Any]]:
    return await database.rows("SELECT id, name, base_url, max_tokens_field, created_us FROM provider ORDER BY name")


async def model_rows(database: Database) -> list[dict[str, Any]]:
    """Every alias with the number of its enabled routes and of the living keys that may call it."""
    return await database.rows(
        "SELECT m.id, m.alias, m.context_tokens, m.max_output_tokens, m.media_tokens, m.published, m.owned_by,"
        " COALESCE(r.n, 0) AS routes, COALESCE(k.n, 0) AS key_count FROM model m"
        " LEFT JOIN (SELECT model_id, COUNT(*) AS n FROM route WHERE enabled GROUP BY model_id) r ON r.model_id = m.id"
        " LEFT JOIN (SELECT s.model_id, COUNT(*) AS n FROM key_model s JOIN api_key a ON a.id = s.api_key_id"
        " WHERE a.revoked_us IS NULL GROUP BY s.model_id) k ON k.model_id = m.id ORDER BY m.alias"
    )


def clean_base_url(value: object) -> str:
    """An http(s) address without the slash at its end. Raises BadInput for anything else, a user in it included."""
    text = check_text(value, field="base_url", most=500, spaces=False).rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or parts.username is not None or parts.query or parts.fragment:
        raise BadInput(
            f"base_url: {text!r} is not an address like https://api.example.com/v1 (no user, query or fragment)",
            field="base_url",
        )
    return text


def _clean_credential(api_key: object) -> str:
    return check_text(api_key, field="api_key", most=4_000, spaces=False, secret=True)


async def _check_seal(database: Database, seal: Seal) -> None:
    """Raises SetupError when workers are alive that could not read what is sealed under this key."""
    if await living_secret_marks(database) - {seal.mark}:
        raise SetupError(
            "GATEWAY_SECRET_KEY: is not the one that the running servers use, and they could not read this credential; "
            "set theirs. If it is lost, stop them first"
        )


def _opened(seal: Seal, sealed: str) -> str | None:
    """None when it was sealed under a secret that is lost: setting the credentials again is the remedy."""
    try:
        return seal.open(sealed)
    except SetupError:
        return None


def _clean_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadInput(f"published: must be True or False, not {value!r}", field="published")
    return value


async def _set_published(database: Database, operator: str, alias: str, published: bool) -> ModelInfo:
    async with operator_write(database, operator) as write:
        model = await find_model(alias)
        if model.published == published:
            return model
        await CatalogModel.filter(id=model.id).update(published=published)
        await write.changed(CATALOG)
        await write.audit(
            "model.publish" if published else "model.unpublish",
            f"model {model.alias}",
            before={"published": model.published},
            after={"published": published},
        )
    return msgspec.structs.replace(model, published=published)


def _model_info(row: CatalogModel) -> ModelInfo:
    return ModelInfo(
        id=row.id,
        alias=row.alias,
        context_tokens=row.context_tokens,
        max_output_tokens=row.max_output_tokens,
        media_tokens=row.media_tokens,
        published=row.published,
        owned_by=row.owned_by,
    )
