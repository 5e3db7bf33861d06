"""Owns charges worked out by the database: price versions unfolded into bands, and the SQL that finds a record's band.

It needs no rules of its own: a price version is unfolded into bands (from such a minute to such, above so much input and up
to so much) within which one set of rates holds, and `prices.py` is asked for each. A statement names its tables `u` (usage),
`h` (hold) and `b` (band). Only rows whose products could leave 64 bits, which no honest request makes, are left to Python.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from models.prices import MINUTES_PER_DAY, MOST_RATE_NANO, PriceVersion, rates_for

# A count of tokens above this is not believed from any provider (see gateway/metering.py), and four products of it fit.
MOST_TOKENS = 2**31
assert 4 * MOST_TOKENS * MOST_RATE_NANO < 2**63


class Band(NamedTuple):
    """The rates (nano-credits per token) of one price for requests held from one minute of the UTC day to another
    (excluded), whose input is above `above` tokens and at most `upto`.
    """

    price_id: int
    effective_us: int
    from_minute: int
    to_minute: int
    above: int
    upto: int
    fresh: int
    cached: int
    written: int
    output: int


def bands_of(price: PriceVersion) -> list[Band]:
    """Every minute and every count of input tokens falls into exactly one of them."""
    edges = {0, MINUTES_PER_DAY}
    for window in price.windows:
        edges |= {window.start_minute, window.end_minute}
    minutes = sorted(edges)
    found = []
    for start, end in itertools.pairwise(minutes):
        tiers = price.tiers_at(start * 60_000_000)
        bounds = [-1, *sorted({tier.above_tokens for tier in tiers[1:]}), 2**62]
        for above, upto in itertools.pairwise(bounds):
            rates = rates_for(tiers, above + 1)
            found.append(Band(price.id, price.effective_us, start, end, above, upto, *msgspec.structs.astuple(rates)))
    return found


# ── as SQL ────────────────────────────────────────────────────────────────────────────────────────────────────────

_TOKENS = ("u.fresh_tokens", "u.cached_tokens", "u.cache_write_tokens", "u.output_tokens")
_AMOUNTS = ("u.charge_nano", "u.writeoff_nano", "COALESCE(h.at_us, 0)")
_SMALL = " AND ".join(
    [f"{name} BETWEEN 0 AND {MOST_TOKENS}" for name in _TOKENS]
    + [f"{name} BETWEEN 0 AND {2**62 - 1}" for name in _AMOUNTS]
)
_BAND = {
    "sqlite": ", ".join(f"json_extract(value, '$[{n}]') AS {name}" for n, name in enumerate(Band._fields)),
    "postgres": ", ".join(f"(value ->> {n})::bigint AS {name}" for n, name in enumerate(Band._fields)),
}
# A table to begin a statement's WITH; its one value is what `encoded` returns.
BANDS = {
    "sqlite": f"band AS MATERIALIZED (SELECT {_BAND['sqlite']} FROM json_each(?))",
    "postgres": f"band AS MATERIALIZED (SELECT {_BAND['postgres']} FROM jsonb_array_elements(?::text::jsonb))",
}
# What a request was asked to pay, whether or not it could; its hold.
ASKED = "u.charge_nano + u.writeoff_nano"
HOLD = "LEFT JOIN hold h ON h.request_id = u.request_id"


def encoded(bands: Iterable[Band]) -> str:
    return msgspec.json.encode(list(bands)).decode()


def small_test(bands: Iterable[Band], *keys: str) -> str:
    """A test that a record may be multiplied by the database; `keys` are the columns of the prices that are asked for."""
    odd = {band.price_id for band in bands if not all(0 <= rate <= MOST_RATE_NANO for rate in band[-4:])}
    listed = ", ".join(map(str, sorted(odd)))
    return _SMALL + "".join(f" AND COALESCE({key}, 0) NOT IN ({listed})" for key in keys if odd)


def band_join(name: str, key: str, small: str, *, held_us: str = "h.at_us") -> str:
    """A join of each record with the one band of the price whose id is `key`; `held_us` is the moment of its hold.

    It passes over records that are not `small`: CASE promises that none of those is added up.
    """
    minute = f"{held_us} / 60000000 % {MINUTES_PER_DAY}"
    tokens = "u.fresh_tokens + u.cached_tokens + u.cache_write_tokens"
    within = f"{tokens} > {name}.above AND {tokens} <= {name}.upto"
    return (
        f"LEFT JOIN band {name} ON {name}.price_id = {key} AND {minute} >= {name}.from_minute AND {minute} < {name}.to_minute"
        f" AND CASE WHEN {small} THEN {within} END"
    )


def priced(name: str) -> str:
    """What a record's tokens cost at the rates of a joined band, in nano-credits."""
    return (
        f"u.fresh_tokens * {name}.fresh + u.cached_tokens * {name}.cached + u.cache_write_tokens * {name}.written"
        f" + u.output_tokens * {name}.output"
    )
