"""Owns the operators' verbs on limits. The rules are in `models/limits.py`."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import pandas as pd

from models.accounts import find_account
from models.database import Database
from models.errors import BadInput
from models.keys import key_rows
from models.limit_peaks import Peak, limit_peaks
from models.limits import SUBJECTS, limit_rows, set_limit
from models.routes import route_list
from models.usage import UsageFilter
from ops.drawer import Drawer
from ops.frames import EXACT, MOMENT, frame, moment_us
from ops.replay import account_names

_COLUMNS = {
    "subject": "str",
    "subject_id": "Int64",
    "name": "str",
    "unit": "str",
    "quota": "Int64",
    "window_s": "Int64",
}

_PEAKS = {
    "subject": "str",
    "subject_id": "Int64",
    "name": "str",
    "limit": "str",
    "unit": "str",
    "quota": "Int64",
    "window_s": "Int64",
    "used": "Int64",
    "percent": EXACT,
    "at": MOMENT,
}


class Limits(Drawer):
    """`desk.limits`"""

    def set(
        self,
        *,
        key: int | None = None,
        account: str | None = None,
        route: int | None = None,
        default: str | None = None,
        unit: str,
        quota: int | None,
        window_s: int = 60,
        reason: str = "",
    ) -> None:
        """At most `quota` of `unit` (requests, tokens, or concurrent) in `window_s` seconds; None removes the limit.

        Name one subject: a key's or a route's id, an account's e-mail, or `default="key"`, `"account"`, `"route"` for
        those without a limit of their own.
        """
        given = {"key": key, "account": account, "route": route, "default": default}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise BadInput("name one of key=, account=, route= and default=", field="subject")
        subject, subject_id = named[0], key or route or 0
        if default is not None:
            if default not in SUBJECTS:
                raise BadInput(f"default: must be one of {', '.join(SUBJECTS)}, got {default!r}", field="default")
            subject = f"default_{default}"
        if account is not None:
            subject_id = self._read(find_account, account).id
        self._write(
            set_limit, subject=subject, subject_id=subject_id, unit=unit, quota=quota, window_s=window_s, reason=reason
        )

    def list(self) -> pd.DataFrame:
        """Every limit; `concurrent` ones have no window."""
        return frame(self._read(limit_rows), _COLUMNS)

    def peaks(
        self, since: date | str | None = None, until: date | str | None = None, *, limit: int = 20
    ) -> pd.DataFrame:
        """The busiest window of each key, account and route that has a limit, the nearest to its quota first.

        From 100 percent on requests were refused; those leave no record, so it is seldom more.
        """
        only = UsageFilter(since_us=moment_us(since, field="since"), until_us=moment_us(until, field="until"))
        return frame((_peak(*each) for each in self._read(_named_peaks, only, limit)), _PEAKS)


async def _named_peaks(database: Database, only: UsageFilter, limit: int) -> list[tuple[Peak, str]]:
    accounts = await account_names(database)
    keys = {row["id"]: f"{row['account']}, key {row['name']}" for row in await key_rows(database)}
    routes = {route.id: f"{route.provider}/{route.upstream_model}" for route in await route_list(None)}
    names = {"account": accounts, "key": keys, "route": routes}
    return [
        (peak, names[peak.subject].get(peak.subject_id, "")) for peak in await limit_peaks(database, only, limit=limit)
    ]


def _peak(peak: Peak, name: str) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(peak),
        "name": name,
        "percent": (Decimal(100 * peak.used) / peak.quota).quantize(Decimal("0.1")),
        "limit": "default" if peak.is_default else "own",
        "at": peak.at_us,
    }
