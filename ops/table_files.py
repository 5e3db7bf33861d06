"""Owns writing a table to a file, batch by batch in little memory: CSV, XLSX, Parquet, each exact and each the same twice.

A cell is a Python value of its column's kind; None is an empty cell. Money is exact in every format:

- CSV: whole numbers, and credits as decimals with nine digits behind the point.
- Parquet: 64-bit integers, and credits as decimal128(28, 9).
- XLSX: a spreadsheet's numbers are doubles of which Excel shows 15 digits. A whole number below 10^15 (a million credits in
  nano-credits) is a number, so that it can be added up; a larger one is a text, so that no digit is lost. Credits are numbers
  for the eye, rounded to a double: compute with the nano-credits.

Texts are made safe for spreadsheets in CSV and XLSX (see `models/spreadsheets.py`). Moments are ISO texts with microseconds,
which Excel's dates do not have.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from models.errors import BadInput, SetupError
from models.ids import to_datetime
from models.prices import NANO_PER_CREDIT
from models.spreadsheets import safe_text

Kind: TypeAlias = Literal["moment", "whole", "credits", "text", "flag"]
Row: TypeAlias = Sequence[Any]
EXCEL_ROWS = 1_048_576
EXCEL_EXACT = 10**15


class Column(NamedTuple):
    """`credits` columns are given nano-credits, `moment` columns microseconds."""

    name: str
    kind: Kind


class TableWriter(Protocol):
    """Takes rows; the file is whole after `close`."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


# A path, the columns, and the moment in microseconds that the document says it is of.
Opener: TypeAlias = Callable[[Path, Sequence[Column], int], TableWriter]


def need(module: str, extra: str = "notebooks") -> Any:
    """A module of an extra of ours. Raises SetupError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SetupError(
            f"{module} is missing; install it with: pip install -e '.[{extra}]' -c constraints.txt"
        ) from error


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name to write to; when all went well the file gets its own name at once, and else it is gone."""
    if not path.parent.is_dir():
        raise BadInput(f"path: there is no folder {path.parent}; make it first", field="path")
    if path.is_dir():
        raise BadInput(f"path: {path} is a folder; name a file in it", field="path")
    written = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield written
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def plain(value: Any, kind: Kind) -> str:
    """A value as exact text, the same for every format; an empty cell is empty."""
    if value is None:
        return ""
    if kind == "moment":
        return moment_text(value)
    if kind == "credits":
        return f"{decimal_credits(value):f}"
    if kind == "flag":
        return "true" if value else "false"
    return str(value)


def moment_text(at_us: int) -> str:
    return f"{to_datetime(at_us):%Y-%m-%dT%H:%M:%S.%f}Z"


def decimal_credits(nano: int) -> Decimal:
    """Credits with nine decimals."""
    return Decimal(nano).scaleb(-9)


# ── CSV ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class CsvWriter:
    """UTF-8, a header, lines that end with a line feed."""

    def __init__(self, path: Path, columns: Sequence[Column], dated_us: int = 0) -> None:
        self._kinds = [column.kind for column in columns]
        self._file = path.open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._csv.writerow([column.name for column in columns])

    def write(self, rows: Sequence[Row]) -> None:
        kinds = self._kinds
        self._csv.writerows([[_csv_cell(v, k) for v, k in zip(row, kinds, strict=True)] for row in rows])

    def close(self) -> None:
        self._file.close()


def _csv_cell(value: Any, kind: Kind) -> Any:
    if kind == "whole" or value is None:
        return value
    return safe_text(value) if kind == "text" else plain(value, kind)


# ── XLSX ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class XlsxWriter:
    """One workbook, row by row in constant memory; a sheet that is full is followed by another with the same header."""

    def __init__(
        self, path: Path, columns: Sequence[Column], dated_us: int = 0, *, rows_per_sheet: int = EXCEL_ROWS
    ) -> None:
        self._columns = columns
        self._most = rows_per_sheet
        options = {
            "constant_memory": True,
            "tmpdir": str(path.parent),
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
        }
        self._book = need("xlsxwriter").Workbook(str(path), options)
        # The library writes the time of day otherwise.
        self._book.set_properties({"created": to_datetime(dated_us).replace(tzinfo=None)})
        self._bold = self._book.add_format({"bold": True})
        self._sheets = 0
        self._add_sheet()

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if self._row == self._most:
                self._add_sheet()
            sheet, number = self._sheet, self._row
            for place, value in enumerate(row):
                if value is not None:
                    self._put[place](sheet, number, place, value)
            self._row += 1

    def close(self) -> None:
        self._book.close()

    def _add_sheet(self) -> None:
        self._sheets += 1
        self._sheet = self._book.add_worksheet(f"lines {self._sheets}")
        self._sheet.freeze_panes(1, 0)
        for place, column in enumerate(self._columns):
            width = {"moment": 27, "whole": 16, "credits": 18, "flag": 10}.get(column.kind, 24)
            self._sheet.set_column(place, place, width, self._number(column.kind))
            self._sheet.write_string(0, place, column.name, self._bold)
        self._put = [_XLSX[column.kind] for column in self._columns]
        self._row = 1

    def _number(self, kind: Kind) -> Any:
        return self._book.add_format({"num_format": "0.000000000" if kind == "credits" else "0"})


def _xlsx_whole(sheet: Any, row: int, place: int, value: int) -> None:
    if abs(value) < EXCEL_EXACT:
        sheet.write_number(row, place, value)
    else:
        sheet.write_string(row, place, str(value))


_XLSX: dict[str, Callable[[Any, int, int, Any], None]] = {
    "moment": lambda sheet, row, place, value: sheet.write_string(row, place, moment_text(value)),
    "whole": _xlsx_whole,
    "credits": lambda sheet, row, place, value: sheet.write_number(row, place, value / NANO_PER_CREDIT),
    "text": lambda sheet, row, place, value: sheet.write_string(row, place, safe_text(value)) if value else None,
    "flag": lambda sheet, row, place, value: sheet.write_boolean(row, place, value),
}


# ── Parquet ───────────────────────────────────────────────────────────────────────────────────────────────────────


class ParquetWriter:
    """Compressed row groups of at least `GROUP` rows, but for the last."""

    GROUP = 50_000

    def __init__(self, path: Path, columns: Sequence[Column], dated_us: int = 0) -> None:
        self._arrow = arrow = need("pyarrow")
        types = {
            "moment": arrow.timestamp("us", tz="UTC"),
            "whole": arrow.int64(),
            "credits": arrow.decimal128(28, 9),
            "text": arrow.string(),
            "flag": arrow.bool_(),
        }
        self._kinds = [column.kind for column in columns]
        self._schema = arrow.schema([(column.name, types[column.kind]) for column in columns])
        self._writer = need("pyarrow.parquet").ParquetWriter(str(path), self._schema, compression="zstd")
        self._rows: list[Row] = []

    def write(self, rows: Sequence[Row]) -> None:
        self._rows += rows
        if len(self._rows) >= self.GROUP:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        columns = []
        for values, kind, field in zip(zip(*self._rows, strict=True), self._kinds, self._schema, strict=True):
            exact = [None if v is None else decimal_credits(v) for v in values] if kind == "credits" else values
            columns.append(self._arrow.array(exact, type=field.type))
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))
        self._rows = []


WRITERS: dict[str, Opener] = {"csv": CsvWriter, "xlsx": XlsxWriter, "parquet": ParquetWriter}
