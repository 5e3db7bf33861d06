"""Owns the operators' verbs on the catalog. The rules are in `models/catalog.py`, `routes.py` and `price_list.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import pandas as pd

from models.catalog import (
    ModelInfo,
    ProviderInfo,
    add_model,
    add_provider,
    model_rows,
    provider_rows,
    publish_model,
    set_credential,
    unpublish_model,
)
from models.database import Database
from models.price_list import price_rows
from models.price_terms import price_from_usd
from models.prices import rate_to_usd
from models.routes import RouteInfo, Usd, add_route, disable_route, enable_route, route_list, set_route
from ops.drawer import Drawer
from ops.frames import EXACT, MOMENT, frame, moment_us
from ops.proposals import Proposal, draw_up

_METERS = {"input_usd": "input_nano", "cached_input_usd": "cached_input_nano"}
_METERS |= {"cache_write_usd": "cache_write_nano", "output_usd": "output_nano"}
_PROVIDERS = {"name": "str", "base_url": "str", "max_tokens_field": "str", "id": "Int64", "created_at": MOMENT}
_MODELS = {
    "model": "str",
    "published": "boolean",
    **dict.fromkeys(_METERS, EXACT),
    "context_tokens": "Int64",
    "max_output_tokens": "Int64",
    "media_tokens": "Int64",
    "routes": "Int64",
    "keys": "Int64",
    "owned_by": "str",
}
_PRICES = {
    "price_version": "Int64",
    "model": "str",
    "status": "str",
    "effective_from": MOMENT,
    **dict.fromkeys(_METERS, EXACT),
    "tiers": "Int64",
    "windows": "Int64",
    "operator": "str",
    "reason": "str",
    "published_at": MOMENT,
}
_ROUTES = {
    "id": "Int64",
    "model": "str",
    "provider": "str",
    "upstream_model": "str",
    "position": "Int64",
    "weight": "Int64",
    "enabled": "boolean",
    **dict.fromkeys((f"cost_{meter}" for meter in _METERS), EXACT),
}


class Catalog(Drawer):
    """`desk.catalog`. Prices and costs are USD per million tokens, as decimal texts like "0.27", never floats."""

    def add_provider(
        self, name: str, *, base_url: str, api_key: str, max_tokens_field: str = "as_given"
    ) -> ProviderInfo:
        """A vendor with an OpenAI-compatible API. Its key is stored encrypted."""
        return self._write(
            add_provider,
            name,
            base_url=base_url,
            api_key=api_key,
            seal=self._desk._seal,
            max_tokens_field=max_tokens_field,
        )

    def set_credential(self, provider: str, *, api_key: str, reason: str = "") -> None:
        """Replace the key that we call a provider with."""
        self._write(set_credential, provider, api_key=api_key, seal=self._desk._seal, reason=reason)

    def add_model(
        self,
        alias: str,
        *,
        context_tokens: int,
        max_output_tokens: int,
        media_tokens: int = 8_192,
        published: bool = False,
        owned_by: str = "supertomorrow",
    ) -> ModelInfo:
        """A name that customers send. It can be called once it is published, priced and has an enabled route."""
        return self._write(
            add_model,
            alias,
            context_tokens=context_tokens,
            max_output_tokens=max_output_tokens,
            media_tokens=media_tokens,
            published=published,
            owned_by=owned_by,
        )

    def publish(self, alias: str) -> ModelInfo:
        return self._write(publish_model, alias)

    def unpublish(self, alias: str) -> ModelInfo:
        return self._write(unpublish_model, alias)

    def add_route(
        self,
        model: str,
        *,
        provider: str,
        upstream_model: str,
        position: int = 1,
        weight: int = 1,
        cost_input_usd: Usd | None = None,
        cost_output_usd: Usd | None = None,
        cost_cached_input_usd: Usd | None = None,
        cost_cache_write_usd: Usd | None = None,
    ) -> RouteInfo:
        """Serve a model from a provider. Lower positions first; equal ones share by weight."""
        return self._write(
            add_route,
            model,
            provider=provider,
            upstream_model=upstream_model,
            position=position,
            weight=weight,
            cost_input_usd=cost_input_usd,
            cost_cached_input_usd=cost_cached_input_usd,
            cost_cache_write_usd=cost_cache_write_usd,
            cost_output_usd=cost_output_usd,
        )

    def set_route(
        self,
        route_id: int,
        *,
        position: int | None = None,
        weight: int | None = None,
        cost_input_usd: Usd | None = None,
        cost_output_usd: Usd | None = None,
        cost_cached_input_usd: Usd | None = None,
        cost_cache_write_usd: Usd | None = None,
        reason: str = "",
    ) -> RouteInfo:
        """Change a route's place, weight or costs; what is left out stays."""
        return self._write(
            set_route,
            route_id,
            position=position,
            weight=weight,
            cost_input_usd=cost_input_usd,
            cost_cached_input_usd=cost_cached_input_usd,
            cost_cache_write_usd=cost_cache_write_usd,
            cost_output_usd=cost_output_usd,
            reason=reason,
        )

    def enable_route(self, route_id: int, *, reason: str = "") -> RouteInfo:
        return self._write(enable_route, route_id, reason=reason)

    def disable_route(self, route_id: int, *, reason: str = "") -> RouteInfo:
        return self._write(disable_route, route_id, reason=reason)

    def propose_price(
        self,
        model: str,
        *,
        input_usd: Usd,
        output_usd: Usd,
        cached_input_usd: Usd | None = None,
        cache_write_usd: Usd | None = None,
        tiers: Sequence[Mapping[str, Any]] = (),
        windows: Sequence[Mapping[str, Any]] = (),
        effective_from: datetime | str | None = None,
    ) -> Proposal:
        """A price to look at before it is published; nothing changes yet. It takes effect at once, or `effective_from`.

        tiers=[{"above_tokens": 128_000, "input_usd": "0.54", "output_usd": "2.20"}] prices long inputs;
        windows=[{"start": "16:30", "end": "00:30", "input_usd": "0.14", "output_usd": "0.55"}] prices hours of the UTC
        day, and may have `tiers` of its own. Cached input and cache writes cost what input does unless given.
        """
        price = price_from_usd(
            input_usd=input_usd,
            output_usd=output_usd,
            cached_input_usd=cached_input_usd,
            cache_write_usd=cache_write_usd,
            tiers=tiers,
            windows=windows,
        )
        effective_us = moment_us(effective_from, field="effective_from")
        return Proposal(self, self._read(draw_up, model, price, effective_us))

    def providers(self) -> pd.DataFrame:
        """Every provider; never its credential."""
        return frame(({**row, "created_at": row["created_us"]} for row in self._read(provider_rows)), _PROVIDERS)

    def models(self) -> pd.DataFrame:
        """Every model with its price in force, its enabled routes and the living keys that may call it."""
        prices = {row["alias"]: row for row in self._read(price_rows) if row["status"] == "current"}
        rows = self._read(model_rows)
        named = (
            {**row, "model": row["alias"], "keys": row["key_count"], "published": bool(row["published"])}
            | _usd(prices.get(row["alias"]))
            for row in rows
        )
        return frame(named, _MODELS)

    def prices(self, history: bool = False) -> pd.DataFrame:
        """Prices in force and dated ahead; with `history` the past ones too."""
        return frame((_price(row) for row in self._read(price_rows, history=history)), _PRICES)

    def routes(self, model: str | None = None) -> pd.DataFrame:
        """Every route, or one model's, in the order in which they are tried."""
        return frame((_route(route) for route in self._read(_routes, model)), _ROUTES)


async def _routes(database: Database, model: str | None) -> list[RouteInfo]:
    return await route_list(model)


def _usd(row: Mapping[str, Any] | None) -> dict[str, Decimal | None]:
    return {usd: None if row is None else rate_to_usd(row[nano]) for usd, nano in _METERS.items()}


def _price(row: dict[str, Any]) -> dict[str, Any]:
    version = row["version"]
    return {
        **row,
        **_usd(row),
        "price_version": row["id"],
        "model": row["alias"],
        "effective_from": row["effective_us"],
        "tiers": len(version.tiers),
        "windows": len(version.windows),
        "published_at": row["created_us"],
    }


def _route(route: RouteInfo) -> dict[str, Any]:
    row = msgspec.structs.asdict(route)
    costs = {f"cost_{usd}": row[f"cost_{nano}"] for usd, nano in _METERS.items()}
    return {**row, **{name: None if rate is None else rate_to_usd(rate) for name, rate in costs.items()}}
