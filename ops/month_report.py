"""Owns a month's billing export as operators see it: totals, sums by account and model, and files with every line in them."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from models.database import Database, open_snapshot
from models.errors import SetupError
from models.ids import to_datetime
from models.month_lines import AccountSum, MonthTotals, sums_by_account
from models.months import Month
from ops.documents import Document, TextColumn, TextTable, credits_shown, write_pdf
from ops.frames import EXACT, frame
from ops.month_files import Manifest, write_month
from ops.table_files import decimal_credits, need

if TYPE_CHECKING:
    from ops.desk import Desk

_SUMS = {
    "account": "str", "account_id": "Int64", "model": "str", "requests": "Int64", "tokens": "Int64",
    "amount_nano": "Int64", "amount_credits": EXACT,
}  # fmt: skip
# More accounts than these make a paper that nobody reads.
_ACCOUNTS_SHOWN = 200


class MonthReport:
    """All of a month's transfers, by the transfer's time (UTC).

    `to_csv`, `to_xlsx` and `to_parquet` write a line for each and a manifest beside them, with a progress bar and in little
    memory; `ops.verify_export` checks them without a database. The lines add up to `totals`, which come from the ledger.
    """

    def __init__(self, desk: Desk, month: Month, closed: bool, totals: MonthTotals, brand: str) -> None:
        self.month = str(month)
        self.status = "final" if closed else "provisional"
        self.totals = totals
        self._desk = desk
        self._bounds = month
        self._brand = brand

    def to_csv(self, path: str | Path, *, progress: bool = True) -> Manifest:
        return self._to("csv", path, progress)

    def to_xlsx(self, path: str | Path, *, progress: bool = True) -> Manifest:
        """A million lines take a minute or two. Above 1,048,575 lines there are several sheets."""
        return self._to("xlsx", path, progress)

    def to_parquet(self, path: str | Path, *, progress: bool = True) -> Manifest:
        return self._to("parquet", path, progress)

    def to_pdf(self, path: str | Path) -> Path:
        """A summary to print: totals, and charges by model and by account."""
        file = Path(path)
        write_pdf(self._document(self._sums()), file)
        return file

    def by_account_and_model(self) -> pd.DataFrame:
        """Charges: requests, tokens, and what they cost (positive), added up by the database."""
        rows = [one._asdict() | {"amount_credits": decimal_credits(one.amount_nano)} for one in self._sums()]
        return frame(rows, _SUMS)

    def _sums(self) -> list[AccountSum]:
        async def read(database: Database) -> list[AccountSum]:
            async with open_snapshot(database) as snapshot:
                return await sums_by_account(snapshot, self._bounds)

        return self._run(read)

    def _to(self, kind: str, path: str | Path, progress: bool) -> Manifest:
        file, closed = Path(path), self.status == "final"

        with _bar(self.totals.transfers, f"{self.month} to {file.name}", shown=progress) as told:

            async def write(database: Database) -> Manifest:
                async with open_snapshot(database) as snapshot:
                    return await write_month(snapshot, self._bounds, closed, kind, file, told)

            return self._run(write)

    def _run(self, work: Callable[[Database], Awaitable[Any]]) -> Any:
        session = self._desk._session

        async def go() -> Any:
            return await work(session.database)

        return session.run(go())

    def _document(self, sums: Sequence[AccountSum]) -> Document:
        first, after = to_datetime(self._bounds.start_us), to_datetime(self._bounds.end_us).date()
        models, accounts = _grouped(sums, "model"), _grouped(sums, "account")
        shown = sorted(accounts, key=lambda row: (-row[3], row[0]))[:_ACCOUNTS_SHOWN]
        note = (
            "" if len(accounts) <= _ACCOUNTS_SHOWN else f"The {_ACCOUNTS_SHOWN} largest of {len(accounts):,} accounts."
        )
        return Document(
            brand=self._brand,
            subject="billing",
            title="Billing summary",
            subtitle=f"{first:%B %Y}, UTC, by the time of settlement",
            footer=f"{self._brand} · billing of {self.month} · 1 USD = 100 credits",
            dated=after,
            facts=self._facts(),
            tables=[_table("By model", "Model", models), _table("By account", "Account", shown, note)],
            mark="" if self.status == "final" else "provisional",
        )

    def _facts(self) -> list[tuple[str, str]]:
        return [
            ("Status", self.status),
            ("Transfers", f"{self.totals.transfers:,}"),
            ("Change of all balances", f"{credits_shown(self.totals.amount_nano)} credits"),
            ("Written off", f"{credits_shown(self.totals.writeoff_nano)} credits"),
        ]

    def __repr__(self) -> str:
        return f"Billing of {self.month}: " + "; ".join(f"{name.lower()} {value}" for name, value in self._facts())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{n}</td><td style='text-align:right'>{html.escape(v)}</td></tr>" for n, v in self._facts()
        )
        return f"<h4>Billing of {self.month}</h4><table>{rows}</table>"


_Group = tuple[str, int, int, int]


def _grouped(sums: Sequence[AccountSum], field: str) -> list[_Group]:
    """Rows (name, requests, tokens, nano-credits) by name."""
    found: dict[str, list[int]] = {}
    for one in sums:
        total = found.setdefault(getattr(one, field) or f"account {one.account_id}", [0, 0, 0])
        for place, value in enumerate((one.requests, one.tokens, one.amount_nano)):
            total[place] += value
    return [(name, total[0], total[1], total[2]) for name, total in sorted(found.items())]


def _table(title: str, what: str, groups: Sequence[_Group], note: str = "") -> TextTable:
    columns = [TextColumn(what, wide=True)] + [
        TextColumn(name, number=True) for name in ("Requests", "Tokens", "Credits")
    ]
    rows = [(name or "–", f"{n:,}", f"{tokens:,}", credits_shown(nano)) for name, n, tokens, nano in groups]
    requests, tokens, nano = (sum(some) for some in zip(*[group[1:] for group in groups] or [(0, 0, 0)], strict=True))
    rows.append(("", f"{requests:,}", f"{tokens:,}", credits_shown(nano)))
    return TextTable(title, tuple(columns), rows, note)


@contextmanager
def _bar(total: int, title: str, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar in a notebook or terminal; where tqdm is not installed, none."""
    try:
        tqdm = need("tqdm.auto").tqdm if shown else None
    except SetupError:
        tqdm = None
    if tqdm is None:
        yield lambda count: None
        return
    with tqdm(total=total, desc=title, unit=" lines", leave=True) as bar:
        yield bar.update
