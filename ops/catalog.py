"""Owns the operators' verbs on models and providers. The rules are in `models/catalog.py`; see `routes.py` and `prices.py`."""

from __future__ import annotations

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
from models.environment import secret
from models.introductions import introduce_model
from models.price_list import price_rows
from models.routes import Usd
from ops.frames import EXACT, MOMENT, frame
from ops.prices import METERS, Prices, usd_of
from ops.routes import Routes

_PROVIDERS = {"name": "str", "base_url": "str", "max_tokens_field": "str", "id": "Int64", "created_at": MOMENT}
_MODELS = {
    "model": "str",
    "published": "boolean",
    **dict.fromkeys(METERS, EXACT),
    "context_tokens": "Int64",
    "max_output_tokens": "Int64",
    "media_tokens": "Int64",
    "routes": "Int64",
    "keys": "Int64",
    "owned_by": "str",
}


class Catalog(Routes, Prices):
    """`desk.catalog`: models and providers here, routes and prices with them.

    Prices and costs are USD per million tokens, as decimal texts like "0.27", never floats.
    """

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

    def introduce(
        self,
        alias: str,
        *,
        provider: str,
        base_url: str,
        key_from: str,
        upstream_model: str,
        context_tokens: int,
        max_output_tokens: int,
        cost_input_usd: Usd,
        cost_output_usd: Usd,
    ) -> pd.DataFrame:
        """Add what is missing of a provider, a model and the route between them; returns the model's routes.

        Customers do not see the model before it has a price and is published. A new provider's key is read from the variable
        `key_from`, or asked for. All is added or nothing; twice is once, and what is there already stays as it is. Raises
        Conflict for a provider of this name at another address.
        """
        is_new = provider not in {row["name"] for row in self._read(provider_rows)}
        self._write(
            introduce_model,
            alias,
            provider=provider,
            base_url=base_url,
            api_key=secret(key_from) if is_new else None,
            seal=self._desk._seal if is_new else None,
            upstream_model=upstream_model,
            context_tokens=context_tokens,
            max_output_tokens=max_output_tokens,
            cost_input_usd=cost_input_usd,
            cost_output_usd=cost_output_usd,
        )
        return self.routes(alias)

    def publish(self, alias: str) -> ModelInfo:
        return self._write(publish_model, alias)

    def unpublish(self, alias: str) -> ModelInfo:
        return self._write(unpublish_model, alias)

    def providers(self) -> pd.DataFrame:
        """Every provider; never its credential."""
        return frame(({**row, "created_at": row["created_us"]} for row in self._read(provider_rows)), _PROVIDERS)

    def models(self) -> pd.DataFrame:
        """Every model with its price in force, its enabled routes and the living keys that may call it."""
        prices = {row["alias"]: row for row in self._read(price_rows) if row["status"] == "current"}
        rows = self._read(model_rows)
        named = (
            {**row, "model": row["alias"], "keys": row["key_count"], "published": bool(row["published"])}
            | usd_of(prices.get(row["alias"]))
            for row in rows
        )
        return frame(named, _MODELS)
