"""Owns showing what past usage would have cost under other prices. The sums are `models/recharge.py`."""

from __future__ import annotations

import html
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
import pandas as pd

from models.accounts import balance_rows
from models.catalog import find_model
from models.checks import check_whole
from models.database import Database
from models.ids import DAY_US, lowest_id, to_datetime
from models.months import month_of_id
from models.price_list import database_now_us
from models.prices import PriceVersion, credits_text
from models.recharge import Recharge, recharge
from models.retention import kept_since
from ops.frames import frame
from ops.shown import html_table, plural, text_table

MOST_DAYS = 3_660
_SHOWN = 10
_HEAD = ("model", "account", "requests", "billed", "replayed", "difference", "change")
_COLUMNS = {
    "model": "str",
    "account": "str",
    "requests": "Int64",
    "estimated": "Int64",
    "billed_nano": "Int64",
    "writeoff_nano": "Int64",
    "replayed_nano": "Int64",
    "difference_nano": "Int64",
    "cost_nano": "Int64",
}


class Replayed(msgspec.Struct, frozen=True):
    """Sums by model and account, with their names, and the months before which there are no records."""

    rows: list[tuple[str, str, Recharge]]
    since_us: int
    until_us: int
    kept_from: str | None


class Replay:
    """What a time's requests were billed, and what they would have been. Shown, it lists those that change most.

    `billed_nano` is what was asked for, write-offs included, which `writeoff_nano` names; prices that are the same give
    `replayed_nano == billed_nano` exactly. `cost_nano` is what the providers cost. `.frame` has a row per model and account.
    """

    def __init__(self, replayed: Replayed) -> None:
        self._replayed = replayed
        self._rows = sorted(replayed.rows, key=lambda row: (-abs(row[2].difference_nano), row[0], row[1]))

    @property
    def frame(self) -> pd.DataFrame:
        """The largest differences first."""
        return frame((_named(*row) for row in self._rows), _COLUMNS)

    @property
    def requests(self) -> int:
        return self._sum("requests")

    @property
    def billed_nano(self) -> int:
        return self._sum("billed_nano")

    @property
    def writeoff_nano(self) -> int:
        return self._sum("writeoff_nano")

    @property
    def replayed_nano(self) -> int:
        return self._sum("recharged_nano")

    @property
    def difference_nano(self) -> int:
        return self.replayed_nano - self.billed_nano

    @property
    def cost_nano(self) -> int:
        return self._sum("cost_nano")

    def __repr__(self) -> str:
        return "\n".join([self._title, *text_table(_HEAD, self._texts, left=2), *self._notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes)
        return f"<p><strong>{html.escape(self._title)}</strong></p>{html_table(_HEAD, self._texts)}{notes}"

    def _sum(self, name: str) -> int:
        return sum(getattr(row, name) for _, _, row in self._replayed.rows)

    @property
    def _title(self) -> str:
        since, until = (
            to_datetime(us).strftime("%Y-%m-%d %H:%M") for us in (self._replayed.since_us, self._replayed.until_us)
        )
        return f"{plural(self.requests, 'request')} from {since} to {until} UTC, replayed; credits"

    @property
    def _texts(self) -> list[tuple[str, ...]]:
        total = (self.requests, self.billed_nano, self.replayed_nano)
        shown = [(m, a, r.requests, r.billed_nano, r.recharged_nano) for m, a, r in self._rows[:_SHOWN]]
        return [_texts(*row) for row in (*shown, ("all", "", *total))]

    @property
    def _notes(self) -> list[str]:
        notes = [f"margin over what the providers cost: {_margin(self.billed_nano, self.cost_nano)} before, "
                 f"{_margin(self.replayed_nano, self.cost_nano)} then"]  # fmt: skip
        if len(self._rows) > _SHOWN:
            notes.append(f"{len(self._rows) - _SHOWN:,} more rows in .frame")
        if self.writeoff_nano:
            notes.append(f"{credits_text(self.writeoff_nano)} credits of what was billed had to be written off")
        if self._replayed.kept_from is not None:
            notes.append(f"usage before {self._replayed.kept_from} is no longer kept, and not counted")
        return notes


async def replay_prices(
    database: Database, prices: Mapping[str, PriceVersion], days: int, until_us: int | None = None
) -> Replayed:
    """The last `days` before now, or before `until_us`, of the aliases in `prices`, each under its price there. Reads only."""
    count = check_whole(days, field="days", least=1, most=MOST_DAYS)
    until_us = await database_now_us(database) if until_us is None else until_us
    since_us = until_us - count * DAY_US
    models = {(await find_model(alias)).id: (alias, price) for alias, price in prices.items()}
    found = await recharge(database, {id_: price for id_, (_, price) in models.items()}, since_us, until_us)
    emails = await account_names(database)
    floor = await kept_since(database)
    kept_from = str(month_of_id(floor)) if floor > lowest_id(since_us) else None
    rows = [(models[row.model_id][0], emails.get(row.account_id, str(row.account_id)), row) for row in found]
    return Replayed(rows, since_us, until_us, kept_from)


async def account_names(database: Database) -> dict[int, str]:
    """The e-mail of every account, by id; its name when it has no login."""
    return {row["account_id"]: row["email"] or row["name"] for row in await balance_rows(database)}


def percent_text(old_nano: int, new_nano: int) -> str:
    if old_nano == new_nano:
        return "0 %"
    return f"{(Decimal(new_nano) / old_nano - 1) * 100:+.1f} %" if old_nano else "from 0"


def _margin(price_nano: int, cost_nano: int) -> str:
    return f"{(1 - Decimal(cost_nano) / price_nano) * 100:+.1f} %" if price_nano else "–"


def _texts(model: str, account: str, requests: int, old: int, new: int) -> tuple[str, ...]:
    sums = (credits_text(old), credits_text(new), credits_text(new - old), percent_text(old, new))
    return model, account, f"{requests:,}", *sums


def _named(model: str, account: str, row: Recharge) -> dict[str, Any]:
    return {
        "model": model,
        "account": account,
        "requests": row.requests,
        "estimated": row.estimated,
        "billed_nano": row.billed_nano,
        "writeoff_nano": row.writeoff_nano,
        "replayed_nano": row.recharged_nano,
        "difference_nano": row.difference_nano,
        "cost_nano": row.cost_nano,
    }
