"""Owns the operators' verbs on routes: their place, weight and costs, and draining one. Rules: `models/routes.py`."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import pandas as pd

from models.checks import check_whole
from models.database import Database
from models.draining import Draining, draining
from models.ids import to_datetime
from models.prices import rate_to_usd
from models.routes import RouteInfo, Usd, add_route, disable_route, enable_route, route_list, set_route
from ops.cost_basis import CostBasis, read_costs
from ops.drawer import Drawer
from ops.frames import EXACT, frame
from ops.shown import plural

POLL_S = 0.2
_COSTS = ("input", "cached_input", "cache_write", "output")
_ROUTES = {
    "id": "Int64",
    "model": "str",
    "provider": "str",
    "upstream_model": "str",
    "position": "Int64",
    "weight": "Int64",
    "enabled": "boolean",
    **dict.fromkeys((f"cost_{meter}_usd" for meter in _COSTS), EXACT),
}


class Routes(Drawer):
    """The part of `desk.catalog` that is about routes."""

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

    def drain_route(self, route_id: int, *, reason: str = "", wait_s: int = 0) -> Drained:
        """Disable a route, and say what may still run on it and when it was last used; again it says so anew.

        No new attempt takes it. With `wait_s` it waits until the route is empty, at most so many seconds.
        """
        until = time.monotonic() + check_whole(wait_s, field="wait_s", least=0, most=86_400)
        self._write(disable_route, route_id, reason=reason)
        while not (state := self._read(draining, route_id)).is_empty and time.monotonic() < until:
            time.sleep(POLL_S)
        return Drained(state)

    def cost_basis(self, model: str | None = None, *, listed_as: Mapping[str, str] | None = None) -> CostBasis:
        """What the routes of all models, or of one, cost by the bundled public list; `.publish(reason=…)` sets it.

        A provider is found by its address or its name; `listed_as={"acme": "openai"}` says how the list calls it, and
        `listed_as={"acme/acme-1-small": "openai/gpt-4o-mini"}` how it calls one of its models.
        """
        return read_costs(self, model, listed_as)

    def routes(self, model: str | None = None) -> pd.DataFrame:
        """Every route, or one model's, in the order in which they are tried."""
        return frame((_route(route) for route in self._read(_routes, model)), _ROUTES)


class Drained:
    """How far a route is drained. `is_empty`: nothing runs on it any more. `may_run` counts what might."""

    def __init__(self, state: Draining) -> None:
        self._state = state
        self.is_empty, self.may_run = state.is_empty, state.may_run
        self.last_used_at = None if state.last_used_us is None else to_datetime(state.last_used_us)

    def __repr__(self) -> str:
        route, used = self._state.route, self.last_used_at
        last = f"last used by a request of {used:%Y-%m-%d %H:%M:%S} UTC" if used else "not used within 90 days"
        running = "nothing runs on it" if self.is_empty else f"{plural(self.may_run, 'request')} may still run on it"
        return f"Route {route.id} of {route.model} ({route.provider}/{route.upstream_model}) is disabled: {running}; {last}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>"


async def _routes(database: Database, model: str | None) -> list[RouteInfo]:
    return await route_list(model)


def _route(route: RouteInfo) -> dict[str, Any]:
    row = msgspec.structs.asdict(route)
    costs = {f"cost_{meter}_usd": row[f"cost_{meter}_nano"] for meter in _COSTS}
    return {**row, **{name: None if rate is None else rate_to_usd(rate) for name, rate in costs.items()}}
