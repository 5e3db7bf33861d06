"""Owns reading the tables that people keep, CSV, XLSX or a frame, into texts that know the cell they came from.

A cell is what it shows: a number of a workbook counts as its shortest decimal, 0.27 and not 0.270000000000000018, and must be
as exact as a typed one. Rows are numbered as a spreadsheet numbers them: the header is row 1. A frame's first row is row 2.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from models.errors import BadInput, SetupError

Source = str | PathLike[str] | pd.DataFrame


class TableRow(msgspec.Struct, frozen=True):
    """A row's number, its cells as texts by column ("" where it has none), and the spreadsheet's letter of each column."""

    number: int
    cells: dict[str, str]
    letters: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def where(self, column: str) -> str:
        """As people find it: `row 3, column input_usd (C3)`."""
        letter = self.letters.get(column)
        return f"row {self.number}, column {column}" + (f" ({letter}{self.number})" if letter else "")


def read_table(source: Source, *, needed: Sequence[str], known: Sequence[str], most: int) -> list[TableRow]:
    """The rows that are not blank. Raises BadInput when the table itself is not as it should be, naming what is known."""
    grid = _grid(source)
    if not grid:
        raise BadInput("rows: the table is empty; its first row must name the columns", field="rows")
    names = ["_".join(text.lower().split()) for text in map(_text, grid[0])]
    columns = [name for name in names if name]
    missing, strange = [n for n in needed if n not in columns], [n for n in columns if n not in (*needed, *known)]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    for wrong, said in ((missing, "are missing"), (strange, "are not known"), (twice, "stand there twice")):
        if wrong:
            listed = ", ".join((*needed, *known))
            raise BadInput(f"columns: {', '.join(wrong)} {said}; the first row may name {listed}", field="columns")
    letters = {name: _letter(n) for n, name in enumerate(names) if name}
    rows = []
    for number, line in enumerate(grid[1:], 2):
        texts = [_text(value) for value in line]
        if any(texts[len(names) :]):
            raise BadInput(f"row {number}: has more cells than the first row has columns", field="rows")
        cells = {name: text for name, text in zip(names, texts, strict=False) if name}
        if any(cells.values()):
            rows.append(TableRow(number, cells, letters))
    if not 1 <= len(rows) <= most:
        raise BadInput(f"rows: must be 1 to {most:,}, got {len(rows):,}", field="rows")
    return rows


def _grid(source: Source) -> list[Sequence[Any]]:
    if isinstance(source, pd.DataFrame):
        return [list(source.columns), *source.itertuples(index=False, name=None)]
    path = Path(source)
    try:
        return _workbook(path) if path.suffix.lower() in (".xlsx", ".xlsm", ".xls", ".ods") else _csv(path)
    except OSError as error:
        raise BadInput(f"file: {path} cannot be read: {error.strerror or error}", field="file") from None


def _csv(path: Path) -> list[Sequence[Any]]:
    try:
        # A spreadsheet may put a mark before the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            grid: list[Sequence[Any]] = list(csv.reader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"file: {path} is not a CSV file in UTF-8: {error}; save it as one", field="file") from None
    if grid and len(grid[0]) == 1 and ";" in grid[0][0]:
        raise BadInput(f"file: {path} separates with semicolons; save it with commas", field="file")
    return grid


def _workbook(path: Path) -> list[Sequence[Any]]:
    try:
        import python_calamine as calamine
    except ImportError:
        raise SetupError('a workbook needs a package: pip install "supertomorrow-gateway[notebooks]"') from None
    try:
        with path.open("rb") as file:
            sheet = calamine.CalamineWorkbook.from_filelike(file).get_sheet_by_index(0)
            return list(sheet.to_python(skip_empty_area=False))
    except calamine.CalamineError as error:
        raise BadInput(f"file: {path} is not a workbook that can be read: {error}", field="file") from None


def _text(value: Any) -> str:
    """What a cell shows."""
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(float(value))
    if isinstance(value, datetime):
        # A workbook knows no zones: a day is a day, a time of day has to be written as text.
        return value.isoformat() if value.tzinfo or value.time() != time() else value.date().isoformat()
    if isinstance(value, time):
        return value.strftime("%H:%M")
    if isinstance(value, date):
        return value.isoformat()
    return f"{value:f}" if isinstance(value, Decimal) else str(value).strip()


def _letter(n: int) -> str:
    return (_letter(n // 26 - 1) if n >= 26 else "") + chr(ord("A") + n % 26)
