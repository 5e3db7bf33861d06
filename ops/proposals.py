"""Owns looking before publishing: a price beside the one in force, its margin, whom it concerns, what warns against it.

A proposal replays past usage under its price (`replay.py`), and publishes it once. How prices are compared: `price_lines.py`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING

import msgspec

from models.database import Database
from models.errors import BadInput, NeedsConfirmation
from models.ids import to_datetime
from models.price_list import Order, database_now_us, newest_price_id, price_at, publish_prices, scope_counts
from models.prices import PriceVersion
from models.routes import RouteInfo, route_list
from ops.frames import moment_us
from ops.price_lines import HEAD, below_cost, compare, is_same, jumps
from ops.replay import Replay, replay_prices
from ops.shown import html_list, html_table, plural, text_table

if TYPE_CHECKING:
    from ops.prices import Prices


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

    @property
    def order(self) -> Order:
        """What is published, unless something was seen that has changed since."""
        replaces_id = self.old.id if self.old is not None else 0
        return Order(self.model, self.price, self.effective_us, self.last_seen_id, replaces_id)


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
    """A price that is not published yet. Shown in a notebook it lists old, new, percent, margin, and who is affected."""

    def __init__(self, catalog: Prices, draft: Draft, *, to_name: int | None = None) -> None:
        """`to_name` is the version that has to be named before this, a change of it, is published."""
        self._catalog = catalog
        self._draft = draft
        self._to_name = to_name
        self._published: PriceVersion | None = None
        self.lines = compare(draft.old, draft.price, draft.routes)
        self.warnings = [*below_cost(draft.price, draft.routes), *jumps(self.lines)]

    @property
    def is_unchanged(self) -> bool:
        """Whether every request costs what it does already; publishing it changes nothing."""
        return is_same(self._draft.old, self._draft.price)

    def publish(self, *, reason: str, accept_warnings: bool = False) -> PriceVersion:
        """Publish it, once; again returns the same version. Raises NeedsConfirmation while warnings are not accepted.

        A price that is in force already is not published anew. Raises Conflict when another price of the model was published,
        cancelled, or took effect since the proposal was made.
        """
        if self._to_name is not None:
            raise BadInput(
                f"replaces: name the price_version that is changed, replaces={self._to_name}, and propose it again;"
                " so it cannot be changed twice by accident. Nothing was published",
                field="replaces",
            )
        if self._published is None:
            self._published = publish_together(self._catalog, [self], reason, accept_warnings)[0]
        return self._published

    def replay(self, days: int = 30, *, until: date | str | None = None) -> Replay:
        """What the model's requests of the last `days` before now, or `until`, were billed, and would have been."""
        until_us = moment_us(until, field="until")
        return Replay(self._catalog._read(replay_prices, {self._draft.model: self._draft.price}, days, until_us))

    @property
    def _title(self) -> str:
        moment = self._draft.effective_us
        when = "at once" if moment is None else f"from {to_datetime(moment).isoformat()}"
        done = f"published as version {self._published.id}" if self._published else "not published"
        return f"Price of {self._draft.model}, {when} ({done}); USD per million tokens"

    @property
    def _affected(self) -> str:
        return f"affects {plural(self._draft.keys, 'key')} of {plural(self._draft.accounts, 'account')}"

    def __repr__(self) -> str:
        table = text_table(HEAD, (line.texts for line in self.lines), left=2)
        warnings = [f"WARNING: {warning}" for warning in self.warnings]
        return "\n".join([self._title, *table, self._affected, *warnings])

    def _repr_html_(self) -> str:
        table = html_table(HEAD, (line.texts for line in self.lines))
        warnings = html_list(f"Warning: {warning}" for warning in self.warnings)
        title, affected = html.escape(self._title), html.escape(self._affected)
        return f"<p><strong>{title}</strong></p>{table}<p>{affected}</p>{warnings}"


def publish_together(
    catalog: Prices, proposals: Iterable[Proposal], reason: str, accept_warnings: bool
) -> list[PriceVersion]:
    """Publish all of them in one transaction, or nothing; the version of each, also where it is in force already."""
    listed = list(proposals)
    warned = [(proposal._draft.model, warning) for proposal in listed for warning in proposal.warnings]
    if warned and not accept_warnings:
        shown = "; ".join(f"{model}: {warning}" if len(listed) > 1 else warning for model, warning in warned)
        raise NeedsConfirmation(f"{shown}. If that is meant: publish(…, accept_warnings=True)", field="price")
    changed = [proposal for proposal in listed if not proposal.is_unchanged]
    done = catalog._write(publish_prices, [proposal._draft.order for proposal in changed], reason=reason)
    for proposal, version in zip(changed, done, strict=True):
        proposal._published = version
    return [proposal._published or _in_force(proposal) for proposal in listed]


def _in_force(proposal: Proposal) -> PriceVersion:
    assert proposal._draft.old is not None
    return proposal._draft.old
