"""Owns looking before publishing: a proposed price beside the one in force, whom it concerns, what warns against it."""

from __future__ import annotations

import html
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from models.database import Database
from models.errors import BadInput, NeedsConfirmation
from models.ids import to_datetime
from models.price_list import database_now_us, newest_price_id, price_at, publish_price, scope_counts
from models.price_terms import clock_text
from models.prices import PriceVersion, Rates, Tier, rate_to_usd, rates_for
from models.routes import RouteInfo, route_list

if TYPE_CHECKING:
    from ops.catalog import Catalog

FACTOR = 3
_MINUTE_US = 60_000_000
_METERS = {"fresh": "input", "cached": "cached input", "written": "cache write", "output": "output"}


class Line(msgspec.Struct, frozen=True):
    """One meter, in one tier and window, before and after. Rates in nano-credits per token; `old` None: no price."""

    where: str
    meter: str
    old: int | None
    new: int

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
    def texts(self) -> tuple[str, str, str, str, str]:
        old = "–" if self.old is None else _usd(self.old)
        return self.where, self.meter, old, _usd(self.new), self.percent


class Draft(msgspec.Struct, frozen=True):
    """All that a proposal was drawn up from, at one moment."""

    model: str
    price: PriceVersion
    effective_us: int | None
    old: PriceVersion | None
    last_seen_id: int
    routes: tuple[RouteInfo, ...]
    keys: int
    accounts: int


async def draw_up(database: Database, model: str, price: PriceVersion, effective_us: int | None) -> Draft:
    """What `model` costs at the moment that `price` would take effect, and who may call it."""
    last_seen_id = await newest_price_id(database, model)
    now = await database_now_us(database)
    if effective_us is not None and effective_us < now:
        raise BadInput(
            f"effective_from: {to_datetime(effective_us).isoformat()} is in the past; leave it out to begin now",
            field="effective_from",
        )
    keys, accounts = await scope_counts(database, model)
    return Draft(
        model=model,
        price=price,
        effective_us=effective_us,
        old=await price_at(database, model, effective_us),
        last_seen_id=last_seen_id,
        routes=tuple(route for route in await route_list(model) if route.enabled),
        keys=keys,
        accounts=accounts,
    )


class Proposal:
    """A price that is not published yet. Shown in a notebook it lists old, new, percent, and who is affected."""

    def __init__(self, catalog: Catalog, draft: Draft) -> None:
        self._catalog = catalog
        self._draft = draft
        self._published: PriceVersion | None = None
        self.lines = _compare(draft.old, draft.price)
        self.warnings = [*_below_cost(draft), *_jumps(self.lines)]

    def publish(self, *, reason: str, accept_warnings: bool = False) -> PriceVersion:
        """Publish it, once; again returns the same version. Raises NeedsConfirmation while warnings are not accepted.

        Raises Conflict when another price of the model was published since the proposal was made.
        """
        if self._published is None:
            if self.warnings and not accept_warnings:
                listed = "; ".join(self.warnings)
                raise NeedsConfirmation(f"{listed}. If that is meant: publish(…, accept_warnings=True)", field="price")
            draft = self._draft
            self._published = self._catalog._write(
                publish_price,
                draft.model,
                draft.price,
                reason=reason,
                effective_us=draft.effective_us,
                last_seen_id=draft.last_seen_id,
            )
        return self._published

    @property
    def _title(self) -> str:
        moment = self._draft.effective_us
        when = "at once" if moment is None else f"from {to_datetime(moment).isoformat()}"
        done = f"published as version {self._published.id}" if self._published else "not published"
        return f"Price of {self._draft.model}, {when} ({done}); USD per million tokens"

    @property
    def _affected(self) -> str:
        return f"affects {_plural(self._draft.keys, 'key')} of {_plural(self._draft.accounts, 'account')}"

    def __repr__(self) -> str:
        rows = [("", "", "old", "new", "change"), *(line.texts for line in self.lines)]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        table = [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        warnings = [f"WARNING: {warning}" for warning in self.warnings]
        return "\n".join([self._title, *(line.rstrip() for line in table), self._affected, *warnings])

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line.texts) + "</tr>" for line in self.lines
        )
        warnings = "".join(f"<li><strong>Warning:</strong> {html.escape(w)}</li>" for w in self.warnings)
        return (
            f"<p><strong>{html.escape(self._title)}</strong></p><table><thead><tr><th></th><th></th><th>old</th>"
            f"<th>new</th><th>change</th></tr></thead><tbody>{rows}</tbody></table>"
            f"<p>{html.escape(self._affected)}</p>" + (f"<ul>{warnings}</ul>" if warnings else "")
        )


# ── comparing, without a database ─────────────────────────────────────────────────────────────────────────────────


def _compare(old: PriceVersion | None, new: PriceVersion) -> list[Line]:
    """Every meter wherever either price has a tier or a window of its own."""
    lines = []
    for where, at_us, input_tokens in _places(old, new):
        before = None if old is None else rates_for(old.tiers_at(at_us), input_tokens)
        after = rates_for(new.tiers_at(at_us), input_tokens)
        for name, meter in _METERS.items():
            lines.append(Line(where, meter, None if before is None else getattr(before, name), getattr(after, name)))
    return lines


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


def _below_cost(draft: Draft) -> Iterator[str]:
    """Where a meter is sold below the cost that was given for it on an enabled route."""
    for where, at_us, input_tokens in _places(draft.price):
        rates: Rates = rates_for(draft.price.tiers_at(at_us), input_tokens)
        for route in draft.routes:
            costs = {
                "fresh": route.cost_input_nano,
                "cached": route.cost_cached_input_nano,
                "written": route.cost_cache_write_nano,
                "output": route.cost_output_nano,
            }
            for name, cost in costs.items():
                rate = getattr(rates, name)
                if cost is not None and rate < cost:
                    place = f" ({where})" if where else ""
                    yield (
                        f"{_METERS[name]}{place}: {_usd(rate)} is below the cost of route {route.id} "
                        f"({route.provider}/{route.upstream_model}), {_usd(cost)}"
                    )


def _jumps(lines: list[Line]) -> Iterator[str]:
    """Where a meter changes by more than a factor that a slip of units would exceed."""
    for line in lines:
        if line.old is not None and (line.new > FACTOR * line.old or line.old > FACTOR * line.new):
            place = f" ({line.where})" if line.where else ""
            change = f"from {_usd(line.old)} to {_usd(line.new)} USD per million tokens"
            yield f"{line.meter}{place}: changes by more than a factor of {FACTOR}, {change}"


def _usd(rate_nano: int) -> str:
    return f"{rate_to_usd(rate_nano):f}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
