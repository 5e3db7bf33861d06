"""Owns the operators' verbs on balances. The rules are in `models/credits.py` and `models/money.py`."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from models.credits import Granted, grant, take_back
from models.prices import nano_from_credits
from ops.drawer import Drawer


class Credits(Drawer):
    """`desk.credits`. Credits are decimal texts like "1000" or "0.5", never floats."""

    def grant(
        self, email: str, *, credits: str | int | Decimal, reason: str, grant_key: str, kind: str = "grant"
    ) -> Granted:
        """Give credits. Run again with the same `grant_key`, it changes nothing and says `repeated`."""
        return self._write(grant, email, nano_from_credits(credits), reason, grant_key, kind=kind)

    def take_back(
        self,
        email: str,
        *,
        credits: str | int | Decimal,
        reason: str,
        grant_key: str,
        kind: str = "refund",
        shortfall: Literal["refuse", "writeoff"] = "refuse",
    ) -> Granted:
        """Take credits from an account, at most what is available; then refuse, or write the rest off."""
        return self._write(
            take_back, email, nano_from_credits(credits), reason, grant_key, kind=kind, shortfall=shortfall
        )
