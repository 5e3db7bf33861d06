"""Owns sums over attempts: how often each route was tried, how that ended, and what was lost. Requests are `spend.py`."""

from __future__ import annotations

import msgspec

from models.database import Database
from models.spend import group_names
from models.usage import EVERYTHING, UsageFilter, matching


class Attempts(msgspec.Struct, frozen=True):
    """The attempts on one route that ended alike. `failed`: not the one that served the request. `status` is the
    provider's, 0 when it did not answer; `total_ms` and `cost_nano` are sums.
    """

    route_id: int
    route: str
    failed: bool
    status: int
    attempts: int
    total_ms: int
    cost_nano: int


async def attempts_by_route(
    database: Database, only: UsageFilter = EVERYTHING, *, account_id: int | None = None
) -> list[Attempts]:
    """By route, the good ones first, then the failed ones by status. Read from records, so only as far back as these."""
    test, values = matching(only, account_id)
    if database.dialect == "postgres":
        source = "usage u CROSS JOIN LATERAL jsonb_array_elements(u.attempts::jsonb) WITH ORDINALITY a(value, n)"
        route, status, ms, cost = (f"(a.value->>'{name}')::bigint" for name in ("route", "status", "ms", "cost_nano"))
        is_last = "a.n = jsonb_array_length(u.attempts::jsonb)"
    else:
        source = "usage u, json_each(u.attempts) a"
        route, status, ms, cost = (f"a.value->>'{name}'" for name in ("route", "status", "ms", "cost_nano"))
        is_last = "a.key = json_array_length(u.attempts) - 1"
    rows = await database.rows(
        f"SELECT {route} AS route_id, NOT (u.outcome <> 'failed' AND {is_last}) AS is_failed, {status} AS status,"
        f" COUNT(*) AS attempts, SUM(COALESCE({ms}, 0)) AS total_ms,"
        f" SUM(COALESCE({cost}, 0)) AS cost_nano"
        f" FROM {source} WHERE {test} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        values,
    )
    names = await group_names(database, "route")
    return [
        Attempts(
            route_id=row["route_id"],
            route=names.get(row["route_id"], ""),
            failed=bool(row["is_failed"]),
            status=row["status"],
            attempts=row["attempts"],
            total_ms=int(row["total_ms"]),
            cost_nano=int(row["cost_nano"]),
        )
        for row in rows
    ]
