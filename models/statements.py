"""Owns what people ask of one account's ledger: a page of it with the running balance, the statement of a month, which months
there are. How that is read is `account_book.py`.
"""

from __future__ import annotations

import re

import msgspec

from models.account_book import LAST_ID, Line, add_up, open_book, place_of
from models.charge_sums import FOREVER_US
from models.checks import check_whole
from models.database import Database, open_snapshot
from models.errors import BadInput
from models.months import Month, month_of_id
from models.price_list import database_now_us

__all__ = ["LedgerPage", "Line", "Statement", "StatementMonth", "ledger_page", "month_statement", "statement_months"]
MOST_LINES = 500
_CURSOR = re.compile(r"(\d{1,17})-(\d{1,19})", re.ASCII)


class LedgerPage(msgspec.Struct, frozen=True):
    """Some lines of a ledger. `next` asks for those after them; None when there are none. `balance_nano` is today's."""

    lines: tuple[Line, ...]
    next: str | None
    balance_nano: int


class Statement(msgspec.Struct, frozen=True):
    """A month of an account, oldest line first: opening + Σ amounts = closing = Σ of its transfers before the month's end."""

    account_id: int
    month: str
    closed: bool
    opening_nano: int
    lines: tuple[Line, ...]
    closing_nano: int


class StatementMonth(msgspec.Struct, frozen=True):
    """A month in which the account has a movement."""

    month: str
    closed: bool


async def ledger_page(
    database: Database, account_id: int, *, limit: int = 50, after: str | None = None, oldest_first: bool = False
) -> LedgerPage:
    """At most `limit` lines, newest first, beginning behind the line whose page said `next=after`.

    Lines behind a cursor do not change: only today's usage still grows. Raises BadInput for a cursor that is none, NotFound for
    an account that does not exist.
    """
    check_whole(limit, field="limit", least=1, most=MOST_LINES)
    cursor = None if after is None else _cursor(after)
    async with open_snapshot(database) as snapshot:
        book = await open_book(snapshot, account_id)
        found = await book.page(cursor, limit + 1, back=not oldest_first)
        lines = await book.with_balances(found[:limit], cursor, back=not oldest_first)
        more = len(found) > limit
        return LedgerPage(lines, "{}-{}".format(*place_of(lines[-1])) if more else None, book.balance_nano)


async def month_statement(database: Database, account_id: int, month: Month) -> Statement:
    """Raises BadInput for a month whose usage records were dropped or that is still to come, NotFound for no account."""
    async with open_snapshot(database) as snapshot:
        book = await open_book(snapshot, account_id)
        now_us = await database_now_us(snapshot)
        if month.start_us > now_us:
            raise BadInput(f"month: {month} is still to come", field="month")
        if month.start_us < book.floor_us:
            first = month_of_id(book.floor_id)
            raise BadInput(
                f"month: the usage records of {month} were dropped; {first} is the first kept", field="month"
            )
        lines = await book.lines(month.start_us, month.end_us)
        closing_nano = book.balance_nano - await book.moved_nano(month.end_us)
        opening_nano = closing_nano - sum(line.amount_nano for line in lines)
        return Statement(
            account_id,
            str(month),
            month.is_closed(now_us),
            opening_nano,
            add_up(lines, opening_nano),
            closing_nano,
        )


async def statement_months(database: Database, account_id: int) -> list[StatementMonth]:
    """The months that have a statement with at least one line, newest first."""
    async with open_snapshot(database) as snapshot:
        book = await open_book(snapshot, account_id)
        now_us = await database_now_us(snapshot)
        return [StatementMonth(str(month), month.is_closed(now_us)) for month in await book.months()]


def _cursor(text: str) -> tuple[int, int]:
    found = _CURSOR.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[1]) > FOREVER_US or int(found[2]) > LAST_ID:
        raise BadInput(f"after: {text!r} is not where a page ended; begin again without it", field="after")
    return int(found[1]), int(found[2])
