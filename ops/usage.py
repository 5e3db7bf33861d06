"""Owns the operators' view of usage records. Reading them is `models/usage.py`."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pandas as pd

from models.usage import usage_rows
from ops.drawer import Drawer
from ops.frames import MOMENT, frame, moment_us

_COLUMNS = {
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


class UsageRecords(Drawer):
    """`desk.usage`"""

    def records(
        self,
        since: date | str | None = None,
        until: date | str | None = None,
        outcome: str | None = "served",
        *,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """A row per request that reached a provider, oldest first; `outcome=None` gives served, failed and left alike.

        `since` and `until` (excluded) are aware datetimes, ISO texts with a zone, or dates, which mean UTC midnight.
        `route` reads provider/upstream model; `attempts` is JSON.
        """
        since_us, until_us = moment_us(since, field="since"), moment_us(until, field="until")
        rows = self._read(usage_rows, since_us, until_us, outcome, limit=limit)
        return frame((_named(row) for row in rows), _COLUMNS)


def _named(row: dict[str, Any]) -> dict[str, Any]:
    route = f"{row['provider']}/{row['upstream_model']}" if row["provider"] else None
    attempts = msgspec.json.encode(row["attempts"]).decode()
    return {**row, "at": row["at_us"], "route": route, "price_version": row["price_id"], "attempts": attempts}
