"""Owns reading all of a month's transfers, everybody's, as lines for a billing export; and what they must add up to.

A line is a request's charge with what of it was written off, or one other transfer. It carries the usage record that it was
worked out from, so that anybody with the price list can work it out again. Lines come in the order of the transfers' moments,
and a closed month gives the same lines for ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

import msgspec

from models.charge_sums import charge_sums
from models.database import Database, by_index, in_one_pass
from models.ids import DAY_US, SECOND_US, lowest_id
from models.money import FIRST_CUSTOMER, WRITEOFF
from models.months import Month
from models.prices import PriceVersion, price_from_row
from models.protections import GRACE_US, LATE
from models.retention import kept_since

MOST_AT_ONCE = 10_000
_PART = 10**9


class MonthLine(msgspec.Struct, frozen=True):
    """`amount_nano` is what it added to the account's balance; `writeoff_nano` what the house paid.

    `account_id` and `account` (its first e-mail) are None for what touched no customer. The fields from `requested_us` on are
    set for requests only, and those of the usage record only where it is still kept.
    """

    at_us: int
    transfer_id: int
    kind: str
    account_id: int | None
    account: str | None
    amount_nano: int
    writeoff_nano: int
    note: str
    request_id: str | None = None
    requested_us: int | None = None
    key_id: int | None = None
    key: str | None = None
    model: str | None = None
    fresh_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    price_version: int | None = None
    estimated: bool | None = None
    ceiling_nano: int | None = None


class MonthTotals(msgspec.Struct, frozen=True):
    """What a month's transfers are in all, straight from the ledger: how many, and nano-credits."""

    transfers: int
    amount_nano: int
    writeoff_nano: int


class PricedModel(msgspec.Struct, frozen=True):
    """A price version and the alias that it is of."""

    model: str
    version: PriceVersion


async def month_totals(snapshot: Database, month: Month) -> MonthTotals:
    """One pass over all transfers: nothing that the lines are read through is trusted here."""
    columns = []
    for sign, test in (
        ("", f"credit_account >= {FIRST_CUSTOMER}"),
        ("-", f"debit_account >= {FIRST_CUSTOMER}"),
        ("", f"debit_account = {WRITEOFF}"),
    ):
        for part in (f"amount_nano / {_PART}", f"amount_nano % {_PART}"):
            columns.append(f"COALESCE(SUM(CASE WHEN {test} THEN {sign}({part}) END), 0)")
    named = ", ".join(f"{text} AS part_{n}" for n, text in enumerate(columns))
    rows = await snapshot.rows(
        f"SELECT COUNT(*) AS n, {named} FROM transfer WHERE at_us >= ? AND at_us < ?", [month.start_us, month.end_us]
    )
    parts = [int(rows[0][f"part_{n}"]) for n in range(6)]
    given, taken, lost = (parts[n] * _PART + parts[n + 1] for n in (0, 2, 4))
    return MonthTotals(rows[0]["n"], given + taken, lost)


class AccountSum(NamedTuple):
    """Charges of one account for one model: how many, of how many tokens, and nano-credits in all."""

    account_id: int
    account: str | None
    model: str
    requests: int
    tokens: int
    amount_nano: int


async def sums_by_account(snapshot: Database, month: Month) -> list[AccountSum]:
    """A month's charges by account (its first e-mail) and model."""
    floor_id = await kept_since(snapshot)
    sums = await charge_sums(snapshot, None, month.start_us, month.end_us, floor_id=floor_id, by_model=True)
    aliases = {row["id"]: row["alias"] for row in await snapshot.rows("SELECT id, alias FROM model")}
    names = _Names(snapshot)
    await names.load(one.account_id for one in sums)
    rows = [AccountSum(one.account_id, names.accounts[one.account_id], aliases[one.model_id], *one[3:]) for one in sums]
    return sorted(rows, key=lambda row: (row.account or "", row.account_id, row.model))


async def price_list(snapshot: Database) -> list[PricedModel]:
    """Every price version that there ever was, by id."""
    rows = await snapshot.rows("SELECT p.*, m.alias FROM price p JOIN model m ON m.id = p.model_id ORDER BY p.id")
    return [PricedModel(row["alias"], price_from_row(row)) for row in rows]


async def month_lines(snapshot: Database, month: Month) -> AsyncIterator[list[MonthLine]]:
    """All lines of a month, oldest first, in lists of about `MOST_AT_ONCE` at most."""
    names, span_us = _Names(snapshot), DAY_US
    await names.load_models()
    for day_us in range(month.start_us, month.end_us, DAY_US):
        singles = await _singles(snapshot, day_us, day_us + DAY_US)
        await names.load(row["account_id"] for row in singles)
        from_us = day_us
        while from_us < day_us + DAY_US:
            to_us = min(from_us + span_us, day_us + DAY_US)
            requests = await _requests(snapshot, from_us, to_us, most=MOST_AT_ONCE if span_us > SECOND_US else 2**31)
            if requests is None:
                span_us //= 4
                continue
            await names.load((row["account_id"] for row in requests), (row["key_id"] for row in requests))
            lines = [_single(row, names) for row in singles if from_us <= row["at_us"] < to_us]
            lines += [_request(row, names) for row in requests]
            yield sorted(lines, key=lambda line: (line.at_us, line.transfer_id, line.account_id or 0))
            from_us = to_us
            if len(requests) < MOST_AT_ONCE // 8:
                span_us = min(span_us * 4, DAY_US)


async def _singles(snapshot: Database, from_us: int, to_us: int) -> list[dict[str, Any]]:
    """Transfers of no request: a row for each customer that one touched, or one row when it touched none."""
    common = "kind <> 'charge' AND request_id IS NULL AND at_us >= ? AND at_us < ?"
    columns = (
        f"id, at_us, kind, note, CASE WHEN debit_account = {WRITEOFF} THEN amount_nano ELSE 0 END AS writeoff_nano"
    )
    return await snapshot.rows(
        f"SELECT {columns}, credit_account AS account_id, amount_nano FROM transfer"
        f" WHERE {common} AND credit_account >= {FIRST_CUSTOMER}"
        f" UNION ALL SELECT {columns}, debit_account, -amount_nano FROM transfer"
        f" WHERE {common} AND debit_account >= {FIRST_CUSTOMER}"
        f" UNION ALL SELECT {columns}, NULL, 0 FROM transfer"
        f" WHERE {common} AND debit_account < {FIRST_CUSTOMER} AND credit_account < {FIRST_CUSTOMER}",
        [from_us, to_us] * 3,
    )


_COLUMNS = (
    "h.request_id, h.account_id, h.at_us AS requested_us, h.amount_nano AS ceiling_nano, h.price_id,"
    " COALESCE(c.at_us, w.at_us) AS at_us, COALESCE(c.id, w.id) AS id, COALESCE(c.amount_nano, 0) AS charge_nano,"
    " COALESCE(w.amount_nano, 0) AS writeoff_nano, u.key_id, u.model_id, u.fresh_tokens, u.cached_tokens,"
    " u.cache_write_tokens, u.output_tokens, u.estimated, u.request_id AS record"
)
_BETWEEN = "{0}.request_id >= ? AND {0}.request_id < ?"
_JOINED = (
    " LEFT JOIN transfer c ON c.request_id = h.request_id AND c.kind = 'charge' {c}"
    " LEFT JOIN transfer w ON w.request_id = h.request_id AND w.kind = 'writeoff' {w}"
    " LEFT JOIN usage u ON u.request_id = h.request_id {u}"
)


async def _requests(snapshot: Database, from_us: int, to_us: int, *, most: int) -> list[dict[str, Any]] | None:
    """Requests that were charged or written off in that time, a row each with its usage record. None when they are more
    than `most`.
    """
    # The bounds are said for every table, so that each is read by its index from there to there.
    bounds = [lowest_id(from_us - GRACE_US), lowest_id(to_us)]
    joined = _JOINED.format(**{name: "AND " + _BETWEEN.format(name) for name in "cwu"})
    async with in_one_pass(snapshot):
        rows = await snapshot.rows(
            f"SELECT {_COLUMNS} FROM hold h {joined} WHERE {_BETWEEN.format('h')} AND h.status = 'captured'"
            f" AND h.ended_us >= ? AND h.ended_us < ? AND NOT ({LATE}) AND (c.id IS NOT NULL OR w.id IS NOT NULL) LIMIT ?",
            [*bounds * 4, from_us, to_us, most + 1],
        )
    async with by_index(snapshot):
        rows += await snapshot.rows(
            f"SELECT {_COLUMNS} FROM hold h {_JOINED.format(c='', w='', u='')} WHERE h.status = 'captured'"
            f" AND h.ended_us >= ? AND h.ended_us < ? AND {LATE} AND (c.id IS NOT NULL OR w.id IS NOT NULL) LIMIT ?",
            [from_us, to_us, most + 1],
        )
    return rows if len(rows) <= most else None


class _Names:
    """Who and what the ids are; each is asked for once."""

    def __init__(self, snapshot: Database) -> None:
        self._snapshot = snapshot
        self.models: dict[int, str] = {}
        self.accounts: dict[int, str | None] = {}
        self.keys: dict[int, str | None] = {}

    async def load_models(self) -> None:
        rows = await self._snapshot.rows("SELECT p.id, m.alias FROM price p JOIN model m ON m.id = p.model_id")
        self.models = {row["id"]: row["alias"] for row in rows}

    async def load(self, accounts: Iterable[int | None], keys: Iterable[int | None] = ()) -> None:
        first = 'SELECT account_id AS id, MIN(id) AS login FROM "user" WHERE account_id IN ({}) GROUP BY account_id'
        email = f'SELECT f.id, l.email AS name FROM ({first}) f JOIN "user" l ON l.id = f.login'
        await self._load(self.accounts, accounts, email)
        await self._load(self.keys, keys, "SELECT id, name FROM api_key WHERE id IN ({})")

    async def _load(self, known: dict[int, str | None], ids: Iterable[int | None], query: str) -> None:
        missing = sorted({id_ for id_ in ids if id_ is not None and id_ not in known})
        for start in range(0, len(missing), 10_000):
            some = missing[start : start + 10_000]
            known.update(dict.fromkeys(some))
            rows = await self._snapshot.rows(query.format(", ".join(map(str, some))))
            known.update({row["id"]: row["name"] for row in rows})


def _single(row: dict[str, Any], names: _Names) -> MonthLine:
    id_ = row["account_id"]
    account = None if id_ is None else names.accounts[id_]
    return MonthLine(
        row["at_us"], row["id"], row["kind"], id_, account, row["amount_nano"], row["writeoff_nano"], row["note"]
    )


def _request(row: dict[str, Any], names: _Names) -> MonthLine:
    kept = row["record"] is not None
    return MonthLine(
        at_us=row["at_us"],
        transfer_id=row["id"],
        kind="charge",
        account_id=row["account_id"],
        account=names.accounts[row["account_id"]],
        amount_nano=-row["charge_nano"],
        writeoff_nano=row["writeoff_nano"],
        note="" if kept else "its usage record was dropped",
        request_id=str(row["request_id"]),
        requested_us=row["requested_us"],
        key_id=row["key_id"],
        key=names.keys[row["key_id"]] if kept else None,
        model=names.models[row["price_id"]],
        fresh_tokens=row["fresh_tokens"],
        cached_tokens=row["cached_tokens"],
        cache_write_tokens=row["cache_write_tokens"],
        output_tokens=row["output_tokens"],
        price_version=row["price_id"],
        estimated=bool(row["estimated"]) if kept else None,
        ceiling_nano=row["ceiling_nano"],
    )
