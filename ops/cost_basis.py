"""Owns what the routes cost by a public list of providers' prices (the package `genai-prices`), as a preview to publish.

The list is the one bundled with the package: nothing is fetched, and a newer list comes with a newer package. Where a price
varies by the hour, the dearest hour counts; where it has tiers, the lowest does, and the note says so. Prices are rounded to
the nearest fifth decimal of USD per million tokens, which is as fine as costs are kept.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pandas as pd

from models.catalog import provider_rows
from models.database import Database
from models.errors import BadInput, SetupError
from models.prices import rate_from_usd, rate_to_usd
from models.routes import CostChange, RouteInfo, route_list, set_costs
from ops.frames import EXACT, frame
from ops.price_lines import usd_text
from ops.shown import html_table, plural, text_table

if TYPE_CHECKING:
    from ops.routes import Routes

_KEYS = {
    "cost_input_nano": "input_mtok",
    "cost_cached_input_nano": "cache_read_mtok",
    "cost_cache_write_nano": "cache_write_mtok",
    "cost_output_nano": "output_mtok",
}
_NAMES = {name: name.removesuffix("_nano") + "_usd" for name in _KEYS}
_ROWS = {
    "route_id": "Int64",
    "model": "str",
    "route": "str",
    "listed_as": "str",
    **{column: EXACT for name in _NAMES.values() for column in (name, f"listed_{name}")},
    "note": "str",
}
_STEP = Decimal("0.00001")


class Listed(msgspec.Struct, frozen=True):
    """A route beside what the public list says of it: `costs` in nano-credits per token; none where it is not listed."""

    route: RouteInfo
    listed_as: str
    costs: dict[str, int]
    note: str

    @property
    def is_changed(self) -> bool:
        return any(getattr(self.route, name) != cost for name, cost in self.costs.items())


class CostBasis:
    """What the public list would change in the routes' costs; nothing is changed yet. `.rows` has a row per route.

    A route that is not listed, and a meter for which nothing is listed, keep what they have.
    """

    def __init__(self, catalog: Routes, listed: Sequence[Listed]) -> None:
        self._catalog = catalog
        self._listed = list(listed)
        self._published: list[RouteInfo] | None = None

    @property
    def rows(self) -> pd.DataFrame:
        return frame((_row(listed) for listed in self._listed), _ROWS)

    def publish(self, *, reason: str) -> list[RouteInfo]:
        """Set the costs of every listed route in one transaction, or of none; returns the routes. Twice is once.

        Raises Conflict when a route got other costs since the list was looked at.
        """
        if self._published is None:
            changes = [
                CostChange(listed.route.id, listed.costs, {name: getattr(listed.route, name) for name in listed.costs})
                for listed in self._listed
                if listed.is_changed
            ]
            self._published = self._catalog._write(set_costs, changes, reason=reason)
        return self._published

    def __repr__(self) -> str:
        return "\n".join([self._title, *text_table(_HEAD, map(_texts, self._listed), left=4)])

    def _repr_html_(self) -> str:
        return f"<p><strong>{html.escape(self._title)}</strong></p>{html_table(_HEAD, map(_texts, self._listed))}"

    @property
    def _title(self) -> str:
        changed = sum(listed.is_changed for listed in self._listed)
        state = "published" if self._published is not None else "not published"
        return f"Costs of {plural(len(self._listed), 'route')}, {changed} to change ({state}); USD per million tokens"


def read_costs(catalog: Routes, model: str | None, listed_as: Mapping[str, str] | None) -> CostBasis:
    """`listed_as` says how the list calls a provider of ours, or "provider/model" for one of its upstream models."""
    names = dict(listed_as or {})
    routes, urls = catalog._read(_routes, model)
    known = {name for route in routes for name in (route.provider, f"{route.provider}/{route.upstream_model}")}
    for name in names:
        if name not in known:
            raise BadInput(
                f"listed_as: no route is of {name!r}; name a provider or provider/upstream_model", field="listed_as"
            )
    now = datetime.now(UTC)
    return CostBasis(catalog, [_look_up(route, urls[route.provider], names, now) for route in routes])


async def _routes(database: Database, model: str | None) -> tuple[list[RouteInfo], dict[str, str]]:
    return await route_list(model), {row["name"]: row["base_url"] for row in await provider_rows(database)}


def _look_up(route: RouteInfo, base_url: str, names: Mapping[str, str], now: datetime) -> Listed:
    full = f"{route.provider}/{route.upstream_model}"
    provider, _, upstream = names.get(full, names.get(route.provider, "")).partition("/")
    try:
        found, model = _find(provider, upstream or route.upstream_model, route.provider, base_url)
    except LookupError as error:
        if provider:
            raise BadInput(
                f"listed_as: {names.get(full, provider)!r} is not in the public list: {error}", field="listed_as"
            ) from None
        return Listed(route, "", {}, "not in the public list; listed_as={…} says how it is called there")
    prices = [model.get_prices(moment) for moment in _moments(model, now)]
    costs, notes = {}, []
    for name, key in _KEYS.items():
        listed = [price for price in (getattr(each, key) for each in prices) if price is not None]
        if not listed:
            continue
        flat = [getattr(price, "base", price) for price in listed]
        if any(hasattr(price, "tiers") for price in listed):
            notes.append("dearer for long inputs")
        if len(set(flat)) > 1:
            notes.append("by the hour, the dearest")
        costs[name] = rate_from_usd(max(flat).quantize(_STEP, ROUND_HALF_EVEN), field=_NAMES[name])
    if model.deprecated:
        notes.append("deprecated by its provider")
    return Listed(route, f"{found.id}/{model.id}", costs, "; ".join(dict.fromkeys(notes)))


def _find(provider: str, upstream: str, own_name: str, base_url: str) -> tuple[Any, Any]:
    """The list's provider and model: as it was told, by the address, or by our name of the provider. Raises LookupError."""
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        raise SetupError('the public list needs a package: pip install "supertomorrow-gateway[notebooks]"') from None
    snapshot = get_snapshot()
    if provider:
        return snapshot.find_provider_model(upstream, None, provider, None)
    try:
        return snapshot.find_provider_model(upstream, None, None, base_url)
    except LookupError:
        return snapshot.find_provider_model(upstream, None, own_name, None)


def _moments(model: Any, now: datetime) -> list[datetime]:
    """Moments of today between which its price does not change."""
    constraints = [each.constraint for each in model.prices] if isinstance(model.prices, list) else []
    times = {getattr(c, name, None) for c in constraints for name in ("start_time", "end_time")} | {time()}
    days = [datetime.combine(now.date(), at, at.tzinfo or UTC) for at in times if at is not None]
    return [now, *days]


_HEAD = ("route", "model", "serves", "listed as", "input", "cached input", "cache write", "output", "note")


def _texts(listed: Listed) -> tuple[str, ...]:
    route = listed.route
    cells = []
    for name in _KEYS:
        old, new = getattr(route, name), listed.costs.get(name, getattr(route, name))
        shown = ["–" if rate is None else usd_text(rate) for rate in (old, new)]
        cells.append(shown[1] if old == new else " → ".join(shown))
    return str(route.id), route.model, f"{route.provider}/{route.upstream_model}", listed.listed_as, *cells, listed.note


def _row(listed: Listed) -> dict[str, Any]:
    route, costs = listed.route, {}
    for name, usd in _NAMES.items():
        for column, rate in ((usd, getattr(route, name)), (f"listed_{usd}", listed.costs.get(name))):
            costs[column] = None if rate is None else rate_to_usd(rate)
    return {
        "route_id": route.id,
        "model": route.model,
        "route": f"{route.provider}/{route.upstream_model}",
        "listed_as": listed.listed_as,
        **costs,
        "note": listed.note,
    }
