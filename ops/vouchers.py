"""Owns the operators' verbs on vouchers, and handing a new batch's codes over once. Rules: `models/vouchers.py`."""

from __future__ import annotations

import os
from datetime import date
from decimal import Decimal
from os import PathLike

import pandas as pd

from models.errors import BadInput, Conflict
from models.prices import credits_text, nano_from_credits
from models.vouchers import (
    MadeVouchers,
    make_vouchers,
    void_batch,
    void_voucher,
    voucher_batch_rows,
    voucher_rows,
)
from ops.drawer import Drawer
from ops.frames import EXACT, MOMENT, credits_exact, frame, moment_us

_CODES = {"code": "str", "credits": EXACT, "expires_at": MOMENT, "batch": "str"}
_BATCHES = {
    "batch": "str",
    "credits": EXACT,
    "count": "Int64",
    "redeemed": "Int64",
    "void": "Int64",
    "left": "Int64",
    "expires_at": MOMENT,
    "operator": "str",
    "reason": "str",
    "created_at": MOMENT,
    "amount_nano": "Int64",
    "id": "Int64",
}
_VOUCHERS = {
    "id": "Int64",
    "hint": "str",
    "status": "str",
    "account": "str",
    "redeemed_at": MOMENT,
    "void_at": MOMENT,
    "account_id": "Int64",
}


class Batch:
    """Vouchers just made. Their codes stand nowhere else: hand them over with `to_csv` or `to_frame`, once."""

    def __init__(self, made: MadeVouchers) -> None:
        self.name = made.name
        self.count = len(made.codes)
        self.amount_nano = made.amount_nano
        self._made: MadeVouchers | None = made

    def to_csv(self, path: str | PathLike[str]) -> None:
        """A new file for your eyes only. While it cannot be written, the codes stay here."""
        text = self._frame().to_csv(index=False)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BadInput(f"path: cannot write {path}: {error.strerror}; name a new file", field="path") from None
        self._made = None

    def to_frame(self) -> pd.DataFrame:
        """A row per code. Do not leave it shown in a notebook that others read."""
        codes = self._frame()
        self._made = None
        return codes

    def __repr__(self) -> str:
        state = "exported" if self._made is None else "export the codes now: .to_csv(path)"
        return f"{self.count:,} vouchers {self.name!r} of {credits_text(self.amount_nano)} credits each; {state}"

    def _frame(self) -> pd.DataFrame:
        if self._made is None:
            raise Conflict(
                f"vouchers: the codes of {self.name!r} were exported before and are stored nowhere; if they are lost, "
                "void the batch and make another",
                field="vouchers",
            )
        made, worth = self._made, credits_exact(self.amount_nano)
        rows = (
            {"code": code, "credits": worth, "expires_at": made.expires_us, "batch": made.name} for code in made.codes
        )
        return frame(rows, _CODES)


class Vouchers(Drawer):
    """`desk.vouchers`: codes that are worth credits to whoever enters one first."""

    def make(
        self,
        name: str,
        *,
        credits: str | int | Decimal,
        count: int,
        reason: str,
        expires_at: date | str | None = None,
    ) -> Batch:
        """`count` codes of `credits` each. The name is the batch's own: made again under it, nothing is made."""
        expires_us = moment_us(expires_at, field="expires_at")
        made = self._write(
            make_vouchers,
            name,
            nano_from_credits(credits),
            count,
            expires_us,
            reason,
            above_nano=self._desk._approval_above_nano,
        )
        return Batch(made)

    def void(self, name: str, *, reason: str) -> int:
        """Withdraw all of a batch that nobody has redeemed; how many that were. Twice changes nothing."""
        return self._write(void_batch, name, reason=reason)

    def void_one(self, voucher_id: int, *, reason: str) -> int:
        """Withdraw one voucher, unless somebody has redeemed it."""
        return self._write(void_voucher, voucher_id, reason=reason)

    def batches(self) -> pd.DataFrame:
        """Every batch, newest first: how many were made, redeemed and voided, and how many are left."""
        rows = (
            {
                **row,
                "batch": row["name"],
                "credits": credits_exact(row["amount_nano"]),
                "left": row["count"] - row["redeemed"] - row["void"],
                "expires_at": row["expires_us"],
                "created_at": row["created_us"],
            }
            for row in self._read(voucher_batch_rows)
        )
        return frame(rows, _BATCHES)

    def list(self, name: str) -> pd.DataFrame:
        """The vouchers of a batch, by the end of their code: which are open, void, or redeemed, and by whom."""
        rows = (
            {
                **row,
                "status": "redeemed" if row["redeemed_us"] else "void" if row["void_us"] else "open",
                "account": row["email"],
                "redeemed_at": row["redeemed_us"],
                "void_at": row["void_us"],
            }
            for row in self._read(voucher_rows, name)
        )
        return frame(rows, _VOUCHERS)
