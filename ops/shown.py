"""Owns how values of the desk show themselves: a table as text in a terminal, and as HTML in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> list[str]:
    """Lines of a table, the first `left` columns aligned to the left, the others to the right."""
    listed = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in listed
    ]


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same as HTML; what stands in cells is text, whatever it looks like."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def html_list(items: Iterable[str]) -> str:
    """A list, or nothing when there is nothing to list."""
    entries = "".join(f"<li>{html.escape(item)}</li>" for item in items)
    return f"<ul>{entries}</ul>" if entries else ""


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
