"""Owns what a customer reads of their own usage: records newest first, the receipt of one, and all of them for an export.

A customer sees neither routes nor what a request cost us. Sums are `spend.py`; operators read with `usage.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from models.checks import check_whole
from models.database import Database
from models.errors import BadInput, NotFound
from models.ids import DAY_US, moment_of_id
from models.prices import Meters, PriceVersion, Rates, Window, price_from_row, tier_for
from models.rollups import rolled_until
from models.usage import EVERYTHING, SLACK_US, UsageFilter, matching, matching_days

MOST_SIZE = 5_000


class UsageRecord(msgspec.Struct, frozen=True):
    """One request that reached a provider. `charge_nano` was taken; `writeoff_nano` is what the balance did not cover."""

    request_id: str
    at_us: int
    key_id: int
    key: str
    model: str
    outcome: str
    streamed: bool
    estimated: bool
    fresh_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    first_byte_ms: int
    total_ms: int
    charge_nano: int
    writeoff_nano: int
    price_id: int

    @property
    def meters(self) -> Meters:
        return Meters(self.fresh_tokens, self.cached_tokens, self.cache_write_tokens, self.output_tokens)

    @property
    def is_answered(self) -> bool:
        """Whether an answer began. Without one 0 ms are stored; no real one is so fast, as the hold alone takes longer."""
        return self.outcome == "served" or self.first_byte_ms > 0


class Page(msgspec.Struct, frozen=True):
    """Records newest first. `next` is the cursor of the page after it, None on the last."""

    records: list[UsageRecord]
    next: str | None


class Line(msgspec.Struct, frozen=True):
    """`tokens` × `rate_nano` = `amount_nano`, of the meter fresh, cached, written or output."""

    meter: str
    tokens: int
    rate_nano: int
    amount_nano: int


class Receipt(msgspec.Struct, frozen=True):
    """A record with the price that it was charged by: the version pinned at its hold, and of that the window (None outside
    any) and the tier (above so many input tokens) that applied.

    `total_nano` is the sum of the lines, and equals charge + writeoff of the record unless that was estimated: then what
    was charged is at most the hold.
    """

    record: UsageRecord
    price: PriceVersion
    held_us: int
    window: Window | None
    above_tokens: int
    rates: Rates
    lines: list[Line]
    total_nano: int


_COLUMNS = ", ".join(f"u.{name}" for name in UsageRecord.__struct_fields__ if name not in ("key", "model"))
_SELECT = (
    f"SELECT {_COLUMNS}, k.name AS key_name, m.alias AS model FROM usage u"
    " LEFT JOIN api_key k ON k.id = u.key_id LEFT JOIN model m ON m.id = u.model_id"
)


async def usage_page(
    database: Database,
    account_id: int,
    only: UsageFilter = EVERYTHING,
    *,
    before: str | None = None,
    size: int = 50,
) -> Page:
    """The newest `size` records of the account that match, older than the cursor `before`.

    Raises BadInput for a cursor that is no request id, a size out of bounds, or an unknown outcome.
    """
    check_whole(size, field="size", least=1, most=MOST_SIZE)
    bound = _request_id(before, field="before") if before is not None else None
    rows: list[dict[str, Any]] = []
    async for part in _stretches(database, account_id, only, bound, size):
        test, values = matching(part, account_id)
        if bound is not None:
            test += " AND u.request_id < ?"
            values.append(bound)
        values.append(size + 1 - len(rows))
        rows += await database.rows(f"{_SELECT} WHERE {test} ORDER BY u.request_id DESC LIMIT ?", values)
        if len(rows) > size:
            break
    records = [_record(row) for row in rows[:size]]
    return Page(records, records[-1].request_id if len(rows) > size else None)


async def usage_pages(
    database: Database,
    account_id: int,
    only: UsageFilter = EVERYTHING,
    *,
    size: int = 1_000,
) -> AsyncIterator[list[UsageRecord]]:
    """Everything that matches, newest first, in lists of at most `size`: an export needs the memory of one of them."""
    before: str | None = None
    while True:
        page = await usage_page(database, account_id, only, before=before, size=size)
        if page.records:
            yield page.records
        before = page.next
        if before is None:
            return


async def receipt(database: Database, account_id: int, request_id: str) -> Receipt:
    """How one record of this account was charged. Raises NotFound: also for another account's."""
    unknown = NotFound(f"there is no usage record {request_id!r} in this account", field="request_id")
    try:
        id_ = _request_id(request_id, field="request_id")
    except BadInput:
        raise unknown from None
    rows = await database.rows(f"{_SELECT} WHERE u.account_id = ? AND u.request_id = ?", [account_id, id_])
    if not rows:
        raise unknown
    record = _record(rows[0])
    (held,) = await database.rows("SELECT at_us FROM hold WHERE request_id = ?", [id_])
    (price,) = await database.rows("SELECT * FROM price WHERE id = ?", [record.price_id])
    return _receipt(record, price_from_row(price), held["at_us"])


# ── where to look ─────────────────────────────────────────────────────────────────────────────────────────────────


async def _stretches(
    database: Database, account_id: int, only: UsageFilter, before: str | None, size: int
) -> AsyncIterator[UsageFilter]:
    """The filter, narrowed to the stretches of time that may have matching records, newest first.

    Days that are rolled up tell whether they have any, so a filter that matches little or nothing reads little.
    """
    since_us, until_us = only.since_us or 0, only.until_us
    if before is not None:
        made_us = moment_of_id(before) + SLACK_US
        until_us = made_us if until_us is None else min(until_us, made_us)
    rolled_us = (await rolled_until(database)).until_us
    if until_us is None or until_us > rolled_us:
        yield msgspec.structs.replace(only, since_us=max(since_us, rolled_us), until_us=until_us)
        until_us = rolled_us
    # A page needs one record more than it has, and of the first and the last day perhaps none is meant.
    most = size + 3
    while until_us > since_us:
        test, values = matching_days(only, account_id, since_us - since_us % DAY_US, until_us)
        rows = await database.rows(
            f"SELECT u.day_us FROM usage_day u WHERE {test} GROUP BY u.day_us ORDER BY u.day_us DESC LIMIT ?",
            [*values, most],
        )
        for low_us, high_us in _runs([row["day_us"] for row in rows]):
            yield msgspec.structs.replace(only, since_us=max(since_us, low_us), until_us=min(until_us, high_us))
        if len(rows) < most:
            return
        until_us = rows[-1]["day_us"]


def _runs(days: list[int]) -> Iterator[tuple[int, int]]:
    """Days, newest first; those that follow each other as one stretch from its start to its end."""
    start = 0
    for n in range(1, len(days) + 1):
        if n == len(days) or days[n] != days[n - 1] - DAY_US:
            yield days[n - 1], days[start] + DAY_US
            start = n


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _receipt(record: UsageRecord, price: PriceVersion, held_us: int) -> Receipt:
    meters = record.meters
    tier = tier_for(price.tiers_at(held_us), meters.input)
    lines = []
    for meter in Meters.__struct_fields__:
        tokens, rate_nano = getattr(meters, meter), getattr(tier.rates, meter)
        lines.append(Line(meter, tokens, rate_nano, tokens * rate_nano))
    total_nano = sum(line.amount_nano for line in lines)
    return Receipt(record, price, held_us, price.window_at(held_us), tier.above_tokens, tier.rates, lines, total_nano)


def _request_id(text: object, *, field: str) -> str:
    try:
        return str(uuid.UUID(str(text)))
    except ValueError:
        raise BadInput(f"{field}: must be a request id, got {text!r}", field=field) from None


def _record(row: dict[str, Any]) -> UsageRecord:
    values = row | {
        "request_id": str(row["request_id"]),
        "key": row["key_name"] or "",
        "model": row["model"] or "",
        "streamed": bool(row["streamed"]),
        "estimated": bool(row["estimated"]),
    }
    return UsageRecord(**{name: values[name] for name in UsageRecord.__struct_fields__})
