"""Owns comparing two prices meter by meter, beside what the routes cost, and what warns against a price. No database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

import msgspec

from models.bands import bands_of
from models.price_terms import clock_text
from models.prices import PriceVersion, Rates, Tier, rate_to_usd, rates_for
from models.routes import RouteInfo

FACTOR = 3
HEAD = ("", "", "old", "new", "change", "cost", "margin")
_MINUTE_US = 60_000_000
_METERS = {"fresh": "input", "cached": "cached input", "written": "cache write", "output": "output"}
_COSTS = {"fresh": "input", "cached": "cached_input", "written": "cache_write", "output": "output"}


class Line(msgspec.Struct, frozen=True):
    """One meter, in one tier and window, before and after. Rates in nano-credits per token; `old` None: no price.

    `cost` is what it costs us on the dearest enabled route that names a cost for it; None: none does.
    """

    where: str
    meter: str
    old: int | None
    new: int
    cost: int | None = None

    @property
    def percent(self) -> str:
        if self.old is None:
            return "new"
        if self.old == self.new:
            return "0 %"
        if self.old == 0:
            return "from 0"
        return f"{(Decimal(self.new) / self.old - 1) * 100:+.1f} %"

    @property
    def margin(self) -> str:
        """How much of the new price is left when the provider is paid."""
        if self.cost is None or not self.new:
            return "–"
        return f"{(1 - Decimal(self.cost) / self.new) * 100:+.1f} %"

    @property
    def texts(self) -> tuple[str, ...]:
        old, cost = ("–" if rate is None else usd_text(rate) for rate in (self.old, self.cost))
        return self.where, self.meter, old, usd_text(self.new), self.percent, cost, self.margin


def compare(old: PriceVersion | None, new: PriceVersion, routes: Sequence[RouteInfo] = ()) -> list[Line]:
    """Every meter wherever either price has a tier or a window of its own; `routes` are the enabled ones."""
    lines = []
    for where, at_us, input_tokens in _places(old, new):
        before = None if old is None else rates_for(old.tiers_at(at_us), input_tokens)
        after = rates_for(new.tiers_at(at_us), input_tokens)
        for name, meter in _METERS.items():
            costs = [cost for route in routes if (cost := _cost(route, name)) is not None]
            was = None if before is None else getattr(before, name)
            lines.append(Line(where, meter, was, getattr(after, name), max(costs, default=None)))
    return lines


def is_same(old: PriceVersion | None, new: PriceVersion) -> bool:
    """Whether every request costs the same under both, however they are written down."""
    return old is not None and [band[2:] for band in bands_of(old)] == [band[2:] for band in bands_of(new)]


def below_cost(price: PriceVersion, routes: Sequence[RouteInfo]) -> Iterator[str]:
    """Where a meter is sold below the cost that was given for it on an enabled route."""
    for where, at_us, input_tokens in _places(price):
        rates: Rates = rates_for(price.tiers_at(at_us), input_tokens)
        for route in routes:
            for name, meter in _METERS.items():
                cost, rate = _cost(route, name), getattr(rates, name)
                if cost is not None and rate < cost:
                    place = f" ({where})" if where else ""
                    yield (
                        f"{meter}{place}: {usd_text(rate)} is below the cost of route {route.id} "
                        f"({route.provider}/{route.upstream_model}), {usd_text(cost)}"
                    )


def jumps(lines: Sequence[Line]) -> Iterator[str]:
    """Where a meter changes by more than a factor that a slip of units would exceed."""
    for line in lines:
        if line.old is not None and (line.new > FACTOR * line.old or line.old > FACTOR * line.new):
            place = f" ({line.where})" if line.where else ""
            change = f"from {usd_text(line.old)} to {usd_text(line.new)} USD per million tokens"
            yield f"{line.meter}{place}: changes by more than a factor of {FACTOR}, {change}"


def usd_text(rate_nano: int) -> str:
    return f"{rate_to_usd(rate_nano):f}"


def _cost(route: RouteInfo, name: str) -> int | None:
    cost: int | None = getattr(route, f"cost_{_COSTS[name]}_nano")
    return cost


def _places(*prices: PriceVersion | None) -> Iterator[tuple[str, int, int]]:
    """(what to call it, a moment in it, input tokens in it) for each stretch of the day and each tier in it."""
    known = [price for price in prices if price is not None]
    edges = {minute % 1440 for p in known for w in p.windows for minute in (w.start_minute, w.end_minute)}
    minutes = sorted(edges) or [0]
    for i, minute in enumerate(minutes):
        at_us = minute * _MINUTE_US
        until = minutes[(i + 1) % len(minutes)]
        hours = f"{clock_text(minute)}–{clock_text(until)}" if len(minutes) > 1 else ""
        tiers: list[Tier] = [tier for price in known for tier in price.tiers_at(at_us)]
        for above in sorted({tier.above_tokens for tier in tiers}):
            size = f"above {above:,} tokens" if above else ""
            yield " ".join(filter(None, (hours, size))), at_us, above + 1
