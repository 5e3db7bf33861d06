"""Owns the page of models: what can be called now, at which price, what changes when, and what some requests would cost.

It reads the snapshot that requests are priced by, so it cannot show another price than the one that is charged. Providers
and routes are not shown.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sanic.response import HTTPResponse

from gateway.catalog import Alias
from gateway.dashboard.pages import Pages
from gateway.dashboard.visits import Visit
from models.ids import DAY_US, to_datetime
from models.price_terms import clock_text
from models.prices import Meters, PriceVersion, Rates, Tier

pages = Pages("models")
MILLION = 1_000_000
# What the estimate asks for: its name, what people call it, what stands there at first, and the most.
ESTIMATE = (
    ("requests", "Requests", 1_000, 10**9),
    ("input", "Tokens in, each", 1_000, 10**8),
    ("output", "Tokens out, each", 300, 10**8),
)


class PriceLine(msgspec.Struct, frozen=True):
    """Rates and when they hold. `label` is empty for the usual ones."""

    label: str
    rates: Rates
    is_now: bool = False
    is_later: bool = False


class Offer(msgspec.Struct, frozen=True):
    """One alias. `estimate_nano` is None where a request would not fit into the model."""

    alias: str
    context_tokens: int
    max_output_tokens: int
    lines: list[PriceLine]
    estimate_nano: int | None


@pages.page("/models")
async def show_models(visit: Visit) -> HTTPResponse:
    wanted = visit.query.get("q", "").strip()
    counts, errors = read_estimate(visit.query)
    found = visit.gateway.catalog.snapshot.listed(None, visit.at_us)
    offers = [
        offer_of(alias, price, counts, visit.at_us) for alias, price in found if wanted.lower() in alias.name.lower()
    ]
    return visit.render(
        "models.html",
        status=422 if errors else 200,
        offers=offers,
        total=len(found),
        wanted=wanted,
        counts=counts,
        form={name: visit.query.get(name, str(counts[name])) for name in counts},
        errors=errors,
        ESTIMATE=ESTIMATE,
        MILLION=MILLION,
    )


def read_estimate(query: Mapping[str, str]) -> tuple[dict[str, int], dict[str, str]]:
    """The counts that the estimate is made for, and what is wrong with those that were typed."""
    counts, errors = {}, {}
    for name, _, usual, most in ESTIMATE:
        digits = query.get(name, str(usual)).strip().replace(",", "").replace(" ", "")
        is_good = digits.isascii() and digits.isdecimal() and len(digits) <= len(str(most)) and int(digits) <= most
        counts[name] = int(digits) if is_good else usual
        if not is_good:
            errors[name] = f"Give a whole number up to {most:,}."
    return counts, errors


def offer_of(alias: Alias, price: PriceVersion, counts: Mapping[str, int], at_us: int) -> Offer:
    meters = Meters(fresh=counts["input"], output=counts["output"])
    fits = meters.output <= alias.max_output_tokens and meters.total <= alias.context_tokens
    lines = price_lines(price, at_us)
    for later in alias.prices:
        if later.effective_us > at_us:
            lines += price_lines(later, at_us)
    return Offer(
        alias=alias.name,
        context_tokens=alias.context_tokens,
        max_output_tokens=alias.max_output_tokens,
        lines=lines,
        estimate_nano=counts["requests"] * price.charge_nano(meters, at_us) if fits else None,
    )


def price_lines(price: PriceVersion, at_us: int) -> list[PriceLine]:
    """The usual rates, those of tiers and windows, each with its words; of a price to come, from when on."""
    is_later = price.effective_us > at_us
    start = f"from {moment_words(price.effective_us)}" if is_later else ""
    window = None if is_later else price.window_at(at_us)
    lines = _tier_lines(price.tiers, start, is_now=bool(price.windows) and window is None and not is_later)
    for each in price.windows:
        hours = f"{clock_text(each.start_minute)}–{clock_text(each.end_minute)} UTC"
        lines += _tier_lines(each.tiers, f"{start}, {hours}" if start else hours, is_now=each is window)
    return [msgspec.structs.replace(line, is_later=is_later) for line in lines]


def moment_words(at_us: int) -> str:
    """1 December 2026, or 1 December 2026 12:30 UTC."""
    moment = to_datetime(at_us)
    day = f"{moment.day} {moment:%B %Y}"
    if at_us % DAY_US == 0:
        return day
    return f"{day} {moment:%H:%M:%S} UTC" if moment.second or moment.microsecond else f"{day} {moment:%H:%M} UTC"


def _tier_lines(tiers: tuple[Tier, ...], label: str, *, is_now: bool) -> list[PriceLine]:
    lines = []
    for tier in tiers:
        above = f"above {tier.above_tokens:,} input tokens" if tier.above_tokens else ""
        words = ", ".join(filter(None, (label, above)))
        lines.append(PriceLine(words[:1].upper() + words[1:], tier.rates, is_now=is_now and not tier.above_tokens))
    return lines
