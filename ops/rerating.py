"""Owns the operators' verbs on re-rating: a preview per customer, and posting it. The rules are in `models/rerating.py`."""

from __future__ import annotations

import html
from datetime import date
from typing import Any, Literal

import pandas as pd

from models.accounts import find_account
from models.errors import BadInput
from models.ids import to_datetime
from models.prices import credits_text
from models.rerating import Line, Plan, Posted, plan_rerating, post_rerating
from ops.drawer import Drawer
from ops.frames import frame, moment_us
from ops.replay import percent_text
from ops.shown import html_table, plural, text_table

_SHOWN = 20
_HEAD = ("account", "requests", "old", "new", "difference", "change", "given back")
_COLUMNS = {
    "account": "str",
    "requests": "Int64",
    "old_nano": "Int64",
    "new_nano": "Int64",
    "difference_nano": "Int64",
    "given_back_nano": "Int64",
    "writeoff_undone_nano": "Int64",
}


class Rerating(Drawer):
    """`desk.rerating`"""

    def preview(
        self,
        model: str,
        *,
        price_version: int,
        since: date | str,
        until: date | str,
        account: str | None = None,
    ) -> Preview:
        """What the model's requests of a past time come to under another version of its price; nothing changes yet.

        `since` and `until` (excluded) are aware datetimes, ISO texts with a zone, or dates, which mean UTC midnight. The
        version may be any of the model's, a later one as well. Raises BadInput for a time that is not over, Conflict when it
        was re-rated before in another way.
        """
        begin, end = _bound(since, "since"), _bound(until, "until")
        account_id = None if account is None else self._read(find_account, account).id
        return Preview(self, self._read(plan_rerating, model, price_version, begin, end, account_id))


class Preview:
    """Old, new and the difference per customer. `.frame` has a row for each, the largest differences first.

    `given_back_nano` is what the customer gets, below zero what is taken. What was never paid is not given back: there the
    write-off is undone (`writeoff_undone_nano`).
    """

    def __init__(self, drawer: Rerating, plan: Plan) -> None:
        self._drawer = drawer
        self._plan = plan
        self._posted: Posted | None = None
        self._lines = sorted(plan.lines, key=lambda line: (-abs(line.difference_nano), line.account))

    @property
    def frame(self) -> pd.DataFrame:
        return frame(map(_row, self._lines), _COLUMNS)

    def post(self, *, reason: str, shortfall: Literal["refuse", "writeoff"] = "refuse") -> Posted:
        """Post the transfers that make up for the differences, all in one transaction, or none. Again it does nothing.

        An account that has less available than it owes: `shortfall` refuses, or takes what is there and writes off the rest.
        """
        posted = self._drawer._write(post_rerating, self._plan, reason=reason, shortfall=shortfall)
        self._posted = self._posted or posted
        return posted

    def __repr__(self) -> str:
        return "\n".join([self._title, *text_table(_HEAD, self._texts, left=1), *self._left])

    def _repr_html_(self) -> str:
        left = "".join(f"<p>{html.escape(text)}</p>" for text in self._left)
        return f"<p><strong>{html.escape(self._title)}</strong></p>{html_table(_HEAD, self._texts)}{left}"

    @property
    def _title(self) -> str:
        terms = self._plan.terms
        since, until = (to_datetime(us).strftime("%Y-%m-%d %H:%M") for us in (terms.since_us, terms.until_us))
        state = "posted" if self._posted is not None else "posted before" if self._plan.is_posted else "not posted"
        customers = plural(len(self._lines), "customer")
        return f"{terms.model} from {since} to {until} UTC by price version {terms.price_id}, {customers} ({state}); credits"

    @property
    def _texts(self) -> list[tuple[str, ...]]:
        return [_texts(line) for line in (*self._lines[:_SHOWN], _total(self._lines))]

    @property
    def _left(self) -> list[str]:
        left = len(self._lines) - _SHOWN
        return [f"{left:,} more customers in .frame"] if left > 0 else []


def _bound(value: object, field: str) -> int:
    moment = moment_us(value, field=field)
    if moment is None:
        raise BadInput(f"{field}: is missing; say when the time begins and ends", field=field)
    return moment


def _total(lines: list[Line]) -> Line:
    names = ("requests", "billed_nano", "rerated_nano", "back_nano", "unwritten_nano")
    return Line(0, "all", *(sum(getattr(line, name) for line in lines) for name in names))


def _texts(line: Line) -> tuple[str, ...]:
    sums = (line.billed_nano, line.rerated_nano, line.difference_nano)
    change = percent_text(line.billed_nano, line.rerated_nano)
    return line.account, f"{line.requests:,}", *map(credits_text, sums), change, credits_text(line.back_nano)


def _row(line: Line) -> dict[str, Any]:
    return {
        "account": line.account,
        "requests": line.requests,
        "old_nano": line.billed_nano,
        "new_nano": line.rerated_nano,
        "difference_nano": line.difference_nano,
        "given_back_nano": line.back_nano,
        "writeoff_undone_nano": line.unwritten_nano,
    }
