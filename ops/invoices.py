"""Owns comparing a provider's invoice (CSV) with what we used of it, by day and model, and naming each difference.

    check = desk.reports.invoice("acme.csv", provider="acme", month="2026-11",
                                 columns={"day": "Date", "model": "Model", "input_tokens": "Input", "amount_usd": "Cost"})
    check.ok; check.frame()

`columns` maps our names to the invoice's; a name that is left out is looked for as it is, and compared when it is there. The
invoice must have `model` and one amount or count; without `day` the whole month is compared by model. Rows of the same day and
model are added up.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from models.checks import check_whole
from models.errors import BadInput
from models.months import Month
from models.prices import CREDITS_PER_USD, NANO_PER_CREDIT
from models.provider_usage import ProviderUsage
from ops.frames import EXACT, frame

COUNTS = ("requests", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens")
AMOUNT = "amount_usd"
NAMES = ("day", "model", *COUNTS, AMOUNT)
_NANO_PER_USD = NANO_PER_CREDIT * CREDITS_PER_USD
_FRAME = {
    "day": "str", "model": "str", "difference": "str", "field": "str", "ours": EXACT, "theirs": EXACT, "off_by": EXACT,
}  # fmt: skip

Key = tuple[str, str]
Values = dict[str, Decimal]


class Difference(msgspec.Struct, frozen=True):
    """`what` is `missing there` (we used it, they do not bill it), `missing here` or `differs`; `off_by` is theirs − ours."""

    day: str
    model: str
    what: str
    field: str
    ours: Decimal
    theirs: Decimal

    @property
    def off_by(self) -> Decimal:
        return self.theirs - self.ours


class InvoiceCheck:
    """All differences between an invoice and our records. `ok` is True when there are none."""

    def __init__(
        self, provider: str, month: str, compared: tuple[str, ...], differences: list[Difference], groups: int
    ):
        self.provider = provider
        self.month = month
        self.compared = compared
        self.differences = tuple(differences)
        self.groups = groups

    @property
    def ok(self) -> bool:
        return not self.differences

    def frame(self) -> pd.DataFrame:
        """A row a difference; none when the invoice is right. Amounts are exact Decimals."""
        rows = [
            {"day": d.day, "model": d.model, "difference": d.what, "field": d.field, "ours": d.ours, "theirs": d.theirs,
             "off_by": d.off_by}
            for d in self.differences
        ]  # fmt: skip
        return frame(rows, _FRAME)

    def __repr__(self) -> str:
        head = f"Invoice of {self.provider}, {self.month}: {self._head()}"
        return head if self.ok else f"{head}\n{self.frame().to_string(index=False)}"

    def _repr_html_(self) -> str:
        table = "" if self.ok else self.frame().to_html(index=False, border=0, escape=True)
        return f"<h4>Invoice of {self.provider}, {self.month}</h4><p>{self._head()}</p>{table}"

    def _head(self) -> str:
        said = f"{self.groups:,} days and models compared by {', '.join(self.compared)}"
        return f"{said}; {len(self.differences) or 'no'} difference{'' if len(self.differences) == 1 else 's'}"


_EXPECTED = {"day": "str", "model": "str", **dict.fromkeys(COUNTS, "Int64"), AMOUNT: EXACT}


def invoice_frame(used: Iterable[ProviderUsage]) -> pd.DataFrame:
    """Our records in the columns of an invoice."""
    rows = ({**msgspec.structs.asdict(one), AMOUNT: _usd(one.cost_nano)} for one in used)
    return frame(rows, _EXPECTED)


def costs_frame(used: Mapping[str, Sequence[ProviderUsage]]) -> pd.DataFrame:
    """A row for each provider, the dearest first."""
    rows = [
        {
            "provider": provider,
            "requests": sum(one.requests for one in some),
            "tokens": sum(one.input_tokens + one.output_tokens for one in some),
            AMOUNT: _usd(sum(one.cost_nano for one in some)),
        }
        for provider, some in used.items()
    ]
    ordered = sorted(rows, key=lambda row: (-row[AMOUNT], row["provider"]))  # type: ignore[operator]
    return frame(ordered, {"provider": "str", "requests": "Int64", "tokens": "Int64", AMOUNT: EXACT})


def _usd(cost_nano: int) -> Decimal:
    return Decimal(cost_nano) / _NANO_PER_USD


def compare_invoice(
    path: Path,
    provider: str,
    month: Month,
    used: Iterable[ProviderUsage],
    *,
    columns: Mapping[str, str] | None = None,
    tolerance_usd: str | int | Decimal = 0,
    tolerance_count: int = 0,
) -> InvoiceCheck:
    """Raises BadInput naming the row and the column of what cannot be read; a difference within its tolerance is none."""
    allowed = {AMOUNT: _tolerance(tolerance_usd)}
    allowed |= dict.fromkeys(COUNTS, Decimal(check_whole(tolerance_count, field="tolerance_count", least=0)))
    theirs, fields, by_day = _read(path, month, columns or {})
    ours = _ours(used, fields, by_day)
    found = []
    for day, model in sorted(ours.keys() | theirs.keys()):
        here, there = ours.get((day, model)), theirs.get((day, model))
        what = "missing there" if there is None else "missing here" if here is None else "differs"
        for field in fields:
            one, other = (here or {}).get(field, Decimal(0)), (there or {}).get(field, Decimal(0))
            if abs(other - one) > allowed[field]:
                found.append(Difference(day, model, what, field, one, other))
    return InvoiceCheck(provider, str(month), fields, found, len(ours.keys() | theirs.keys()))


def _ours(used: Iterable[ProviderUsage], fields: tuple[str, ...], by_day: bool) -> dict[Key, Values]:
    sums: dict[Key, Values] = defaultdict(lambda: dict.fromkeys(fields, Decimal(0)))
    for one in used:
        values = sums[one.day if by_day else "", one.model]
        for field in fields:
            values[field] += _usd(one.cost_nano) if field == AMOUNT else getattr(one, field)
    return dict(sums)


def _read(path: Path, month: Month, columns: Mapping[str, str]) -> tuple[dict[Key, Values], tuple[str, ...], bool]:
    """The invoice's sums by day and model, the fields that it has, and whether it has days."""
    unknown = sorted(set(columns) - set(NAMES))
    if unknown:
        raise BadInput(f"columns: {unknown[0]!r} is none of {', '.join(NAMES)}", field="columns")
    if not path.is_file():
        raise BadInput(f"path: there is no file {path}", field="path")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = list(csv.DictReader(file, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadInput(f"path: {path.name} is no CSV in UTF-8: {error}", field="path") from None
    if not rows:
        raise BadInput(f"path: {path.name} has no lines below its header", field="path")
    there = [name for name in rows[0] if name is not None]
    named = {name: columns.get(name, name) for name in NAMES if name in columns or name in there}
    for name, column in named.items():
        if column not in there:
            raise BadInput(
                f"columns: {path.name} has no column {column!r} for {name}; it has {', '.join(there)}", field="columns"
            )
    fields = tuple(name for name in (*COUNTS, AMOUNT) if name in named)
    if "model" not in named or not fields:
        wanted = "model" if "model" not in named else f"any of {', '.join((*COUNTS, AMOUNT))}"
        raise BadInput(
            f"columns: say which column is {wanted}, like columns={{'model': 'Model'}}; there are {', '.join(there)}",
            field="columns",
        )
    sums: dict[Key, Values] = defaultdict(lambda: dict.fromkeys(fields, Decimal(0)))
    for number, row in enumerate(rows, 2):
        day = _day(row, named["day"], number, month) if "day" in named else ""
        values = sums[day, _cell(row, named["model"], number)]
        for field in fields:
            values[field] += _number(row, named[field], number, whole=field != AMOUNT)
    return dict(sums), fields, "day" in named


def _cell(row: Mapping[str, Any], column: str, number: int) -> str:
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        raise BadInput(
            f"row {number}, column {column!r}: is empty; fill it in, or remove the row (is it a sum?)", field=column
        )
    return text.strip()


def _day(row: Mapping[str, Any], column: str, number: int, month: Month) -> str:
    text = _cell(row, column, number)
    try:
        day = date.fromisoformat(text[:10])
    except ValueError:
        raise BadInput(f"row {number}, column {column!r}: {text!r} is no day like {month}-01", field=column) from None
    if (day.year, day.month) != (month.year, month.month):
        raise BadInput(
            f"row {number}, column {column!r}: {text} is not in {month}; give the invoice's month", field=column
        )
    return day.isoformat()


def _number(row: Mapping[str, Any], column: str, number: int, *, whole: bool) -> Decimal:
    text = _cell(row, column, number)
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or (whole and value != int(value)):
        kind = "whole number like 1200" if whole else "amount like 12.50, without currency or thousands separators"
        raise BadInput(f"row {number}, column {column!r}: {text!r} is no {kind}", field=column)
    return value


def _tolerance(value: str | int | Decimal) -> Decimal:
    try:
        tolerance = Decimal(value) if not isinstance(value, float | bool) else Decimal("NaN")
    except InvalidOperation:
        tolerance = Decimal("NaN")
    if not tolerance.is_finite() or tolerance < 0:
        raise BadInput(
            f'tolerance_usd: must be a decimal text of at least 0 like "0.01", got {value!r}', field="tolerance_usd"
        )
    return tolerance
