"""Owns introducing a model in one write: the provider, the alias and the route between them, whichever of them is missing."""

from __future__ import annotations

from models.catalog import add_model, add_provider, clean_base_url
from models.changes import operator_write
from models.database import Database
from models.errors import Conflict
from models.records import CatalogModel, Provider, Route
from models.routes import Usd, add_route
from models.secrets import Seal


async def introduce_model(
    database: Database,
    operator: str,
    alias: str,
    *,
    provider: str,
    base_url: str,
    api_key: str | None,
    seal: Seal | None,
    upstream_model: str,
    context_tokens: int,
    max_output_tokens: int,
    cost_input_usd: Usd,
    cost_output_usd: Usd,
) -> None:
    """All of it, or nothing. What is there already stays as it is; a provider that is there needs neither key nor seal.

    Raises Conflict for a provider of this name at another address.
    """
    async with operator_write(database, operator):
        vendor = await Provider.filter(name=provider).first()
        if vendor is None:
            # Providers are never removed, so one that was there is there.
            assert api_key is not None
            assert seal is not None
            await add_provider(database, operator, provider, base_url=base_url, api_key=api_key, seal=seal)
        elif vendor.base_url != clean_base_url(base_url):
            raise Conflict(f"provider: {provider} is at {vendor.base_url}; choose another name", field="provider")
        if not await CatalogModel.filter(alias=alias).exists():
            await add_model(
                database, operator, alias, context_tokens=context_tokens, max_output_tokens=max_output_tokens
            )
        served_by = {"model__alias": alias, "provider__name": provider, "upstream_model": upstream_model}
        if not await Route.filter(**served_by).exists():
            await add_route(
                database,
                operator,
                alias,
                provider=provider,
                upstream_model=upstream_model,
                cost_input_usd=cost_input_usd,
                cost_output_usd=cost_output_usd,
            )
