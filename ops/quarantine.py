"""Owns the operators' verbs on quarantine. The rules are in `models/quarantine.py`; trying again is `gateway quarantine`."""

from __future__ import annotations

import pandas as pd

from models.quarantine import close_quarantined, quarantine_rows
from ops.drawer import Drawer
from ops.frames import MOMENT, frame

_COLUMNS = {
    "id": "Int64",
    "at": MOMENT,
    "request_id": "str",
    "error": "str",
    "command": "str",
    "closed_at": MOMENT,
}


class Quarantined(Drawer):
    """`desk.quarantine`: settlements that the ledger refused, and payments whose news cannot be right."""

    def list(self, *, closed: bool = False) -> pd.DataFrame:
        """Those that wait for a person, oldest first; none is how it should be. `closed`: all that ever did.

        `error` says why it was refused, `command` what should have been booked.
        """
        rows = self._read(quarantine_rows, closed=closed)
        return frame(({**row, "at": row["at_us"], "closed_at": row["closed_us"]} for row in rows), _COLUMNS)

    def close(self, quarantine_id: int, *, reason: str) -> None:
        """Nothing more will come of it: it was made up for, or nobody has to pay. Moves no money; twice is once."""
        self._write(close_quarantined, quarantine_id, reason=reason)
