"""Owns the operators' verbs on accounts. The rules are in `models/accounts.py`."""

from __future__ import annotations

import pandas as pd

from models.accounts import (
    AccountInfo,
    balance_rows,
    create_account,
    make_reset_link,
    resume_account,
    suspend_account,
)
from ops.drawer import Drawer
from ops.frames import MOMENT, frame

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

    def reset_link(self, email: str) -> str:
        """The path of a one-time page to choose a password, good for 24 hours; put the dashboard's address first."""
        return self._write(make_reset_link, email)

    def balances(self) -> pd.DataFrame:
        """Every account's balance, what of it is held for running requests, and what is available."""
        rows = self._read(balance_rows)
        named = ({**row, "suspended_at": row["suspended_us"], "created_at": row["created_us"]} for row in rows)
        return frame(named, _COLUMNS)
