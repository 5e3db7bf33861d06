"""Owns the operators' verbs on prices: proposing one or a list of them, cancelling. Rules: `models/price_list.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pandas as pd

from models.catalog import find_model
from models.database import Database
from models.errors import BadInput
from models.markup import changed, marked_up
from models.price_list import cancel_price, price_at, price_rows
from models.price_terms import price_from_usd
from models.prices import PriceVersion, Rates, rate_to_usd
from models.routes import Usd, route_list
from ops.drawer import Drawer
from ops.frames import EXACT, MOMENT, frame, moment_us
from ops.price_import import PriceList, read_price_list
from ops.proposals import Proposal, draw_up
from ops.tables import Source

METERS = {"input_usd": "input_nano", "cached_input_usd": "cached_input_nano"}
METERS |= {"cache_write_usd": "cache_write_nano", "output_usd": "output_nano"}
_PRICES = {
    "price_version": "Int64",
    "model": "str",
    "status": "str",
    "effective_from": MOMENT,
    **dict.fromkeys(METERS, EXACT),
    "tiers": "Int64",
    "windows": "Int64",
    "operator": "str",
    "reason": "str",
    "published_at": MOMENT,
    "cancelled_at": MOMENT,
    "cancelled_by": "str",
}


class Prices(Drawer):
    """The part of `desk.catalog` that is about prices."""

    def propose_price(
        self,
        model: str,
        *,
        input_usd: Usd | None = None,
        output_usd: Usd | None = None,
        cached_input_usd: Usd | None = None,
        cache_write_usd: Usd | None = None,
        tiers: Sequence[Mapping[str, Any]] = (),
        windows: Sequence[Mapping[str, Any]] = (),
        markup: str | None = None,
        effective_from: datetime | str | None = None,
    ) -> Proposal:
        """A price to look at before it is published; nothing changes yet. It takes effect at once, or `effective_from`.

        tiers=[{"above_tokens": 128_000, "input_usd": "0.54", "output_usd": "2.20"}] prices long inputs;
        windows=[{"start": "16:30", "end": "00:30", "input_usd": "0.14", "output_usd": "0.55"}] prices hours of the UTC
        day, and may have `tiers` of its own. Cached input and cache writes cost what input does unless given.

        markup="30%" makes every price that is not given 30 % more than the cost on the dearest enabled route, rounded up to
        the fifth decimal.
        """
        given = {
            "input_usd": input_usd,
            "output_usd": output_usd,
            "cached_input_usd": cached_input_usd,
            "cache_write_usd": cache_write_usd,
        }
        if markup is not None:
            given = self._marked_up(model, markup) | {name: usd for name, usd in given.items() if usd is not None}
        price = price_from_usd(**given, tiers=tiers, windows=windows)  # type: ignore[arg-type]
        effective_us = moment_us(effective_from, field="effective_from")
        return Proposal(self, self._read(draw_up, model, price, effective_us))

    def propose_change(
        self,
        model: str,
        change: str,
        *,
        replaces: int | None = None,
        effective_from: datetime | str | None = None,
    ) -> Proposal:
        """The price in force, dearer or cheaper as a whole: `change` is "+5%" or "-2.5%", of every meter, tier and window.

        To look at, the price_version that is changed need not be named; to publish it must be, in `replaces`: so the same
        change said twice is one change. Each rate is rounded to the nearest fifth decimal. Raises BadInput for a model that
        has no price yet, or not that version.
        """
        effective_us = moment_us(effective_from, field="effective_from")
        if replaces is None:
            old = self._read(price_at, model, effective_us)
        else:
            rows = self._read(price_rows, history=True)
            old = next((row["version"] for row in rows if (row["alias"], row["id"]) == (model, replaces)), None)
        if old is None:
            which = "price" if replaces is None else f"price version {replaces}"
            raise BadInput(f"model: {model} has no {which} to change; see desk.catalog.prices()", field="model")
        draft = self._read(draw_up, model, changed(old, change), effective_us)
        return Proposal(self, draft, to_name=old.id if replaces is None else None)

    def import_prices(self, source: Source, *, effective_from: datetime | str | None = None) -> PriceList:
        """A price list to look at before it is published: a CSV or XLSX file, or a frame; nothing changes yet.

        Columns: model, input_usd, output_usd, and if needed cached_input_usd, cache_write_usd, effective_from. Further rows of
        a model give its tiers (above_tokens) and hours of the UTC day (start, end). A model that the list does not name keeps
        its price. `effective_from` here is for the rows without one of their own.
        """
        return read_price_list(self, source, effective_from)

    def cancel_price(self, price_version: int, *, reason: str) -> PriceVersion:
        """Take back a price dated ahead; the one before it goes on. Twice is once.

        Refused from 15 s before it takes effect on: then publish another price instead.
        """
        return self._write(cancel_price, price_version, reason=reason)

    def prices(self, history: bool = False, *, model: str | None = None) -> pd.DataFrame:
        """Prices in force and dated ahead, of all models or of one; with `history` the past and the cancelled ones too."""
        if model is not None:
            self._read(_known, model)
        rows = self._read(price_rows, history=history)
        return frame((_price(row) for row in rows if model in (None, row["alias"])), _PRICES)

    def _marked_up(self, model: str, markup: str) -> dict[str, Usd | None]:
        rates = self._read(_marked_up, model, markup)
        names = ("input_usd", "cached_input_usd", "cache_write_usd", "output_usd")
        return {
            name: rate_to_usd(rate)
            for name, rate in zip(names, (rates.fresh, rates.cached, rates.written, rates.output), strict=True)
        }


async def _known(database: Database, model: str) -> None:
    await find_model(model)


async def _marked_up(database: Database, model: str, markup: str) -> Rates:
    return marked_up([route for route in await route_list(model) if route.enabled], markup)


def usd_of(row: Mapping[str, Any] | None) -> dict[str, Decimal | None]:
    return {usd: None if row is None else rate_to_usd(row[nano]) for usd, nano in METERS.items()}


def _price(row: dict[str, Any]) -> dict[str, Any]:
    version = row["version"]
    return {
        **row,
        **usd_of(row),
        "price_version": row["id"],
        "model": row["alias"],
        "effective_from": row["effective_us"],
        "tiers": len(version.tiers),
        "windows": len(version.windows),
        "published_at": row["created_us"],
        "cancelled_at": row["cancelled_us"],
    }
