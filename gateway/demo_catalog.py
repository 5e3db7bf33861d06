"""Owns what the demo sells: aliases at their makers' list prices, served by the simulated provider or by real ones."""

from __future__ import annotations

import os
from typing import NamedTuple

from models.catalog import add_model, add_provider, model_rows, provider_rows, set_base_url, set_credential
from models.database import Database
from models.limits import set_limit
from models.price_list import publish_price
from models.price_terms import price_from_usd
from models.routes import add_route, disable_route, route_list
from models.secrets import Seal

OPERATOR = "demo"
SIMULATED = "simulated"


class DemoAlias(NamedTuple):
    """List prices are USD per million tokens. `simulated` is what the simulated provider is asked for."""

    alias: str
    owner: str
    context_tokens: int
    max_output_tokens: int
    input_usd: str
    cached_input_usd: str
    cache_write_usd: str
    output_usd: str
    simulated: str = "sim:words=24,gap_ms=20"


class RealProvider(NamedTuple):
    """A provider that joins in when `variable` is set, and what it calls the aliases that it then serves."""

    name: str
    variable: str
    base_url: str
    upstream_models: dict[str, str]
    max_tokens_field: str = "max_tokens"


ALIASES = (
    DemoAlias("deepseek-chat", "deepseek", 128_000, 8_192, "0.28", "0.028", "0.28", "0.42"),
    DemoAlias(
        "deepseek-reasoner", "deepseek", 128_000, 65_536, "0.28", "0.028", "0.28", "0.42",
        "sim:words=48,gap_ms=20,reasoning_text",
    ),
    DemoAlias("gpt-4o-mini", "openai", 128_000, 16_384, "0.15", "0.075", "0.15", "0.60"),
    DemoAlias("gpt-4o", "openai", 128_000, 16_384, "2.50", "1.25", "2.50", "10.00"),
    DemoAlias("claude-sonnet-4-5", "anthropic", 200_000, 64_000, "3.00", "0.30", "3.75", "15.00"),
    DemoAlias("gemini-2.5-flash", "google", 1_048_576, 65_536, "0.30", "0.03", "0.30", "2.50"),
    DemoAlias("llama-3.3-70b-instruct", "meta", 131_072, 16_384, "0.13", "0.13", "0.13", "0.40"),
)  # fmt: skip

REAL_PROVIDERS = (
    RealProvider(
        "openai",
        "OPENAI_API_KEY",
        "https://api.openai.com/v1",
        {"gpt-4o-mini": "gpt-4o-mini", "gpt-4o": "gpt-4o"},
        "max_completion_tokens",
    ),
    RealProvider(
        "deepseek",
        "DEEPSEEK_API_KEY",
        "https://api.deepseek.com/v1",
        {"deepseek-chat": "deepseek-chat", "deepseek-reasoner": "deepseek-reasoner"},
    ),
    RealProvider(
        "openrouter",
        "OPENROUTER_API_KEY",
        "https://openrouter.ai/api/v1",
        {"llama-3.3-70b-instruct": "meta-llama/llama-3.3-70b-instruct"},
    ),
    RealProvider(
        "anthropic",
        "ANTHROPIC_API_KEY",
        "https://api.anthropic.com/v1",
        {"claude-sonnet-4-5": "claude-sonnet-4-5"},
    ),
    RealProvider(
        "gemini",
        "GEMINI_API_KEY",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        {"gemini-2.5-flash": "gemini-2.5-flash"},
    ),
)

DEFAULT_LIMITS = (
    ("default_key", "requests", 600),
    ("default_key", "tokens", 200_000),
    ("default_key", "concurrent", 20),
    ("default_account", "requests", 1_200),
    ("default_account", "tokens", 400_000),
    ("default_account", "concurrent", 40),
)


async def stock_catalog(database: Database, seal: Seal, simulator_url: str) -> list[str]:
    """Add what is missing and return the aliases that are new. What an operator changed since the last start stays."""
    providers = {row["name"] for row in await provider_rows(database)}
    if SIMULATED in providers:
        await set_base_url(database, OPERATOR, SIMULATED, base_url=simulator_url, reason="the demo was started again")
    else:
        await add_provider(database, OPERATOR, SIMULATED, base_url=simulator_url, api_key="simulated", seal=seal)
    known = {row["alias"] for row in await model_rows(database)}
    added = [entry for entry in ALIASES if entry.alias not in known]
    for entry in added:
        await _add_alias(database, entry)
    for real in REAL_PROVIDERS:
        api_key = os.environ.get(real.variable, "").strip()
        if api_key and real.name in providers:
            await set_credential(database, OPERATOR, real.name, api_key=api_key, seal=seal, reason=real.variable)
        elif api_key:
            await _join(database, real, api_key, seal)
    return [entry.alias for entry in added]


async def set_default_limits(database: Database) -> None:
    for subject, unit, quota in DEFAULT_LIMITS:
        await set_limit(database, OPERATOR, subject=subject, unit=unit, quota=quota, window_s=60, reason="demo")


async def _add_alias(database: Database, entry: DemoAlias) -> None:
    """The alias, its route to the simulated provider and its price; published last."""
    await add_model(
        database,
        OPERATOR,
        entry.alias,
        context_tokens=entry.context_tokens,
        max_output_tokens=entry.max_output_tokens,
        published=True,
        owned_by=entry.owner,
    )
    await add_route(database, OPERATOR, entry.alias, provider=SIMULATED, upstream_model=entry.simulated)
    price = price_from_usd(
        input_usd=entry.input_usd,
        cached_input_usd=entry.cached_input_usd,
        cache_write_usd=entry.cache_write_usd,
        output_usd=entry.output_usd,
    )
    await publish_price(database, OPERATOR, entry.alias, price, reason="list price, for the demo")


async def _join(database: Database, real: RealProvider, api_key: str, seal: Seal) -> None:
    """A real provider takes its aliases over from the simulated one."""
    await add_provider(
        database,
        OPERATOR,
        real.name,
        base_url=real.base_url,
        api_key=api_key,
        seal=seal,
        max_tokens_field=real.max_tokens_field,
    )
    prices = {entry.alias: entry for entry in ALIASES}
    for alias, upstream_model in real.upstream_models.items():
        entry = prices[alias]
        await add_route(
            database,
            OPERATOR,
            alias,
            provider=real.name,
            upstream_model=upstream_model,
            cost_input_usd=entry.input_usd,
            cost_cached_input_usd=entry.cached_input_usd,
            cost_cache_write_usd=entry.cache_write_usd,
            cost_output_usd=entry.output_usd,
        )
        for route in await route_list(alias):
            if route.provider == SIMULATED and route.enabled:
                await disable_route(database, OPERATOR, route.id, reason=f"{real.name} serves it")
