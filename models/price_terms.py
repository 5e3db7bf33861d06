"""Owns how an operator writes a price down, in USD per million tokens, and whether it makes sense. Pure; no records.

    price_from_usd(input_usd="0.27", cached_input_usd="0.07", output_usd="1.10",
                   tiers=[{"above_tokens": 128_000, "input_usd": "0.54", "output_usd": "2.20"}],
                   windows=[{"start": "16:30", "end": "00:30", "input_usd": "0.135", "output_usd": "0.55"}])

A tier prices requests whose whole input is above so many tokens. A window prices requests that begin from `start` to
`end` (excluded) of the UTC day, may wrap past midnight, and may have `tiers` of its own. Cached input and cache writes
cost what input does unless said otherwise.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

from models.checks import check_whole
from models.errors import BadInput
from models.prices import MINUTES_PER_DAY, PriceVersion, Rates, Tier, Window, rate_from_usd

Usd: TypeAlias = str | int | Decimal
_RATES = ("input_usd", "output_usd", "cached_input_usd", "cache_write_usd")
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00", re.ASCII)


def price_from_usd(
    *,
    input_usd: Usd,
    output_usd: Usd,
    cached_input_usd: Usd | None = None,
    cache_write_usd: Usd | None = None,
    tiers: Sequence[Mapping[str, Any]] = (),
    windows: Sequence[Mapping[str, Any]] = (),
) -> PriceVersion:
    """A price that is not stored yet (its id is 0). Raises BadInput naming the field, like `tiers[0].input_usd`."""
    base = {
        "input_usd": input_usd,
        "output_usd": output_usd,
        "cached_input_usd": cached_input_usd,
        "cache_write_usd": cache_write_usd,
    }
    price = PriceVersion(
        id=0,
        effective_us=0,
        tiers=_tiers(base, tiers, ""),
        windows=tuple(_window(window, f"windows[{i}]") for i, window in enumerate(_list(windows, "windows"))),
    )
    check_price(price)
    return price


def check_price(price: PriceVersion) -> None:
    """Raises BadInput unless tiers ascend from 0 and windows are within the day and do not overlap."""
    _check_tiers(price.tiers, "tiers")
    taken: list[int] = [-1] * MINUTES_PER_DAY
    for i, window in enumerate(price.windows):
        field = f"windows[{i}]"
        if not (0 <= window.start_minute < MINUTES_PER_DAY and 0 <= window.end_minute <= MINUTES_PER_DAY):
            raise BadInput(f"{field}: must lie within a day of {MINUTES_PER_DAY} minutes", field=field)
        if window.start_minute == window.end_minute:
            raise BadInput(f"{field}: is empty; start and end are the same", field=field)
        _check_tiers(window.tiers, f"{field}.tiers")
        for minute in filter(window.covers, range(MINUTES_PER_DAY)):
            if taken[minute] >= 0:
                raise BadInput(
                    f"{field}: overlaps windows[{taken[minute]}]; let one end where the other starts", field=field
                )
            taken[minute] = i


def clock_text(minute: int) -> str:
    """A minute of the day as people write it: 990 is "16:30"."""
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _tiers(base: Mapping[str, Any], further: Any, where: str) -> tuple[Tier, ...]:
    found = [Tier(0, _rates(base, where))]
    for i, entry in enumerate(_list(further, f"{where}tiers")):
        field = f"{where}tiers[{i}]"
        _only(entry, ("above_tokens", *_RATES), field)
        above = check_whole(entry.get("above_tokens"), field=f"{field}.above_tokens", least=1)
        found.append(Tier(above, _rates(entry, f"{field}.")))
    return tuple(found)


def _window(entry: Any, field: str) -> Window:
    _only(entry, ("start", "end", "tiers", *_RATES), field)
    start = _minute(entry.get("start"), f"{field}.start")
    end = _minute(entry.get("end"), f"{field}.end")
    return Window(start % MINUTES_PER_DAY, end, _tiers(entry, entry.get("tiers", ()), f"{field}."))


def _rates(entry: Mapping[str, Any], where: str) -> Rates:
    given = {name: entry.get(name) for name in _RATES}
    for name in ("cached_input_usd", "cache_write_usd"):
        if given[name] is None:
            given[name] = given["input_usd"]
    rates: dict[str, int] = {}
    for name, usd in given.items():
        if usd is None:
            raise BadInput(
                f'{where}{name}: is missing; give USD per million tokens, like "0.27"', field=f"{where}{name}"
            )
        rates[name] = rate_from_usd(usd, field=f"{where}{name}")
    return Rates(
        fresh=rates["input_usd"],
        cached=rates["cached_input_usd"],
        written=rates["cache_write_usd"],
        output=rates["output_usd"],
    )


def _check_tiers(tiers: Sequence[Tier], field: str) -> None:
    if not tiers or tiers[0].above_tokens != 0:
        raise BadInput(f"{field}: the first tier must be above 0 tokens", field=field)
    for before, after in itertools.pairwise(tiers):
        if after.above_tokens <= before.above_tokens:
            raise BadInput(f"{field}: above_tokens must ascend, got {after.above_tokens} last", field=field)


def _list(value: Any, field: str) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise BadInput(f"{field}: must be a list", field=field)
    return value


def _only(entry: Any, known: Sequence[str], field: str) -> None:
    if not isinstance(entry, Mapping):
        raise BadInput(f"{field}: must be a dict with {', '.join(known)}", field=field)
    unknown = [str(name) for name in entry if name not in known]
    if unknown:
        raise BadInput(f"{field}: does not know {', '.join(unknown)}; it takes {', '.join(known)}", field=field)


def _minute(value: Any, field: str) -> int:
    if not isinstance(value, str) or not _CLOCK.fullmatch(value):
        raise BadInput(f'{field}: must be a UTC time like "16:30", got {value!r}', field=field)
    hours, minutes = value.split(":")
    return int(hours) * 60 + int(minutes)
