"""Owns one account's ledger inside one snapshot: its lines on either side of a place, their balances, its months.

A charge is one of thousands, so charges are shown summed by UTC day of the transfer (see `charge_sums.py`); every other
transfer is a line of its own. Balances are worked out backwards from the balance that the account has now, so they are right
also where old usage records were dropped; that they equal the sums of all transfers is invariant 2. Amounts are signed: what
was given to the account is above zero, what was taken below. What people ask for is `statements.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from models.charge_sums import FOREVER_US, ChargeSum, charge_sums, charges_nano, next_charged_day
from models.database import Database
from models.errors import NotFound
from models.ids import DAY_US, moment_of_id
from models.months import Month, month_of
from models.retention import kept_since

USAGE = "usage"
LAST_ID = 2**62


class Line(msgspec.Struct, frozen=True):
    """One movement. `kind` is `usage` or the transfer's own: `grant`, `correction`, `refund`, `dispute`, `voucher`, …

    `at_us` is the transfer's moment, or the first of the day whose usage it sums; `transfer_id` is 0 for usage, `requests` how
    many were charged. `model` is set in statements only. `before`: usage of every day before this moment, whose records are
    no longer kept; then `requests` is 0.
    """

    at_us: int
    kind: str
    amount_nano: int
    balance_nano: int
    requests: int = 0
    model: str | None = None
    note: str = ""
    operator: str = ""
    transfer_id: int = 0
    before: bool = False


_SINGLES = """
    SELECT id, at_us, kind, amount_nano, note, operator FROM transfer
    WHERE credit_account = ? AND kind <> 'charge' AND at_us >= ? AND at_us < ?
    UNION ALL SELECT id, at_us, kind, -amount_nano, note, operator FROM transfer
    WHERE debit_account = ? AND kind <> 'charge' AND at_us >= ? AND at_us < ?"""


class Book(msgspec.Struct, frozen=True):
    snapshot: Database
    account_id: int
    balance_nano: int
    floor_id: str
    floor_us: int

    async def page(self, cursor: tuple[int, int] | None, count: int, *, back: bool) -> list[Line]:
        """The next `count` lines on one side of a place, without their balances."""
        edge = cursor or ((FOREVER_US, 0) if back else (-1, 0))
        lines = await self._singles(edge, count, back=back)
        # Usage farther away than all of these is not on this page.
        far_us = (0 if back else FOREVER_US) if len(lines) < count else lines[-1].at_us
        lines += await self._usage_days(
            edge[0] // DAY_US * DAY_US if back else _day_after(edge), far_us, count, back=back
        )
        if len(lines) < count if back else far_us >= self.floor_us:
            lines += await self._dropped(edge, back=back)
        lines.sort(key=place_of, reverse=back)
        return lines[:count]

    async def with_balances(self, lines: list[Line], cursor: tuple[int, int] | None, *, back: bool) -> tuple[Line, ...]:
        """Lines in their order, each with the balance after it."""
        if not lines:
            return ()
        if back:
            above = 0 if cursor is None else await self._moved_from(cursor)
            closing_nano = self.balance_nano - above
            opening_nano = closing_nano - sum(line.amount_nano for line in lines)
            return add_up(lines[::-1], opening_nano)[::-1]
        opening_nano = 0
        if cursor is not None:
            us, id_ = cursor
            opening_nano = self.balance_nano - await self._moved_from((us, id_ + 1))
        return add_up(lines, opening_nano)

    async def lines(self, from_us: int, to_us: int) -> list[Line]:
        """Everything from one midnight to another (excluded), usage by day and model, oldest first."""
        sums = await charge_sums(
            self.snapshot, self.account_id, from_us, to_us, floor_id=self.floor_id, by_day=True, by_model=True
        )
        aliases = {row["id"]: row["alias"] for row in await self.snapshot.rows("SELECT id, alias FROM model")}
        lines = [_usage(one, aliases[one.model_id]) for one in sums]
        rows = await self._single_rows(from_us, to_us, "ORDER BY at_us, id")
        return sorted([*map(_single, rows), *lines], key=lambda line: (*place_of(line), line.model or ""))

    async def moved_nano(self, from_us: int) -> int:
        """What all transfers from a midnight on have added to the balance."""
        rows = await self._single_rows(from_us, FOREVER_US, "", "SUM(amount_nano) AS nano")
        return int(rows[0]["nano"] or 0) - await self._charged_nano(from_us)

    async def months(self) -> list[Month]:
        """Those that have a movement, newest first."""
        rows = await self._single_rows(0, FOREVER_US, "", "DISTINCT at_us / 86400000000 AS day")
        found = {month_of(row["day"] * DAY_US) for row in rows}
        day_us = FOREVER_US
        while (day := await self._next_day(day_us, back=True)) is not None:
            day_us = day
            if month_of(day) in found or await self._days(day, day + DAY_US):
                found.add(month_of(day))
                day_us = month_of(day).start_us
        return sorted((month for month in found if month.start_us >= self.floor_us), reverse=True)

    async def _moved_from(self, place: tuple[int, int]) -> int:
        """What all lines from a place on have added to the balance."""
        us, id_ = place
        if place <= (self.floor_us - 1, LAST_ID):
            # Nothing but singles is before it, as all dropped usage stands at the floor.
            before = await self._single_rows(
                0, us + 1, "WHERE at_us < ? OR id < ?", "SUM(amount_nano) AS nano", [us, id_]
            )
            return self.balance_nano - int(before[0]["nano"] or 0)
        rows = await self._single_rows(
            us, FOREVER_US, "WHERE at_us > ? OR id >= ?", "SUM(amount_nano) AS nano", [us, id_]
        )
        return int(rows[0]["nano"] or 0) - await self._charged_nano(_day_after((us, id_ - 1)))

    async def _singles(self, edge: tuple[int, int], count: int, *, back: bool) -> list[Line]:
        us, id_ = edge
        low, high, sign, order = (0, us + 1, "<", "DESC") if back else (us, FOREVER_US, ">", "ASC")
        rows = await self._single_rows(
            low, high, f"WHERE at_us {sign} ? OR id {sign} ? ORDER BY at_us {order}, id {order} LIMIT ?",
            values=[us, id_, count],
        )  # fmt: skip
        return [_single(row) for row in rows]

    async def _single_rows(
        self, from_us: int, to_us: int, tail: str, columns: str = "*", values: list[Any] | None = None
    ) -> list[dict[str, Any]]:
        one = [self.account_id, from_us, to_us]
        return await self.snapshot.rows(
            f"SELECT {columns} FROM ({_SINGLES}) single {tail}", [*one, *one, *(values or [])]
        )

    async def _usage_days(self, day_us: int, far_us: int, count: int, *, back: bool) -> list[Line]:
        """The next `count` days with usage before `day_us` or from it on, but for those that lie beyond `far_us`."""
        lines: list[Line] = []
        while len(lines) < count:
            day = await self._next_day(day_us, back=back)
            if day is None or (day + DAY_US <= far_us if back else day > far_us):
                break
            low, high = (day - (count - 1) * DAY_US, day + DAY_US) if back else (day, day + count * DAY_US)
            low = max(low, self.floor_us)
            lines += await self._days(low, high)
            day_us = low if back else high
        return lines

    async def _next_day(self, day_us: int, *, back: bool) -> int | None:
        """The nearest kept day that may have usage."""
        start_us = max(day_us, self.floor_us)
        day = await next_charged_day(self.snapshot, self.account_id, start_us, back=back, floor_id=self.floor_id)
        return None if day is None or day < self.floor_us else day

    async def _days(self, from_us: int, to_us: int) -> list[Line]:
        sums = await charge_sums(self.snapshot, self.account_id, from_us, to_us, floor_id=self.floor_id, by_day=True)
        return [_usage(one) for one in sums]

    async def _charged_nano(self, day_us: int) -> int:
        """All charges from a day, or from the first kept one, on."""
        start_us = max(day_us, self.floor_us)
        return await charges_nano(self.snapshot, self.account_id, start_us, FOREVER_US, floor_id=self.floor_id)

    async def _dropped(self, edge: tuple[int, int], *, back: bool) -> list[Line]:
        """All usage whose records are gone, as one line: what is missing between the balance and everything else."""
        if not self.floor_us or not _lies((self.floor_us - 1, LAST_ID), edge, back=back):
            return []
        rows = await self._single_rows(0, FOREVER_US, "", "SUM(amount_nano) AS nano")
        amount_nano = self.balance_nano + await self._charged_nano(self.floor_us) - int(rows[0]["nano"] or 0)
        return [Line(self.floor_us, USAGE, amount_nano, 0, before=True)] if amount_nano else []


async def open_book(snapshot: Database, account_id: int) -> Book:
    rows = await snapshot.rows("SELECT balance_nano FROM account WHERE id = ?", [account_id])
    if not rows:
        raise NotFound(f"account: there is no account {account_id}", field="account")
    floor_id = await kept_since(snapshot)
    return Book(snapshot, account_id, rows[0]["balance_nano"], floor_id, moment_of_id(floor_id))


# ── lines and their places ────────────────────────────────────────────────────────────────────────────────────────


def _single(row: dict[str, Any]) -> Line:
    return Line(
        row["at_us"], row["kind"], row["amount_nano"], 0,
        note=row["note"], operator=row["operator"], transfer_id=row["id"],
    )  # fmt: skip


def _usage(one: ChargeSum, model: str | None = None) -> Line:
    return Line(one.day_us, USAGE, -one.amount_nano, 0, one.requests, model)


def place_of(line: Line) -> tuple[int, int]:
    """Where a line stands: singles by time, and a day's usage at the end of the day."""
    if line.transfer_id:
        return line.at_us, line.transfer_id
    return line.at_us - 1 if line.before else line.at_us + DAY_US - 1, LAST_ID


def _lies(place: tuple[int, int], edge: tuple[int, int], *, back: bool) -> bool:
    return place < edge if back else place > edge


def _day_after(place: tuple[int, int]) -> int:
    """The first day whose usage stands behind a place."""
    us, id_ = place
    day_us = us // DAY_US * DAY_US
    return day_us + DAY_US if (us, id_) >= (day_us + DAY_US - 1, LAST_ID) else day_us


def add_up(lines: list[Line], opening_nano: int) -> tuple[Line, ...]:
    """Each with the balance after it; oldest first."""
    balance_nano, found = opening_nano, []
    for line in lines:
        balance_nano += line.amount_nano
        found.append(msgspec.structs.replace(line, balance_nano=balance_nano))
    return tuple(found)
