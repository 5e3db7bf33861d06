"""Owns the operators' view of usage: records, and sums, percentiles and changes over them, which the database works out.

Frames have a row per group, and money in exact credits: how rows become frames is `usage_frames.py`.
"""

from __future__ import annotations

from datetime import date

import pandas as pd

from models.accounts import balance_rows, find_account
from models.attempts import attempts_by_route
from models.database import Database
from models.errors import BadInput
from models.ids import DAY_US
from models.latency import latency_by
from models.price_list import database_now_us
from models.spend import RUNWAY_DAYS, spend_by
from models.usage import UsageFilter, newest_at_us, usage_rows
from ops import usage_frames as frames
from ops.drawer import Drawer
from ops.frames import moment_us
from ops.periods import Period, period_of
from ops.trends import BAND_DAYS, Mover, Runway, movers, runways, unusual_days

When = date | str | None


class UsageRecords(Drawer):
    """`desk.usage`: since and until (excluded) are aware datetimes, ISO texts with a zone, or dates: UTC midnight."""

    def records(
        self, since: When = None, until: When = None, outcome: str | None = "served", *, limit: int | None = None
    ) -> pd.DataFrame:
        """A row per request that reached a provider, oldest first; `outcome=None` gives served, failed and left alike.

        `route` reads provider/upstream model; `attempts` is JSON.
        """
        since_us, until_us = moment_us(since, field="since"), moment_us(until, field="until")
        rows = self._read(usage_rows, since_us, until_us, outcome, limit=limit)
        return frames.records(rows)

    def period(self, days: int = 28, until: When = None) -> Period:
        """So many whole days (UTC) up to `until`, else up to the end of the newest day that has a request."""
        until_us = moment_us(until, field="until")
        if until_us is None:
            until_us = self._read(newest_at_us)
            until_us = self._read(database_now_us) if until_us is None else until_us + 1
        return period_of(days, until_us)

    def by(
        self,
        *by: str,
        since: When = None,
        until: When = None,
        account: str | None = None,
        model: str | None = None,
        key: int | None = None,
        outcome: str | None = None,
        estimated: bool | None = None,
    ) -> pd.DataFrame:
        """Sums by any of "day", "hour", "model", "account", "key", "route", "outcome", in the order of the groups.

        `credits` were charged, `cost` is what the providers took for them, `failed_cost` the part of it that bought nothing.
        `uncosted` is what was charged on routes without costs, where nobody knows what we paid (`uncosted()` names them):
        `margin` is credits − uncosted − cost, and `margin_percent` its share of credits − uncosted. Requests keep the cost
        of their time: those from before a route's costs were entered cost nothing, so enter them before you publish.
        """
        only = self._only(since, until, model, key, outcome, estimated)
        rows = self._read(spend_by, by, only, account_id=self._account_id(account))
        return frames.sums(rows, by)

    def uncosted(self, since: When = None, until: When = None) -> pd.DataFrame:
        """The routes that served requests and have no costs, and what these requests were charged."""
        found = self.by("model", "route", since=since, until=until)
        return found.loc[found["uncosted"] > 0, ["model", "route", "requests", "uncosted"]].reset_index(drop=True)

    def latency(
        self,
        *by: str,
        since: When = None,
        until: When = None,
        account: str | None = None,
        model: str | None = None,
        key: int | None = None,
    ) -> pd.DataFrame:
        """Percentiles of the time to the first byte and to the last, of the requests that were served, in milliseconds.

        A percentile is a time that one request really took (nearest rank). Grouped as `by` groups.
        """
        only = self._only(since, until, model, key)
        rows = self._read(latency_by, by, only, account_id=self._account_id(account))
        return frames.latencies(rows, by)

    def attempts(self, since: When = None, until: When = None, *, model: str | None = None) -> pd.DataFrame:
        """How often each route was tried and how that ended; `failed` attempts cost time, and what the provider took.

        `status` is the provider's, 0 when it did not answer at all. One that is 200 and failed broke off in its answer.
        """
        return frames.attempts(self._read(attempts_by_route, self._only(since, until, model)))

    def movers(self, since: date | str, until: date | str, *, by: str = "account", most: int = 10) -> pd.DataFrame:
        """Whose spend changed most against the period of the same length before, the largest changes first."""
        since_us, until_us = moment_us(since, field="since"), moment_us(until, field="until")
        if since_us is None or until_us is None or since_us >= until_us:
            raise BadInput("until: must be a moment after since", field="until")
        return frames.movers(self._read(_movers, by, since_us, until_us)[:most], by)

    def anomalies(self, since: When = None, until: When = None, *, by: str | None = None) -> pd.DataFrame:
        """Days whose credits or share of failed requests leave what is usual, with the band they left.

        Usual is what the same kind of day (Monday to Friday, or the weekend) was within the 28 days before: its median,
        plus or minus four usual deviations (1.4826 × the median of the distances from it), and at least 25 % of it; for
        failed requests at least two percentage points, and ten of them. Days with fewer than five such days before them have
        no band.
        `by` "account" or "model" looks at each of them.
        """
        since_us, until_us = moment_us(since, field="since"), moment_us(until, field="until")
        early_us = None if since_us is None else since_us - BAND_DAYS * DAY_US
        names = ("day",) if by is None else (by, "day")
        rows = self._read(spend_by, names, UsageFilter(since_us=early_us, until_us=until_us))
        found = [each for each in unusual_days(rows, by) if since_us is None or each.day_us >= since_us]
        return frames.unusual(found, by)

    def runway(self, until: When = None) -> pd.DataFrame:
        """For how long what each account has left lasts at the mean spend of seven days, the shortest first.

        The seven days end with the one that holds `until`, else now, as far as it is gone. An account that spent nothing has
        no `days_left`.
        """
        now_us = moment_us(until, field="until") or self._read(database_now_us)
        return frames.runways(self._read(_runways, now_us))

    def _only(
        self,
        since: When,
        until: When,
        model: str | None = None,
        key: int | None = None,
        outcome: str | None = None,
        estimated: bool | None = None,
    ) -> UsageFilter:
        return UsageFilter(
            since_us=moment_us(since, field="since"),
            until_us=moment_us(until, field="until"),
            models=() if model is None else (model,),
            keys=() if key is None else (key,),
            outcome=outcome,
            estimated=estimated,
        )

    def _account_id(self, email: str | None) -> int | None:
        return None if email is None else self._read(_account_id, email)


# ── what is read ──────────────────────────────────────────────────────────────────────────────────────────────────


async def _account_id(database: Database, email: str) -> int:
    return (await find_account(database, email)).id


async def _movers(database: Database, by: str, since_us: int, until_us: int) -> list[Mover]:
    now = await spend_by(database, (by,), UsageFilter(since_us=since_us, until_us=until_us))
    before_us = max(0, 2 * since_us - until_us)
    before = await spend_by(database, (by,), UsageFilter(since_us=before_us, until_us=since_us))
    return movers(before, now, by)


async def _runways(database: Database, now_us: int) -> list[Runway]:
    since_us = now_us - now_us % DAY_US - (RUNWAY_DAYS - 1) * DAY_US
    spent = await spend_by(database, ("account",), UsageFilter(since_us=since_us, until_us=now_us + 1))
    spent_nano = {int(row.by["account"]): row.sums.charge_nano for row in spent}
    return runways(await balance_rows(database), spent_nano, since_us, now_us)
