"""Owns what tokens cost: meters, rates, tiers, time windows and price versions, as pure values. No records, no clock.

All rates are nano-credits per token. One USD per million tokens is 100,000 nano-credits per token, so list prices with
up to five decimals are exact integers and a charge is a sum of products: nothing is ever rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from models.errors import BadInput

NANO_PER_CREDIT = 1_000_000_000
CREDITS_PER_USD = 100
NANO_PER_TOKEN_PER_USD_PER_MILLION = 100_000
# A rate above this (10,000 USD per million tokens) is a slip of units, and products of it could leave 64 bits.
MOST_RATE_NANO = 10_000 * NANO_PER_TOKEN_PER_USD_PER_MILLION
MINUTES_PER_DAY = 24 * 60


class Meters(msgspec.Struct, frozen=True):
    """Disjoint token counts of one request: every token stands in exactly one meter. Reasoning tokens are output."""

    fresh: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0

    @property
    def input(self) -> int:
        return self.fresh + self.cached + self.written

    @property
    def total(self) -> int:
        return self.fresh + self.cached + self.written + self.output


class Rates(msgspec.Struct, frozen=True):
    """Nano-credits per token of each meter."""

    fresh: int
    cached: int
    written: int
    output: int

    def charge_nano(self, meters: Meters) -> int:
        return (
            self.fresh * meters.fresh
            + self.cached * meters.cached
            + self.written * meters.written
            + self.output * meters.output
        )


class Tier(msgspec.Struct, frozen=True):
    """Rates for requests whose whole input is above `above_tokens`."""

    above_tokens: int
    rates: Rates


class Window(msgspec.Struct, frozen=True):
    """Tiers that hold from `start_minute` to `end_minute` of the UTC day (end excluded; may wrap past midnight)."""

    start_minute: int
    end_minute: int
    tiers: tuple[Tier, ...]

    def covers(self, minute: int) -> bool:
        if self.start_minute <= self.end_minute:
            return self.start_minute <= minute < self.end_minute
        return minute >= self.start_minute or minute < self.end_minute


class PriceVersion(msgspec.Struct, frozen=True):
    """One immutable dated price of an alias. `tiers` ascends by `above_tokens`, the first is above 0 tokens."""

    id: int
    effective_us: int
    tiers: tuple[Tier, ...]
    windows: tuple[Window, ...] = ()

    def window_at(self, at_us: int) -> Window | None:
        """The window that a request held at that moment falls into, if any."""
        minute = at_us // 60_000_000 % MINUTES_PER_DAY
        return next((window for window in self.windows if window.covers(minute)), None)

    def tiers_at(self, at_us: int) -> tuple[Tier, ...]:
        window = self.window_at(at_us) if self.windows else None
        return self.tiers if window is None else window.tiers

    def charge_nano(self, meters: Meters, at_us: int) -> int:
        """The price of `meters` for a request held at `at_us`, in nano-credits."""
        tiers = self.tiers_at(at_us)
        rates = tiers[0].rates if len(tiers) == 1 else rates_for(tiers, meters.input)
        return rates.charge_nano(meters)

    def dearest(self, at_us: int, input_ceiling: int) -> tuple[int, int]:
        """The dearest (input, output) rates that a request of at most `input_ceiling` tokens can reach."""
        if len(self.tiers) == 1 and not self.windows:
            only = self.tiers[0].rates
            return max(only.fresh, only.cached, only.written), only.output
        reachable = [t.rates for i, t in enumerate(self.tiers_at(at_us)) if i == 0 or t.above_tokens < input_ceiling]
        return max(max(r.fresh, r.cached, r.written) for r in reachable), max(r.output for r in reachable)


def rates_for(tiers: Sequence[Tier], input_tokens: int) -> Rates:
    """The rates of the highest tier that `input_tokens` exceeds."""
    return tier_for(tiers, input_tokens).rates


def tier_for(tiers: Sequence[Tier], input_tokens: int) -> Tier:
    """The highest tier that `input_tokens` exceeds."""
    chosen = tiers[0]
    for tier in tiers[1:]:
        if input_tokens > tier.above_tokens:
            chosen = tier
    return chosen


def rate_from_usd(value: str | int | Decimal, *, field: str) -> int:
    """Nano-credits per token from USD per million tokens.

    Raises BadInput for floats (they are not exact), signs, more than five decimals and units slips.
    """
    amount = _decimal(value, field=field, example='"0.27"')
    rate = amount * NANO_PER_TOKEN_PER_USD_PER_MILLION
    if rate != int(rate):
        raise BadInput(f"{field}: at most five decimals of USD per million tokens are exact, got {value}", field=field)
    if not 0 <= rate <= MOST_RATE_NANO:
        raise BadInput(f"{field}: must be between 0 and 10000 USD per million tokens, got {value}", field=field)
    return int(rate)


def rate_to_usd(rate_nano: int) -> Decimal:
    """USD per million tokens of a rate, exact."""
    return Decimal(rate_nano) / NANO_PER_TOKEN_PER_USD_PER_MILLION


def nano_from_credits(value: str | int | Decimal, *, field: str = "credits") -> int:
    """Nano-credits from credits. Raises BadInput for floats and for more than nine decimals."""
    amount = _decimal(value, field=field, example='"1000"') * NANO_PER_CREDIT
    if amount != int(amount):
        raise BadInput(f"{field}: at most nine decimals are exact, got {value}", field=field)
    if abs(amount) >= 2**62:
        raise BadInput(f"{field}: is beyond what the ledger can hold, got {value}", field=field)
    return int(amount)


def credits_text(nano: int) -> str:
    """Credits as a plain decimal string without trailing zeros: 1_500_000_000 is "1.5"."""
    whole, rest = divmod(abs(nano), NANO_PER_CREDIT)
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{rest:09d}".rstrip("0") if rest else f"{sign}{whole}"


def schedule_to_json(price: PriceVersion) -> dict[str, Any]:
    """What a price row stores beside its base rates: further tiers and windows."""
    return {
        "tiers": [msgspec.to_builtins(tier) for tier in price.tiers[1:]],
        "windows": [msgspec.to_builtins(window) for window in price.windows],
    }


def price_from_row(row: Mapping[str, Any]) -> PriceVersion:
    """A price version of a row of the `price` table (rates in nano-credits per token, `schedule` as JSON)."""
    schedule = row["schedule"]
    if isinstance(schedule, str | bytes):
        schedule = msgspec.json.decode(schedule)
    base = Rates(
        fresh=row["input_nano"],
        cached=row["cached_input_nano"],
        written=row["cache_write_nano"],
        output=row["output_nano"],
    )
    further = msgspec.convert(schedule.get("tiers", []), tuple[Tier, ...])
    return PriceVersion(
        id=row["id"],
        effective_us=row["effective_us"],
        tiers=(Tier(above_tokens=0, rates=base), *further),
        windows=msgspec.convert(schedule.get("windows", []), tuple[Window, ...]),
    )


def _decimal(value: str | int | Decimal, *, field: str, example: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise BadInput(f"{field}: give a decimal string such as {example}, not {type(value).__name__}", field=field)
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise BadInput(f"{field}: {value!r} is not a number; write it like {example}", field=field) from None
    if not amount.is_finite():
        raise BadInput(f"{field}: {value!r} is not a finite number", field=field)
    return amount
