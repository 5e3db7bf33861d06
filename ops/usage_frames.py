"""Owns how rows of usage become data frames: which columns, in which units. Which rows: `usage.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pandas as pd

from models.attempts import Attempts
from models.ids import DAY_US
from models.latency import METERS, PERCENTILES, Latency
from models.spend import Spend
from ops.frames import EXACT, MOMENT, credits_exact, frame
from ops.trends import Mover, Runway, Unusual, name_of

_RECORDS = {
    "request_id": "str",
    "at": MOMENT,
    "account": "str",
    "key_id": "Int64",
    "model": "str",
    "route": "str",
    "fresh_tokens": "Int64",
    "cached_tokens": "Int64",
    "cache_write_tokens": "Int64",
    "output_tokens": "Int64",
    "charge_nano": "Int64",
    "estimated": "boolean",
    "price_version": "Int64",
    "outcome": "str",
    "writeoff_nano": "Int64",
    "cost_nano": "Int64",
    "streamed": "boolean",
    "first_byte_ms": "Int64",
    "total_ms": "Int64",
    "route_id": "Int64",
    "attempts": "str",
}
_SUMS = {
    **dict.fromkeys(("requests", "fresh_tokens", "cached_tokens", "cache_write_tokens", "output_tokens"), "Int64"),
    **dict.fromkeys(("credits", "cost", "margin", "margin_percent", "uncosted", "failed_cost"), EXACT),
    **dict.fromkeys(("error_percent", "estimated_percent"), "Float64"),
}
_LATENCY = {"requests": "Int64"} | {f"{meter[:-3]}_p{p}_ms": "Int64" for meter in METERS for p in PERCENTILES}
_ATTEMPTS = {
    **{"route": "str", "failed": "boolean", "status": "Int64", "attempts": "Int64", "seconds": "Float64", "cost": EXACT}
}
_MOVERS = {"before": EXACT, "now": EXACT, "change": EXACT, "change_percent": "Float64"}
_UNUSUAL = {"day": MOMENT, "what": "str", "value": EXACT, "usual_from": EXACT, "usual_to": EXACT}
_RUNWAY = {"account": "str", **dict.fromkeys(("available", "per_day", "days_left"), EXACT), "runs_out": MOMENT}


def records(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    return frame((_record(row) for row in rows), _RECORDS)


def sums(rows: Iterable[Spend], by: Sequence[str]) -> pd.DataFrame:
    return frame((_groups(row, by) | _sums(row) for row in rows), _kinds(by) | _SUMS)


def latencies(rows: Iterable[Latency], by: Sequence[str]) -> pd.DataFrame:
    told = ({"requests": row.requests, **_groups(row, by), **_percentiles(row)} for row in rows)
    return frame(told, _kinds(by) | _LATENCY)


def attempts(rows: Iterable[Attempts]) -> pd.DataFrame:
    told = (
        {**msgspec.structs.asdict(row), "seconds": row.total_ms / 1_000, "cost": credits_exact(row.cost_nano)}
        for row in rows
    )
    return frame(told, _ATTEMPTS)


def movers(rows: Iterable[Mover], by: str) -> pd.DataFrame:
    told = (
        {
            by: row.name,
            "before": credits_exact(row.before_nano),
            "now": credits_exact(row.now_nano),
            "change": credits_exact(row.now_nano - row.before_nano),
            "change_percent": _percent(row.now_nano - row.before_nano, row.before_nano),
        }
        for row in rows
    )
    return frame(told, {by: "str", **_MOVERS})


def unusual(rows: Iterable[Unusual], by: str | None) -> pd.DataFrame:
    def shown(row: Unusual, value: int) -> Decimal:
        return credits_exact(value) if row.what == "credits" else Decimal(value) / 100

    told = (
        {
            **({by: row.name} if by else {}),
            "day": row.day_us,
            "what": row.what,
            "value": shown(row, row.value),
            "usual_from": shown(row, row.low),
            "usual_to": shown(row, row.high),
        }
        for row in rows
    )
    return frame(told, ({by: "str"} if by else {}) | _UNUSUAL)


def runways(rows: Iterable[Runway]) -> pd.DataFrame:
    told = (
        {
            "account": row.account,
            "available": credits_exact(row.available_nano),
            "per_day": credits_exact(row.per_day_nano),
            "days_left": None if row.left_us is None else Decimal(row.left_us * 10 // DAY_US) / 10,
            "runs_out": row.runs_out_us,
        }
        for row in rows
    )
    return frame(told, _RUNWAY)


# ── cells ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kinds(by: Sequence[str]) -> dict[str, str]:
    return {name: MOMENT if name in ("day", "hour") else "str" for name in by}


def _groups(row: Spend | Latency, by: Sequence[str]) -> dict[str, Any]:
    return {name: row.by[name] if name in ("day", "hour") else name_of(row, name) for name in by}


def _sums(row: Spend) -> dict[str, Any]:
    found = row.sums
    costed_nano = found.charge_nano - found.uncosted_nano
    margin_nano = costed_nano - found.cost_nano
    return {
        **msgspec.structs.asdict(found),
        "credits": credits_exact(found.charge_nano),
        "cost": credits_exact(found.cost_nano),
        "margin": credits_exact(margin_nano),
        "margin_percent": _percent(margin_nano, costed_nano),
        "uncosted": credits_exact(found.uncosted_nano),
        "failed_cost": credits_exact(found.failed_cost_nano),
        "error_percent": _percent(found.failed, found.requests),
        "estimated_percent": _percent(found.estimated, found.requests),
    }


def _percentiles(row: Latency) -> dict[str, int]:
    return {
        f"{meter[:-3]}_p{percent}_ms": value
        for meter in METERS
        for percent, value in zip(PERCENTILES, getattr(row, meter), strict=True)
    }


def _percent(part: int, whole: int) -> float | None:
    """To two decimals, for people: no sum is made of it."""
    return float(round(Decimal(100 * part) / whole, 2)) if whole else None


def _record(row: dict[str, Any]) -> dict[str, Any]:
    route = f"{row['provider']}/{row['upstream_model']}" if row["provider"] else None
    told = msgspec.json.encode(row["attempts"]).decode()
    return {**row, "at": row["at_us"], "route": route, "price_version": row["price_id"], "attempts": told}
