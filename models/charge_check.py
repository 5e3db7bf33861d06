"""Owns invariant 4: every kept request was charged tokens × the price pinned at its hold, or at most its hold if estimated.

The database checks all rows in one statement, by the bands that `bands.py` makes of the prices. Only rows whose products could
leave 64 bits, which no honest request makes, are checked in Python.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from models.bands import ASKED, BANDS, HOLD, band_join, bands_of, encoded, priced, small_test
from models.database import Database
from models.ids import lowest_id, to_datetime
from models.months import month_of_id
from models.price_list import LIVE
from models.prices import Meters, PriceVersion, price_from_row
from models.retention import kept_since

PAGE = 5_000
# So many faults are spelled out; the others are counted.
SHOWN = 3


class Checked(NamedTuple):
    """How many records there are, how many of them estimated, how many charged wrongly; some of those, spelled out."""

    records: int
    estimated: int
    faults: int
    shown: list[str]


async def charges_are_price_times_tokens(snapshot: Database) -> tuple[bool, str]:
    """Whether it holds, and the figures behind that."""
    # A cancelled price charges nobody: what was charged by one is wrong.
    rows = await snapshot.rows(f"SELECT * FROM price p WHERE {LIVE.format('p')}")
    prices = [price_from_row(row) for row in rows]
    found = await check_charges(snapshot, prices)
    floor = await kept_since(snapshot)
    # Usage is kept by months, transfers for ever: only charges from the oldest kept month on must have a record.
    bare = await snapshot.rows(
        "SELECT COUNT(*) AS n FROM transfer t LEFT JOIN usage u ON u.request_id = t.request_id"
        " WHERE t.request_id >= ? AND t.request_id IS NOT NULL AND u.request_id IS NULL",
        [floor],
    )
    wrong = list(found.shown)
    wrong += [f"{found.faults - SHOWN} more"] if found.faults > SHOWN else []
    wrong += [f"{bare[0]['n']} charges without a usage record"] if bare[0]["n"] else []
    fine = f"{found.records} requests, {found.estimated} of them estimated; {await _oldest(snapshot, floor)}"
    return not wrong, "; ".join(wrong) or fine


async def _oldest(snapshot: Database, floor: str) -> str:
    dropped = "none were dropped" if floor == lowest_id(0) else f"those before {month_of_id(floor)} were dropped"
    first = await snapshot.rows("SELECT request_id, at_us FROM usage ORDER BY request_id LIMIT 1")
    if not first:
        return f"no record is kept, {dropped}"
    return f"the oldest kept is {first[0]['request_id']} of {to_datetime(first[0]['at_us']):%Y-%m-%d}, {dropped}"


# ── by the database ───────────────────────────────────────────────────────────────────────────────────────────────


async def check_charges(snapshot: Database, prices: list[PriceVersion]) -> Checked:
    """All records in one pass of the database; those that it may not multiply, and those that are wrong, in Python."""
    bands = [band for price in prices for band in bands_of(price)]
    small = small_test(bands, "h.price_id")
    start = f"WITH {BANDS[snapshot.dialect]} SELECT"
    class_, joined = _class(small), f"FROM usage u {HOLD} {band_join('b', 'h.price_id', small)}"
    values = [encoded(bands)]
    counts = await snapshot.rows(
        f"{start} {class_} AS class, COUNT(*) AS n, SUM(CASE WHEN u.estimated THEN 1 ELSE 0 END) AS estimated"
        f" {joined} GROUP BY 1",
        values,
    )
    found = {row["class"]: row["n"] for row in counts}
    known = {price.id: price for price in prices}
    faults, shown = found.get("wrong", 0), list[str]()
    if faults:
        rows = await snapshot.rows(
            f"{start} {_COLUMNS} {joined} WHERE {class_} = 'wrong' ORDER BY u.request_id LIMIT {SHOWN}", values
        )
        shown = [
            f"request {row['request_id']}: {charge_fault(row, known) or 'the two checks disagree'}" for row in rows
        ]
    if found.get("large"):
        async for row, fault in faults_by_python(snapshot, known, f"NOT ({small})"):
            faults += 1
            if len(shown) < SHOWN:
                shown.append(f"request {row['request_id']}: {fault}")
    return Checked(sum(found.values()), sum(int(row["estimated"]) for row in counts), faults, shown)


def _class(small: str) -> str:
    return (
        f"CASE WHEN NOT ({small}) THEN 'large' WHEN h.price_id = u.price_id AND b.effective_us <= h.at_us AND"
        f" CASE WHEN u.estimated THEN {ASKED} <= h.amount_nano ELSE {ASKED} = {priced('b')} END THEN 'right' ELSE 'wrong' END"
    )


# ── by Python, row by row ─────────────────────────────────────────────────────────────────────────────────────────

_COLUMNS = (
    "u.request_id, u.estimated, u.fresh_tokens, u.cached_tokens, u.cache_write_tokens, u.output_tokens, u.charge_nano,"
    " u.writeoff_nano, u.price_id, h.price_id AS pinned_id, h.at_us, h.amount_nano"
)


async def faults_by_python(
    snapshot: Database, prices: dict[int, PriceVersion], test: str = "1 = 1"
) -> AsyncIterator[tuple[dict[str, Any], str]]:
    """Rows that are charged wrongly and pass `test`, each with what is wrong. Reads in pages, whatever their number."""
    last = lowest_id(0)
    while page := await snapshot.rows(
        # The bound is said for both tables: PostgreSQL would merge each page with all holds from the first one on.
        f"SELECT {_COLUMNS} FROM usage u LEFT JOIN hold h ON h.request_id = u.request_id AND h.request_id > ?"
        f" WHERE u.request_id > ? AND {test} ORDER BY u.request_id LIMIT ?",
        [last, last, PAGE],
    ):
        for row in page:
            fault = charge_fault(row, prices)
            if fault is not None:
                yield row, fault
        last = str(page[-1]["request_id"])


def charge_fault(row: dict[str, Any], prices: dict[int, PriceVersion]) -> str | None:
    """What is wrong with one request's charge, or None."""
    price = prices.get(row["pinned_id"])
    if price is None or row["pinned_id"] != row["price_id"] or price.effective_us > row["at_us"]:
        return f"was not charged by the price pinned at its hold ({row['price_id']})"
    asked_nano = row["charge_nano"] + row["writeoff_nano"]
    if row["estimated"]:
        above = asked_nano - row["amount_nano"]
        return f"was estimated {above} nano above its hold" if above > 0 else None
    meters = Meters(row["fresh_tokens"], row["cached_tokens"], row["cache_write_tokens"], row["output_tokens"])
    right = price.charge_nano(meters, row["at_us"])
    return None if asked_nano == right else f"was charged {asked_nano} nano, its tokens cost {right}"
