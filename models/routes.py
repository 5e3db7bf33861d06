"""Owns routes: which provider and upstream model serve an alias, in which order and weight, and what they cost us."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec

from models.catalog import find_model, find_provider
from models.changes import CATALOG, OperatorWrite, operator_write
from models.checks import check_reason, check_text, check_whole
from models.database import Database
from models.errors import AlreadyExists, BadInput, Conflict, NotFound
from models.prices import rate_from_usd
from models.records import Route

Usd: TypeAlias = str | int | Decimal
MOST_INT = 2**31 - 1


class RouteInfo(msgspec.Struct, frozen=True):
    """A route; its costs are nano-credits per token, None where they were not given."""

    id: int
    model: str
    provider: str
    upstream_model: str
    position: int
    weight: int
    enabled: bool
    cost_input_nano: int | None
    cost_cached_input_nano: int | None
    cost_cache_write_nano: int | None
    cost_output_nano: int | None


async def add_route(
    database: Database,
    operator: str,
    model: str,
    *,
    provider: str,
    upstream_model: str,
    position: int = 1,
    weight: int = 1,
    cost_input_usd: Usd | None = None,
    cost_cached_input_usd: Usd | None = None,
    cost_cache_write_usd: Usd | None = None,
    cost_output_usd: Usd | None = None,
) -> RouteInfo:
    """Serve `model` from `provider`. Lower positions are tried first; equal ones share by weight.

    Costs are USD per million tokens; cached input and cache writes whose cost is not given cost what input does.
    """
    upstream = check_text(upstream_model, field="upstream_model", most=300)
    values: dict[str, Any] = {
        "position": check_whole(position, field="position", least=0, most=MOST_INT),
        "weight": check_whole(weight, field="weight", least=1, most=MOST_INT),
        **_costs(cost_input_usd, cost_cached_input_usd, cost_cache_write_usd, cost_output_usd),
    }
    async with operator_write(database, operator) as write:
        alias, vendor = await find_model(model), await find_provider(provider)
        target: dict[str, Any] = {"model_id": alias.id, "provider_id": vendor.id, "upstream_model": upstream}
        if await Route.filter(**target, position=position).exists():
            raise AlreadyExists(
                f"upstream_model: {alias.alias} already has this route at position {position}; change its weight",
                field="upstream_model",
            )
        row = await Route.create(**target, **values, created_us=write.at_us)
        await write.changed(CATALOG)
        after = {"model": alias.alias, "provider": vendor.name, "upstream_model": upstream, **values}
        await write.audit("route.add", f"route {row.id}", after=after)
        return await find_route(row.id)


async def set_route(
    database: Database,
    operator: str,
    route_id: int,
    *,
    position: int | None = None,
    weight: int | None = None,
    cost_input_usd: Usd | None = None,
    cost_cached_input_usd: Usd | None = None,
    cost_cache_write_usd: Usd | None = None,
    cost_output_usd: Usd | None = None,
    reason: str = "",
) -> RouteInfo:
    """Change a route's place, weight or costs. What is left out stays as it is."""
    values: dict[str, Any] = {}
    if position is not None:
        values["position"] = check_whole(position, field="position", least=0, most=MOST_INT)
    if weight is not None:
        values["weight"] = check_whole(weight, field="weight", least=1, most=MOST_INT)
    costs = _costs(cost_input_usd, cost_cached_input_usd, cost_cache_write_usd, cost_output_usd)
    values |= {name: rate for name, rate in costs.items() if rate is not None}
    if not values:
        raise BadInput("give a position, a weight or a cost to change", field="position")
    return await _update(database, operator, route_id, "route.set", values, reason)


class CostChange(msgspec.Struct, frozen=True):
    """New costs of a route by column (`cost_input_nano` …), nano-credits per token; `seen` are those it had when looked at."""

    route_id: int
    costs: dict[str, int]
    seen: dict[str, int | None]


async def set_costs(
    database: Database, operator: str, changes: Sequence[CostChange], *, reason: str
) -> list[RouteInfo]:
    """Change the costs of many routes in one transaction, or of none: Conflict when one has other costs than were seen."""
    why, changed = check_reason(reason), []
    async with operator_write(database, operator) as write:
        for change in changes:
            route = await find_route(change.route_id)
            now = {name: getattr(route, name) for name in change.costs}
            if now == change.costs:
                changed.append(route)
                continue
            if now != {name: change.seen[name] for name in change.costs}:
                raise Conflict(f"route: {route.id} got other costs meanwhile; look again", field="route")
            changed.append(await _apply(write, route, "route.set", change.costs, why))
        return changed


async def enable_route(database: Database, operator: str, route_id: int, *, reason: str = "") -> RouteInfo:
    return await _update(database, operator, route_id, "route.enable", {"enabled": True}, reason)


async def disable_route(database: Database, operator: str, route_id: int, *, reason: str = "") -> RouteInfo:
    """No new request takes it; an alias without any enabled route cannot be called."""
    return await _update(database, operator, route_id, "route.disable", {"enabled": False}, reason)


async def find_route(route_id: object) -> RouteInfo:
    valid = isinstance(route_id, int) and not isinstance(route_id, bool)
    row = await Route.filter(id=route_id).select_related("model", "provider").first() if valid else None
    if row is None:
        raise NotFound(f"route: there is no route with id {route_id!r}; list them to find it", field="route")
    return _route_info(row)


async def route_list(model: str | None = None) -> list[RouteInfo]:
    """All routes, or those of one alias, in the order in which they are tried."""
    query = Route.all() if model is None else Route.filter(model_id=(await find_model(model)).id)
    rows = await query.select_related("model", "provider").order_by("model__alias", "position", "id")
    return [_route_info(row) for row in rows]


async def _update(
    database: Database, operator: str, route_id: int, action: str, values: dict[str, Any], reason: str
) -> RouteInfo:
    async with operator_write(database, operator) as write:
        return await _apply(write, await find_route(route_id), action, values, reason)


async def _apply(write: OperatorWrite, route: RouteInfo, action: str, values: dict[str, Any], reason: str) -> RouteInfo:
    before = {name: getattr(route, name) for name in values}
    if before == values:
        return route
    await Route.filter(id=route.id).update(**values)
    await write.changed(CATALOG)
    await write.audit(action, f"route {route.id}", reason=reason, before=before, after=values)
    return msgspec.structs.replace(route, **values)


def _costs(
    input_usd: Usd | None, cached_usd: Usd | None, written_usd: Usd | None, output_usd: Usd | None
) -> dict[str, int | None]:
    given = {
        "cost_input": input_usd,
        "cost_cached_input": cached_usd,
        "cost_cache_write": written_usd,
        "cost_output": output_usd,
    }
    return {
        f"{name}_nano": None if usd is None else rate_from_usd(usd, field=f"{name}_usd") for name, usd in given.items()
    }


def _route_info(row: Route) -> RouteInfo:
    return RouteInfo(
        id=row.id,
        model=row.model.alias,
        provider=row.provider.name,
        upstream_model=row.upstream_model,
        position=row.position,
        weight=row.weight,
        enabled=row.enabled,
        cost_input_nano=row.cost_input_nano,
        cost_cached_input_nano=row.cost_cached_input_nano,
        cost_cache_write_nano=row.cost_cache_write_nano,
        cost_output_nano=row.cost_output_nano,
    )
