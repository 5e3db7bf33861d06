"""Owns the operators' verbs on balances. The rules are in `models/credits.py`, `approvals.py` and `money.py`."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import pandas as pd

from models.approvals import Waiting, approval_rows, refuse
from models.credits import Granted, approve, grant, take_back
from models.prices import nano_from_credits
from ops.drawer import Drawer
from ops.frames import EXACT, MOMENT, credits_exact, frame
from ops.grant_files import GrantsPreview, read_lines
from ops.tables import Source

_WAITING = {
    "id": "Int64",
    "account": "str",
    "credits": EXACT,
    "kind": "str",
    "reason": "str",
    "grant_key": "str",
    "requested_by": "str",
    "requested_at": MOMENT,
    "account_id": "Int64",
    "amount_nano": "Int64",
}
_DECIDED = {"decision": "str", "decided_by": "str", "decided_at": MOMENT, "decided_reason": "str"}


class Credits(Drawer):
    """`desk.credits`. Credits are decimal texts like "1000" or "0.5", never floats."""

    def grant(
        self, email: str, *, credits: str | int | Decimal, reason: str, grant_key: str, kind: str = "grant"
    ) -> Granted:
        """Give credits. Run again with the same `grant_key`, it changes nothing and says `repeated`.

        Above the bound (OPS_APPROVAL_ABOVE, or the environment's) nothing moves yet: `approval_id` waits for another
        operator's `approve`.
        """
        return self._write(
            grant, email, nano_from_credits(credits), reason, grant_key, kind=kind, above_nano=self._above_nano
        )

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
        """Take credits from an account, at most what is available; then refuse, or write the rest off.

        Above the bound it waits for another operator, as a grant does.
        """
        return self._write(
            take_back,
            email,
            nano_from_credits(credits),
            reason,
            grant_key,
            kind=kind,
            shortfall=shortfall,
            above_nano=self._above_nano,
        )

    def grants_from(self, source: Source) -> GrantsPreview:
        """Look at the grants of a CSV or XLSX file or a frame before they are given: columns email, credits, grant_key.

        Nothing is granted until `.grant(reason=…)` of what comes back.
        """
        return GrantsPreview(self, read_lines(source))

    def waiting(self, *, history: bool = False) -> pd.DataFrame:
        """What waits for a second operator; with `history` also what was decided. Below zero: to be taken."""
        rows = self._read(approval_rows, decided=history)
        named = (
            {
                **row,
                "credits": credits_exact(row["amount_nano"]),
                "requested_at": row["requested_us"],
                "decided_at": row["decided_us"],
            }
            for row in rows
        )
        return frame(named, _WAITING | _DECIDED if history else _WAITING)

    def approve(self, approval_id: int, *, reason: str) -> Granted:
        """Do what another operator asked for. Twice is once; nobody approves what they asked for themselves."""
        return self._write(approve, approval_id, reason=reason)

    def refuse(self, approval_id: int, *, reason: str) -> Waiting:
        """Decide that it is not done, or take back what you asked for. Twice is once."""
        return self._write(refuse, approval_id, reason=reason)

    @property
    def _above_nano(self) -> int | None:
        return self._desk._approval_above_nano
