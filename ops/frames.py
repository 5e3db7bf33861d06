"""Owns how rows become data frames: exact money, aware UTC moments, the same columns and types without any rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pandas as pd

from models.errors import BadInput
from models.ids import to_datetime, to_us
from models.prices import credits_text
from ops.shown_frames import Table

# Kinds of columns: pandas' own names, MOMENT (from microseconds), EXACT (Decimal or lists, kept as Python objects).
MOMENT, EXACT = "datetime64[us, UTC]", "object"


def frame(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A frame with exactly `columns` (name → kind), in their order."""
    listed = list(rows)
    return Table({name: _column([row[name] for row in listed], kind) for name, kind in columns.items()})


def _column(values: list[Any], kind: str) -> pd.Series[Any]:
    if kind == MOMENT:
        values = [None if value is None else to_datetime(value) for value in values]
    return pd.Series(values, dtype=kind)


def credits_exact(nano: int) -> Decimal:
    """Credits of nano-credits, without trailing zeros."""
    return Decimal(credits_text(nano))


def moment_us(value: object, *, field: str) -> int | None:
    """Microseconds of an aware datetime, an ISO text with zone, or a date (UTC midnight). None stays None.

    Raises BadInput for a moment without a time zone: nobody could tell which hour was meant.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = _parsed(value, field)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise BadInput(f"{field}: must be a datetime or an ISO text, not {type(value).__name__}", field=field)
    if value.tzinfo is None or value.utcoffset() is None:
        raise BadInput(f"{field}: has no time zone; write it like 2026-11-01T00:00:00+00:00", field=field)
    return to_us(value.astimezone(UTC))


def _parsed(text: str, field: str) -> date:
    try:
        return date.fromisoformat(text) if len(text) <= len("2026-11-01") else datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f"{field}: {text!r} is neither a date like 2026-11-01 nor a moment like 2026-11-01T00:00:00+00:00",
            field=field,
        ) from None
