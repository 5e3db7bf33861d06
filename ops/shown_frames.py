"""Owns how a frame of the desk looks in a notebook: texts to the left, thousands set apart, moments short, nothing cut off.

It stays a data frame in everything else: what is computed with it, its text in a terminal, and what is written to files.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pandas as pd

MOST_ROWS, KEPT_ROWS = 60, 20
# Whole numbers that name something; the others count.
_NAMES = ("id", "_id", "number", "version", "status")


class Table(pd.DataFrame):
    """A data frame with a look of its own in a notebook."""

    @property
    def _constructor(self) -> Callable[..., Table]:
        return Table

    def _repr_html_(self) -> str:
        if not self.columns.is_unique or self.columns.nlevels > 1:
            return str(pd.DataFrame(self).to_html())
        rows = self if len(self) <= MOST_ROWS else self.head(KEPT_ROWS)
        columns = [*_of_rows(rows.index), *(_Column(str(name), rows[name]) for name in rows.columns)]
        lines = zip(*(column.cells for column in columns), strict=True)
        head = "".join(column.cell("th", column.name) for column in columns)
        body = "".join(
            f"<tr>{''.join(column.cell('td', text) for column, text in zip(columns, line, strict=True))}</tr>"
            for line in lines
        )
        shown = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        if not len(self):
            return shown + "<p>(no rows)</p>"
        return shown if len(self) <= MOST_ROWS else f"{shown}<p>The first {len(rows)} of {len(self):,} rows.</p>"


class _Column:
    def __init__(self, name: str, values: pd.Series[Any]) -> None:
        self.name = f"{name} (UTC)" if isinstance(values.dtype, pd.DatetimeTZDtype) else name
        self.cells = _texts(name, values)
        self._side = "left" if any(isinstance(value, str) for value in values) else "right"

    def cell(self, tag: str, text: str) -> str:
        return f'<{tag} style="text-align: {self._side}">{html.escape(text)}</{tag}>'


def _of_rows(index: pd.Index[Any]) -> list[_Column]:
    """What rows are called, if they are not merely numbered."""
    names = ["" if name is None else str(name) for name in index.names]
    if names == [""] and pd.api.types.is_integer_dtype(index):
        return []
    return [_Column(name, index.get_level_values(level).to_series()) for level, name in enumerate(names)]


def _texts(name: str, values: pd.Series[Any]) -> list[str]:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        dates = values.dropna()
        form = "%Y-%m-%d" if (dates == dates.dt.normalize()).all() else "%Y-%m-%d %H:%M:%S"
        return ["" if pd.isna(value) else f"{value:{form}}" for value in values]
    grouped = name != "" and not name.endswith(_NAMES)
    return [_text(value, grouped) for value in values]


def _text(value: Any, grouped: bool) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if pd.isna(value):
        return ""
    if isinstance(value, Decimal):
        return f"{value:,f}"
    if grouped and pd.api.types.is_number(value):
        return f"{value:,}"
    return str(value)
