"""Owns text for spreadsheets: CSV lines in which no cell of text can become a formula, and numbers stay numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

# A spreadsheet takes a cell that begins so for a formula, and some formulas run programs or send the sheet away. A text that
# begins with an apostrophe gets another one, so that `read_text` knows which to take away.
_STARTERS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")


def safe_text(text: str) -> str:
    """Text that stays text: an apostrophe goes before what a spreadsheet would take for a formula."""
    return f"'{text}" if text.startswith(_STARTERS) else text


def read_text(cell: str) -> str:
    """The text that `safe_text` was given."""
    return cell[1:] if cell.startswith("'") else cell


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Lines of CSV (RFC 4180, CRLF). Texts are made safe; pass amounts as `Number`, or a negative one would become text."""
    file = io.StringIO()
    csv.writer(file).writerows([safe_text(cell) if type(cell) is str else cell for cell in row] for row in rows)
    return file.getvalue()


class Number(str):
    """The digits of an exact number, such as credits: "-1.5" is no formula."""

    __slots__ = ()
