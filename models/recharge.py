"""Owns what past requests would cost under other prices, worked out by the database and added up by model and account.

Each request is priced as the server does it: the tier by its actual input, the time window by the moment of its hold. So a
price that is the same reproduces what was billed, to the nano-credit. Two kinds of requests need a word:

- An estimate that was capped at its hold never comes to more than it was; any other is price × its tokens.
- What a request was asked to pay is its charge and what had to be written off of it. If it comes to less than its charge,
  the difference was paid in vain (`overpaid_nano`), and the write-off was not needed (`unwritten_nano`, in part if it comes
  to more than its charge). What it comes to beyond both has not been asked for yet (`unpaid_nano`).

Rows that the database may not multiply (see `bands.py`) are priced in Python, and added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from models.bands import ASKED, BANDS, HOLD, band_join, bands_of, encoded, priced, small_test
from models.database import Database, open_snapshot
from models.ids import SECOND_US, lowest_id
from models.prices import Meters, PriceVersion, price_from_row

PAGE = 5_000
# A sum of SQLite's is within 64 bits, which a slip of units could leave: it is taken in two parts.
_PART = 1_000_000_000
_SUMS = ("charge", "writeoff", "cost", "recharged", "overpaid", "unwritten", "unpaid")


class Recharge(msgspec.Struct):
    """One account's billed requests for one model: what they were asked to pay, and what they would be now."""

    model_id: int
    account_id: int
    requests: int = 0
    estimated: int = 0
    charge_nano: int = 0
    writeoff_nano: int = 0
    cost_nano: int = 0
    recharged_nano: int = 0
    overpaid_nano: int = 0
    unwritten_nano: int = 0
    unpaid_nano: int = 0

    @property
    def billed_nano(self) -> int:
        return self.charge_nano + self.writeoff_nano

    @property
    def difference_nano(self) -> int:
        return self.recharged_nano - self.billed_nano

    def add(self, row: Mapping[str, Any], recharged: int) -> None:
        """One more request, which comes to `recharged` nano-credits."""
        charge, writeoff = row["charge_nano"], row["writeoff_nano"]
        overpaid = max(0, charge - recharged)
        self.requests += 1
        self.estimated += bool(row["estimated"])
        self.charge_nano += charge
        self.writeoff_nano += writeoff
        self.cost_nano += row["cost_nano"]
        self.recharged_nano += recharged
        self.overpaid_nano += overpaid
        self.unwritten_nano += max(0, charge + writeoff - recharged) - overpaid
        self.unpaid_nano += max(0, recharged - charge - writeoff)


async def recharge(
    database: Database,
    prices: Mapping[int, PriceVersion],
    since_us: int,
    until_us: int,
    *,
    account_id: int | None = None,
) -> list[Recharge]:
    """The requests from `since_us` to `until_us` (excluded) for the models of `prices` (by id), each under its price there.

    In the order of models and accounts. Reads only.
    """
    if not prices:
        return []
    old = await _old_prices(database, list(prices))
    # Both kinds stand in one table: a new price under the model's id below zero, an old one under its own.
    new = [msgspec.structs.replace(price, id=-model_id) for model_id, price in prices.items()]
    bands = [band for price in (*new, *old.values()) for band in bands_of(price)]
    small = small_test(bands, "-u.model_id", "h.price_id")
    where, values = _where(list(prices), since_us, until_us, account_id)
    found = {}
    async with open_snapshot(database) as snapshot:
        await _make_room(snapshot)
        query = f"WITH {BANDS[database.dialect]} {_summed(database.dialect, small, where)}"
        rows = await snapshot.rows(query, [encoded(bands), *values])
        for row in rows:
            sums = {
                f"{name}_nano": int(row[f"{name}_high"] or 0) * _PART + int(row[f"{name}_low"] or 0) for name in _SUMS
            }
            total = Recharge(row["model_id"], row["account_id"], row["requests"], row["estimated"], **sums)
            found[total.model_id, total.account_id] = total
        if any(row["large"] for row in rows):
            await _add_large(snapshot, found, prices, old, f"{where} AND NOT ({small})", values)
    return [found[key] for key in sorted(found)]


def recharged_nano(row: Mapping[str, Any], old: PriceVersion | None, new: PriceVersion) -> int:
    """What one request would be asked to pay; `row` has its meters, its charge and write-off, and its hold's moment."""
    if row["at_us"] is None:
        return int(row["charge_nano"] + row["writeoff_nano"])
    meters = Meters(row["fresh_tokens"], row["cached_tokens"], row["cache_write_tokens"], row["output_tokens"])
    asked, priced_nano = row["charge_nano"] + row["writeoff_nano"], new.charge_nano(meters, row["at_us"])
    if row["estimated"] and old is not None and asked < old.charge_nano(meters, row["at_us"]):
        return min(priced_nano, int(asked))
    return priced_nano


async def _make_room(snapshot: Database) -> None:
    """PostgreSQL expects a group for every record, and would sort them all on disk: twice as slow as adding up in memory."""
    if snapshot.dialect == "postgres":
        await snapshot.connection.execute_query("SET LOCAL work_mem = '64MB'")
        await snapshot.connection.execute_query("SET LOCAL enable_sort = off")


async def _old_prices(database: Database, model_ids: list[int]) -> dict[int, PriceVersion]:
    listed = ", ".join(map(str, model_ids))
    rows = await database.rows(f"SELECT * FROM price WHERE model_id IN ({listed})")
    return {row["id"]: price_from_row(row) for row in rows}


def _where(model_ids: list[int], since_us: int, until_us: int, account_id: int | None) -> tuple[str, list[Any]]:
    """The records that are asked for, and the values of the statement's bounds."""
    where = (
        "u.request_id >= ? AND u.request_id < ? AND u.at_us >= ? AND u.at_us < ? AND u.outcome <> 'failed'"
        f" AND u.model_id IN ({', '.join(map(str, model_ids))})"
    )
    # An id counts in milliseconds: its bounds are a second wider than the moments.
    ids = [lowest_id(since_us - SECOND_US), lowest_id(until_us + SECOND_US)]
    values: list[Any] = [*ids, *ids, since_us, until_us]
    if account_id is not None:
        where, values = f"{where} AND u.account_id = ?", [*values, account_id]
    return where, values


# The bounds are said for the holds too: without them PostgreSQL would read all there are.
_HELD = f"FROM usage u {HOLD} AND h.request_id >= ? AND h.request_id < ?"
# Behind this neither database takes a part apart: whatever is said of a record is worked out once.
_FENCE = {"postgres": " OFFSET 0", "sqlite": " LIMIT -1"}


def _summed(dialect: str, small: str, where: str) -> str:
    """A row for each model and account, with every sum in two parts."""
    fence, new, old = _FENCE[dialect], priced("b"), priced("o")
    chosen = (
        "SELECT u.model_id, u.account_id, u.estimated, u.fresh_tokens, u.cached_tokens, u.cache_write_tokens, u.output_tokens,"
        f" u.charge_nano, u.writeoff_nano, u.cost_nano, h.price_id, h.at_us AS held_us,"
        f" {small} AS small {_HELD} WHERE {where}{fence}"
    )
    capped = f"u.estimated AND {ASKED} < {old} AND {ASKED} < {new}"
    # A record without its hold, which reconcile reports, has no band: it stays as it was billed.
    records = (
        "SELECT u.model_id, u.account_id, u.small, u.estimated, u.charge_nano AS charge, u.writeoff_nano AS writeoff,"
        f" u.cost_nano AS cost,"
        f" CASE WHEN u.small THEN COALESCE(CASE WHEN {capped} THEN {ASKED} ELSE {new} END, {ASKED}) END AS recharged"
        f" FROM ({chosen}) u {band_join('b', '-u.model_id', 'u.small', held_us='u.held_us')}"
        f" {band_join('o', 'u.price_id', 'u.estimated AND u.small', held_us='u.held_us')}{fence}"
    )
    sums = {name: name for name in ("charge", "writeoff", "cost", "recharged")}
    sums |= {
        "overpaid": "CASE WHEN recharged < charge THEN charge - recharged ELSE 0 END",
        "unwritten": "CASE WHEN recharged < charge THEN writeoff WHEN recharged < charge + writeoff"
        " THEN charge + writeoff - recharged ELSE 0 END",
        "unpaid": "CASE WHEN recharged > charge + writeoff THEN recharged - charge - writeoff ELSE 0 END",
    }
    parts = [
        f"SUM(({x}) {part}) FILTER (WHERE small) AS {name}_{end}"
        for name, x in sums.items()
        for part, end in ((f"/ {_PART}", "high"), (f"% {_PART}", "low"))
    ]
    return (
        "SELECT model_id, account_id, COUNT(*) FILTER (WHERE small) AS requests, COUNT(*) FILTER (WHERE NOT small) AS large,"
        f" COUNT(*) FILTER (WHERE small AND estimated) AS estimated, {', '.join(parts)} FROM ({records}) records"
        " GROUP BY model_id, account_id"
    )


async def _add_large(
    snapshot: Database,
    found: dict[tuple[int, int], Recharge],
    new: Mapping[int, PriceVersion],
    old: Mapping[int, PriceVersion],
    where: str,
    values: list[Any],
) -> None:
    """Add those that the database may not multiply. Reads in pages, whatever their number."""
    last = lowest_id(0)
    while page := await snapshot.rows(
        "SELECT u.request_id, u.model_id, u.account_id, u.estimated, u.fresh_tokens, u.cached_tokens, u.cache_write_tokens,"
        f" u.output_tokens, u.charge_nano, u.writeoff_nano, u.cost_nano, h.price_id, h.at_us {_HELD} WHERE {where}"
        " AND u.request_id > ? ORDER BY u.request_id LIMIT ?",
        [*values, last, PAGE],
    ):
        for row in page:
            total = found.setdefault((row["model_id"], row["account_id"]), Recharge(row["model_id"], row["account_id"]))
            total.add(row, recharged_nano(row, old.get(row["price_id"]), new[row["model_id"]]))
        last = str(page[-1]["request_id"])
