"""Owns adding up charges by account, model and UTC day, by the transfer's time; and which days of an account have any.

Charges have no index of their own among the transfers (it would scatter over a page per account on the request path), so they
are read through usage records, which carry the request's time. The transfer is a little later, and nearly always of the same
day. So the database adds up by the request's time, in one pass and with nothing looked up, and then the few are moved that were
settled on another day than they began on:

- settled within `GRACE_US`: they began within that time before midnight, and are found there;
- any other (a late settlement, a clock that was set back): their holds are in the index `hold_late`.

Measured on PostgreSQL 15, two cores: a month of 10 million charges by 1,000 accounts and 3 models in 4 to 7 s; a join of
all of its records with their transfers took 9 to 12 s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from models.database import Database, by_index
from models.ids import DAY_US, lowest_id, moment_of_id
from models.protections import GRACE_US, LATE

# A midnight that nobody will see, and whose ids still have 48 bits.
FOREVER_US = 2**56 // DAY_US * DAY_US


class ChargeSum(NamedTuple):
    """Charges of one account for one model on the UTC day that begins at `day_us`: how many, tokens, nano-credits.

    What was not asked to be kept apart is 0.
    """

    day_us: int
    account_id: int
    model_id: int
    requests: int
    tokens: int
    amount_nano: int


class _Moved(NamedTuple):
    """A charge of a request that began at one time and was settled on another day."""

    began_us: int
    settled_us: int
    account_id: int
    model_id: int
    tokens: int
    amount_nano: int


async def charge_sums(
    snapshot: Database,
    account_id: int | None,
    from_us: int,
    to_us: int,
    *,
    floor_id: str,
    by_day: bool = False,
    by_model: bool = False,
) -> list[ChargeSum]:
    """Charges whose transfers are from one UTC midnight to another (excluded), oldest first: of one account, or (None) of
    every account by itself.

    Records before `floor_id` may have been dropped: nothing before its moment may be asked for.
    """
    day, account, model = f"at_us / {DAY_US}" if by_day else "0", "account_id", "model_id" if by_model else "0"
    whose, values = ("", []) if account_id is None else ("account_id = ? AND ", [account_id])
    rows = await snapshot.rows(
        f"SELECT {day} AS day, {account} AS account_id, {model} AS model_id, COUNT(*) AS requests, SUM({_TOKENS}) AS tokens,"
        f" SUM(charge_nano) AS amount_nano FROM usage u WHERE {whose}request_id >= ? AND request_id < ?"
        " AND at_us >= ? AND at_us < ? AND charge_nano > 0 GROUP BY 1, 2, 3",
        [*values, max(lowest_id(from_us), floor_id), lowest_id(to_us), from_us, to_us],
    )
    sums = {
        (row["day"] * DAY_US, row["account_id"], row["model_id"]): [
            row["requests"],
            int(row["tokens"]),
            int(row["amount_nano"]),
        ]
        for row in rows
    }
    midnights = range(from_us, min(to_us, FOREVER_US - 1) + 1, DAY_US) if by_day else (from_us, to_us)
    for moved in await _moved(snapshot, account_id, from_us, to_us, midnights, floor_id):
        for moment_us, sign in ((moved.began_us, -1), (moved.settled_us, 1)):
            if from_us <= moment_us < to_us:
                at_us = moment_us // DAY_US * DAY_US if by_day else 0
                key = (at_us, moved.account_id, moved.model_id if by_model else 0)
                some = sums.setdefault(key, [0, 0, 0])
                for place, value in enumerate((1, moved.tokens, moved.amount_nano)):
                    some[place] += sign * value
    return [ChargeSum(*key, *some) for key, some in sorted(sums.items()) if some[0]]


async def charges_nano(snapshot: Database, account_id: int, from_us: int, to_us: int, *, floor_id: str) -> int:
    """All charges of an account in that time in one number."""
    sums = await charge_sums(snapshot, account_id, from_us, to_us, floor_id=floor_id)
    return sum(one.amount_nano for one in sums)


async def next_charged_day(
    snapshot: Database, account_id: int, day_us: int, *, back: bool, floor_id: str
) -> int | None:
    """The nearest day before `day_us` (`back`), or from it on, that may have charges; None when no day can have any.

    It may turn out to have none: a request before midnight may have been settled after it. No day in between has any.
    """
    edge, order, extreme = ("<", "DESC", "MAX") if back else (">=", "ASC", "MIN")
    found = await snapshot.rows(
        f"SELECT at_us FROM usage WHERE account_id = ? AND request_id {edge} ? AND request_id >= ? AND charge_nano > 0"
        f" ORDER BY request_id {order} LIMIT 1",
        [account_id, lowest_id(day_us if back else day_us - GRACE_US), floor_id],
    )
    late = await snapshot.rows(
        f"SELECT {extreme}(h.ended_us) AS at_us FROM hold h"
        f" WHERE h.account_id = ? AND h.ended_us {edge} ? AND {LATE} AND h.status = 'captured'",
        [account_id, day_us],
    )
    moments = [int(row["at_us"]) + (GRACE_US if back else 0) for row in found]
    moments += [int(row["at_us"]) for row in late if row["at_us"] is not None]
    floor_us = moment_of_id(floor_id)
    if floor_us and (floor_us < day_us) == back:
        # Charges of requests whose records were dropped may stand there.
        moments.append(floor_us)
    if not moments:
        return None
    nearest_us = min(max(moments), day_us - 1) if back else max(min(moments), day_us)
    return nearest_us // DAY_US * DAY_US


# ── those that were settled on another day ────────────────────────────────────────────────────────────────────────

_TOKENS = "u.fresh_tokens + u.cached_tokens + u.cache_write_tokens + u.output_tokens"
_CHARGE = "t.request_id = {0}.request_id AND t.kind = 'charge'"


async def _moved(
    snapshot: Database, account_id: int | None, from_us: int, to_us: int, midnights: Iterable[int], floor_id: str
) -> list[_Moved]:
    """Of the requests that began or were settled in that time: those settled beyond one of the midnights, and late ones."""
    found = dict[str, _Moved]()
    async with by_index(snapshot):
        for midnight_us in midnights:
            crossed = _crossing(account_id, midnight_us, dropped=lowest_id(midnight_us) <= floor_id)
            for row in await snapshot.rows(*crossed):
                found[str(row["request_id"])] = _row(row)
        whose, values = ("", []) if account_id is None else ("h.account_id = ? AND ", [account_id])
        late = await snapshot.rows(
            "SELECT h.request_id, h.at_us AS began_us, t.at_us AS settled_us, h.account_id, p.model_id, t.amount_nano,"
            f" COALESCE({_TOKENS}, 0) AS tokens FROM hold h JOIN transfer t ON {_CHARGE.format('h')}"
            f" JOIN price p ON p.id = h.price_id LEFT JOIN usage u ON u.request_id = h.request_id WHERE {whose}{LATE}"
            " AND (h.ended_us >= ? AND h.ended_us < ? OR h.at_us >= ? AND h.at_us < ?)",
            [*values, from_us, to_us, from_us, to_us],
        )
    # One that began before a midnight may be late as well.
    found.update((str(row["request_id"]), _row(row)) for row in late)
    return list(found.values())


def _crossing(account_id: int | None, midnight_us: int, *, dropped: bool) -> tuple[str, list[Any]]:
    """Charges of requests that began within the grace before a midnight, and were settled after it.

    Those before the first kept month have no usage records any more, and are found by their holds.
    """
    one = "h" if dropped else "u"
    columns = f"{one}.request_id, {one}.at_us AS began_us, t.at_us AS settled_us, {one}.account_id, t.amount_nano"
    whose, values = ("", []) if account_id is None else (f"{one}.account_id = ? AND ", [account_id])
    table = f"usage u JOIN transfer t ON {_CHARGE.format('u')}"
    more = f"u.model_id, {_TOKENS} AS tokens"
    if dropped:
        table = f"hold h JOIN transfer t ON {_CHARGE.format('h')} JOIN price p ON p.id = h.price_id"
        more = "p.model_id, 0 AS tokens"
    query = (
        f"SELECT {columns}, {more} FROM {table} WHERE {whose}{one}.request_id >= ? AND {one}.request_id < ?"
        " AND t.at_us >= ?"
    )
    return query, [*values, lowest_id(midnight_us - GRACE_US), lowest_id(midnight_us), midnight_us]


def _row(row: dict[str, Any]) -> _Moved:
    return _Moved(*(int(row[name]) for name in _Moved._fields))
