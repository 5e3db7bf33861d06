"""Owns PDF documents: a title, facts and tables, set by Typst from `document.typ`. The same content is the same bytes.

Typst was chosen over WeasyPrint and ReportLab: it works offline in one self-contained package, takes a fraction of a second
for pages of tables, repeats their headers, takes its date and ids from the document alone, and tags the PDF for screen readers.
The type is Libertinus Serif (SIL Open Font License 1.1), which stands in the package; no font of the machine is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import msgspec

from ops.table_files import decimal_credits, need, new_file

_TEMPLATE = Path(__file__).with_name("document.typ")


class TextColumn(msgspec.Struct, frozen=True):
    """`wide` takes what room is left; `number` stands to the right."""

    name: str
    wide: bool = False
    number: bool = False


class TextTable(msgspec.Struct, frozen=True):
    """Rows of ready texts. A row whose first cell is empty is a sum, set in bold."""

    title: str
    columns: tuple[TextColumn, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


class Document(msgspec.Struct, frozen=True):
    """`mark` is written large behind the text, like "provisional"; `dated` is what the file says of its making."""

    brand: str
    subject: str
    title: str
    subtitle: str
    footer: str
    dated: date
    facts: Sequence[tuple[str, str]]
    tables: Sequence[TextTable]
    mark: str = ""


def write_pdf(document: Document, path: Path) -> None:
    """Raises BadInput for a path that cannot be written, SetupError when Typst is not installed."""
    typst = need("typst")
    given = msgspec.to_builtins(document)
    given["dated"] = [document.dated.year, document.dated.month, document.dated.day]
    pdf = typst.compile(
        _TEMPLATE.read_bytes(), sys_inputs={"document": msgspec.json.encode(given).decode()}, ignore_system_fonts=True
    )
    with new_file(path) as written:
        written.write_bytes(pdf)


def credits_shown(nano: int) -> str:
    """Credits with thousands parted and all nine decimals, so that columns stand and add up."""
    return f"{decimal_credits(nano):,.9f}"
