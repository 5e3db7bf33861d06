"""Owns a month's statement of one account as operators see and export it. The numbers are `models/statements.py`'s."""

from __future__ import annotations

import html
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from models.ids import to_datetime
from models.months import Month
from models.statements import Line, Statement
from ops.documents import Document, TextColumn, TextTable, credits_shown, write_pdf
from ops.frames import EXACT, MOMENT, credits_exact, frame
from ops.table_files import WRITERS, Column, decimal_credits, new_file

COLUMNS = (
    Column("at", "moment"),
    Column("kind", "text"),
    Column("model", "text"),
    Column("requests", "whole"),
    Column("amount_nano", "whole"),
    Column("amount_credits", "credits"),
    Column("balance_nano", "whole"),
    Column("balance_credits", "credits"),
    Column("note", "text"),
    Column("status", "text"),
)
_FRAME = {
    "at": MOMENT, "kind": "str", "model": "str", "requests": "Int64", "amount_nano": "Int64", "amount_credits": EXACT,
    "balance_nano": "Int64", "balance_credits": EXACT, "note": "str", "status": "str",
}  # fmt: skip

_SUMMARY = {"what": "str", "model": "str", "requests": "Int64", "credits": EXACT}


class AccountStatement:
    """Opening balance, a row for every movement (usage by day and model), closing balance: exact, and equal to the ledger.

    `status` is `final`, or `provisional` while the month is not closed. A final statement exports to the same bytes each time.
    """

    def __init__(self, email: str, month: Month, statement: Statement, brand: str) -> None:
        self.email = email
        self.month = str(month)
        self.status = "final" if statement.closed else "provisional"
        self.opening_nano = statement.opening_nano
        self.closing_nano = statement.closing_nano
        self._bounds = month
        self._lines = statement.lines
        self._brand = brand

    def frame(self) -> pd.DataFrame:
        """A row a line between `opening` and `closing`, whose amounts are 0; money in nano-credits and in exact credits."""
        rows = []
        for values in self._rows():
            row = dict(zip(_FRAME, values, strict=True))
            for name in ("amount", "balance"):
                row[f"{name}_credits"] = decimal_credits(row[f"{name}_nano"])
            rows.append(row)
        return frame(rows, _FRAME)

    def summary(self) -> pd.DataFrame:
        """The statement on one page: what each kind of movement, and usage of each model, came to, in exact credits."""
        sums: dict[tuple[str, str | None], list[int]] = {}
        for line in self._lines:
            total = sums.setdefault((line.kind, line.model), [0, 0])
            total[0] += line.requests
            total[1] += line.amount_nano
        parts: list[tuple[str, str | None, int | None, int]] = [("opening", None, None, self.opening_nano)]
        parts += [(kind, model, n or None, nano) for (kind, model), (n, nano) in sorted(sums.items(), key=_first_given)]
        parts.append(("closing", None, None, self.closing_nano))
        rows = ({"what": w, "model": m or "", "requests": n, "credits": credits_exact(nano)} for w, m, n, nano in parts)
        return frame(rows, _SUMMARY)

    def to_csv(self, path: str | Path) -> Path:
        return self._to(path, "csv")

    def to_xlsx(self, path: str | Path) -> Path:
        return self._to(path, "xlsx")

    def to_parquet(self, path: str | Path) -> Path:
        return self._to(path, "parquet")

    def to_pdf(self, path: str | Path) -> Path:
        file = Path(path)
        write_pdf(self._document(), file)
        return file

    def _to(self, path: str | Path, kind: str) -> Path:
        file = Path(path)
        with new_file(file) as written:
            writer = WRITERS[kind](written, COLUMNS, self._bounds.end_us)
            try:
                writer.write(self._rows())
            finally:
                writer.close()
        return file

    def _rows(self) -> list[list[Any]]:
        opening = Line(self._bounds.start_us, "opening", 0, self.opening_nano)
        closing = Line(self._bounds.end_us - 1, "closing", 0, self.closing_nano)
        return [
            [
                line.at_us,
                line.kind,
                line.model,
                line.requests if line.kind == "usage" else None,
                line.amount_nano,
                line.amount_nano,
                line.balance_nano,
                line.balance_nano,
                line.note,
                self.status,
            ]
            for line in (opening, *self._lines, closing)
        ]

    def _document(self) -> Document:
        columns = (
            TextColumn("Day"),
            TextColumn("What", wide=True),
            TextColumn("Requests", number=True),
            TextColumn("Credits", number=True),
            TextColumn("Balance", number=True),
        )
        rows = [
            (
                f"{to_datetime(line.at_us):%Y-%m-%d}",
                f"Usage of {line.model}" if line.kind == "usage" else _said(line),
                f"{line.requests:,}" if line.kind == "usage" else "",
                credits_shown(line.amount_nano),
                credits_shown(line.balance_nano),
            )
            for line in self._lines
        ]
        rows.append(("", "Closing balance", "", "", credits_shown(self.closing_nano)))
        used = -sum(line.amount_nano for line in self._lines if line.kind == "usage")
        first, after = to_datetime(self._bounds.start_us).date(), to_datetime(self._bounds.end_us).date()
        return Document(
            brand=self._brand,
            subject=self.email,
            title="Statement",
            subtitle=f"{first:%B %Y}, UTC, by the time of settlement",
            footer=f"{self._brand} · statement of {self.month} · {self.email} · 1 USD = 100 credits",
            dated=date(after.year, after.month, after.day),
            facts=[
                ("Account", self.email),
                ("Status", self.status),
                ("Opening balance", f"{credits_shown(self.opening_nano)} credits"),
                ("Usage", f"{credits_shown(used)} credits"),
                ("Closing balance", f"{credits_shown(self.closing_nano)} credits"),
            ],
            tables=[TextTable("Movements", columns, rows)],
            mark="" if self.status == "final" else "provisional",
        )

    def __repr__(self) -> str:
        head = f"Statement of {self.email}, {self.month} ({self.status})"
        return f"{head}\n{self._shown().to_string(index=False)}"

    def _repr_html_(self) -> str:
        state = "" if self.status == "final" else " <em>provisional: the month is not closed</em>"
        table = self._shown().to_html(index=False, border=0, escape=True)
        return f"<h4>Statement of {html.escape(self.email)}, {self.month}{state}</h4>{table}"

    def _shown(self) -> pd.DataFrame:
        rows = self.frame()
        shown = rows[["kind", "model", "requests", "amount_credits", "balance_credits", "note"]].copy()
        for name in ("amount_credits", "balance_credits"):
            shown[name] = [f"{value:f}" for value in shown[name]]
        shown.insert(0, "day", rows["at"].dt.strftime("%Y-%m-%d"))
        return shown.astype(object).where(shown.notna(), "")


def _said(line: Line) -> str:
    kind = line.kind.replace("_", " ").capitalize()
    return f"{kind}: {line.note}" if line.note else kind


def _first_given(item: tuple[tuple[str, str | None], list[int]]) -> tuple[bool, str, str]:
    """What was given and taken by people comes before usage."""
    (kind, model), _ = item
    return kind == "usage", kind, model or ""
