"""Owns prices made from others by a percentage: a markup over what the dearest enabled route costs, and a price in force that
rises or falls as a whole. Pure; no records.

Each meter is cost × (1 + markup), rounded up to the fifth decimal of USD per million tokens, which is as fine as prices are: so
the markup is never less than asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

import msgspec

from models.errors import BadInput
from models.prices import MOST_RATE_NANO, PriceVersion, Rates, Tier
from models.routes import RouteInfo

_CHANGE = re.compile(r"([+-])\s*(\d{1,6}(?:\.\d{1,6})?)\s*%", re.ASCII)
_PERCENT = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*%", re.ASCII)


def marked_up(routes: Sequence[RouteInfo], markup: object) -> Rates:
    """The rates of a price `markup` ("30%") above cost; `routes` are the alias' enabled ones.

    Cached input and cache writes whose cost is not given cost what input does. Raises BadInput naming a route without costs.
    """
    factor = 1 + _percent(markup) / 100
    if not routes:
        raise BadInput("markup: the model has no enabled route to take the cost from; add one first", field="markup")
    costs = [_costs(route) for route in routes]
    dearest = [max(cost[n] for cost in costs) for n in range(4)]
    rates = [-(-(rate * factor).numerator // (rate * factor).denominator) for rate in map(Fraction, dearest)]
    if max(rates) > MOST_RATE_NANO:
        raise BadInput("markup: the price would be above 10000 USD per million tokens; give less", field="markup")
    return Rates(*rates)


def changed(price: PriceVersion, change: object) -> PriceVersion:
    """The same price, every meter of every tier and window dearer or cheaper by `change` ("+5%", "-2.5%").

    Each is rounded to the nearest fifth decimal, the half up. Raises BadInput.
    """
    found = _CHANGE.fullmatch(change.strip()) if isinstance(change, str) else None
    percent = Fraction(f"{found[1]}{found[2]}") if found else None
    if percent is None or percent < -100:
        raise BadInput(
            f'change: must be a percentage with its sign like "+5%" or "-2.5%", got {change!r}', field="change"
        )
    factor = 1 + percent / 100

    def scaled(tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
        return tuple(Tier(t.above_tokens, Rates(*(_nearest(r * factor) for r in _four(t.rates)))) for t in tiers)

    windows = tuple(msgspec.structs.replace(window, tiers=scaled(window.tiers)) for window in price.windows)
    return PriceVersion(0, 0, scaled(price.tiers), windows)


def _four(rates: Rates) -> tuple[int, int, int, int]:
    return rates.fresh, rates.cached, rates.written, rates.output


def _nearest(rate: Fraction) -> int:
    whole = (2 * rate.numerator + rate.denominator) // (2 * rate.denominator)
    if whole > MOST_RATE_NANO:
        raise BadInput("change: the price would be above 10000 USD per million tokens; give less", field="change")
    return whole


def _percent(markup: object) -> Fraction:
    found = _PERCENT.fullmatch(markup.strip()) if isinstance(markup, str) else None
    if found is None:
        raise BadInput(
            f'markup: must be a percentage of at least 0 like "30%" or "12.5%", got {markup!r}', field="markup"
        )
    return Fraction(found[1])


def _costs(route: RouteInfo) -> tuple[int, int, int, int]:
    """Of fresh, cached and written input, and output."""
    fresh, output = route.cost_input_nano, route.cost_output_nano
    if fresh is None or output is None:
        raise BadInput(
            f"markup: route {route.id} ({route.provider}/{route.upstream_model}) has no cost of input or output; set it "
            "first with set_route or cost_basis",
            field="markup",
        )
    cached, written = route.cost_cached_input_nano, route.cost_cache_write_nano
    return fresh, fresh if cached is None else cached, fresh if written is None else written, output
