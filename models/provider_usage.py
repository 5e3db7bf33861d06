"""Owns what we used of one provider in a month, by the request's UTC day and the upstream model, to compare its invoice."""

from __future__ import annotations

from typing import Any

import msgspec

from models.database import Database
from models.errors import NotFound
from models.ids import DAY_US, to_datetime
from models.months import Month


class ProviderUsage(msgspec.Struct, frozen=True):
    """`day` is like "2026-11-03". Tokens of requests that the provider answered; `input_tokens` has cached and written ones in
    it. `cost_nano` is what they should cost us by the routes' cost terms, 0 where a route has none.
    """

    day: str
    model: str
    requests: int
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    cost_nano: int


async def provider_usage(database: Database, provider: str, month: Month) -> list[ProviderUsage]:
    """By day and model. Requests that failed everywhere are not in it. Raises NotFound naming the providers that there are."""
    known = await database.rows("SELECT id, name FROM provider ORDER BY name")
    ids = [row["id"] for row in known if row["name"] == provider]
    if not ids:
        names = ", ".join(row["name"] for row in known) or "none"
        raise NotFound(f"provider: there is no provider {provider!r}; there are: {names}", field="provider")
    rows = await database.rows(
        f"SELECT u.at_us / {DAY_US} AS day, r.upstream_model AS model, COUNT(*) AS requests,"
        " SUM(u.fresh_tokens + u.cached_tokens + u.cache_write_tokens) AS input_tokens,"
        " SUM(u.cached_tokens) AS cached_tokens, SUM(u.cache_write_tokens) AS cache_write_tokens,"
        " SUM(u.output_tokens) AS output_tokens, SUM(u.cost_nano) AS cost_nano"
        " FROM usage u JOIN route r ON r.id = u.route_id"
        " WHERE r.provider_id = ? AND u.request_id >= ? AND u.request_id < ? AND u.outcome <> 'failed'"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        [ids[0], month.lowest_id, month.plus(1).lowest_id],
    )
    return [_usage(row) for row in rows]


def _usage(row: dict[str, Any]) -> ProviderUsage:
    counts = {name: int(row[name]) for name in ProviderUsage.__struct_fields__[2:]}
    return ProviderUsage(f"{to_datetime(row['day'] * DAY_US):%Y-%m-%d}", row["model"], **counts)
