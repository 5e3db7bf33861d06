"""Owns the operators' verbs on accounts. The rules are in `models/accounts.py`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from models.accounts import (
    AccountInfo,
    balance_rows,
    create_account,
    find_account,
    make_reset_link,
    resume_account,
    suspend_account,
)
from models.database import Database
from models.erasure import erase_account_of
from models.ids import now_us
from models.invites import MadeInvite, invite_rows, make_invite
from models.statements import MOST_LINES, Line, ledger_page
from ops.drawer import Drawer
from ops.frames import EXACT, MOMENT, credits_exact, frame

_COLUMNS = {
    "email": "str",
    "balance_nano": "Int64",
    "held_nano": "Int64",
    "available_nano": "Int64",
    "account_id": "Int64",
    "name": "str",
    "suspended_at": MOMENT,
    "created_at": MOMENT,
}
_FOUND = {
    "email": "str",
    "name": "str",
    "available": EXACT,
    "held": EXACT,
    "balance": EXACT,
    "suspended_at": MOMENT,
    "created_at": MOMENT,
    "account_id": "Int64",
}
_LEDGER = {
    "at": MOMENT,
    "kind": "str",
    "requests": "Int64",
    "amount": EXACT,
    "balance": EXACT,
    "note": "str",
    "operator": "str",
}
_INVITE_COLUMNS = {
    "id": "Int64",
    "hint": "str",
    "email": "str",
    "state": "str",
    "created_at": MOMENT,
    "expires_at": MOMENT,
    "used_at": MOMENT,
    "account_id": "Int64",
    "operator": "str",
}


class Accounts(Drawer):
    """`desk.accounts`"""

    def create(self, email: str, password: str | None = None, *, name: str | None = None) -> AccountInfo:
        """A new account with one login; without a password, send its owner a `reset_link`."""
        return self._write(create_account, email, password=password, name=name)

    def suspend(self, email: str, *, reason: str = "") -> AccountInfo:
        """All its keys answer 401 within a second; its credits stay."""
        return self._write(suspend_account, email, reason=reason)

    def resume(self, email: str, *, reason: str = "") -> AccountInfo:
        """Its keys work again."""
        return self._write(resume_account, email, reason=reason)

    def erase(self, email: str, *, account_id: int, reason: str) -> AccountInfo:
        """For good: address, name and sign-ins go, its keys stop, the books stay under the number that `find` shows.

        The reason stays, too: name nobody in it. What credits were left stay with the number; take them back before.
        """
        return self._write(erase_account_of, email, account_id=account_id, reason=reason)

    def reset_link(self, email: str) -> str:
        """The path of a one-time page to choose a password, good for 24 hours; put the dashboard's address first."""
        return self._write(make_reset_link, email)

    def invite(self, email: str | None = None, days: int = 14) -> MadeInvite:
        """A code to sign up with once; `.code` and `.path` are shown once. A new one for an address replaces the old one."""
        return self._write(make_invite, email, days=days)

    def invites(self) -> pd.DataFrame:
        """Every invitation, newest first: whose, until when, `open`, `used` (by which account) or `expired`."""
        now = now_us()
        return frame((_invite(row, now) for row in self._read(invite_rows)), _INVITE_COLUMNS)

    def balances(self) -> pd.DataFrame:
        """Every account's balance, what of it is held for running requests, and what is available."""
        rows = self._read(balance_rows)
        named = ({**row, "suspended_at": row["suspended_us"], "created_at": row["created_us"]} for row in rows)
        return frame(named, _COLUMNS)

    def find(self, text: str = "") -> pd.DataFrame:
        """The accounts whose e-mail or name has `text` in it, and what they have, in credits; all without a text."""
        wanted = text.strip().casefold()
        rows = (
            {
                **row,
                **{name: credits_exact(row[f"{name}_nano"]) for name in ("available", "held", "balance")},
                "suspended_at": row["suspended_us"],
                "created_at": row["created_us"],
            }
            for row in self._read(balance_rows)
            if wanted in f"{row['email'] or ''} {row['name']}".casefold()
        )
        return frame(rows, _FOUND)

    def ledger(self, email: str, *, limit: int = 20, usage: bool = True) -> pd.DataFrame:
        """The newest movements of an account, in credits, with the balance after each; a day's usage is one of them.

        `usage=False` leaves usage out: what people gave and took. A whole month is `desk.reports.statement`.
        """
        return frame((_line(line) for line in self._read(_ledger, email, limit, usage)), _LEDGER)


async def _ledger(database: Database, email: str, limit: int, usage: bool) -> list[Line]:
    account = await find_account(database, email)
    page = await ledger_page(database, account.id, limit=limit)
    lines = [line for line in page.lines if usage or line.kind != "usage"]
    while len(lines) < limit and page.next is not None:
        page = await ledger_page(database, account.id, limit=MOST_LINES, after=page.next)
        lines += [line for line in page.lines if usage or line.kind != "usage"]
    return lines[:limit]


def _line(line: Line) -> dict[str, Any]:
    return {
        "at": line.at_us,
        "kind": line.kind,
        "requests": line.requests if line.kind == "usage" else None,
        "amount": credits_exact(line.amount_nano),
        "balance": credits_exact(line.balance_nano),
        "note": line.note,
        "operator": line.operator,
    }


def _invite(row: dict[str, Any], now: int) -> dict[str, Any]:
    state = "used" if row["used_us"] is not None else "open" if row["expires_us"] > now else "expired"
    moments = {f"{name}_at": row[f"{name}_us"] for name in ("created", "expires", "used")}
    return row | moments | {"state": state}
