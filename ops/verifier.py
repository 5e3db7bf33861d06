"""Owns verifying a billing export without a database: every line's charge is worked out anew from its tokens and price.

    python -m ops.verify november.csv                      # exit 0 when all is well, else 1 and what is wrong
    ops.verify_export("november.parquet", digest="…")      # the digest that was noted when the export was made

Found and named: a digit changed anywhere in a line, a line removed, added or moved, a total, a price or the manifest changed.
A forger who recomputes everything, manifest included, is found only by a `digest` that was kept elsewhere.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from models.errors import BadInput
from models.ids import to_us
from models.prices import NANO_PER_CREDIT, Meters, PriceVersion
from models.spreadsheets import read_text
from ops.month_files import COLUMNS, FORMAT, HASHED, Manifest, Total, file_hash, first_check, manifest_path, next_check
from ops.table_files import decimal_credits, moment_text, need, plain

SHOWN = 50
_NAMES = [column.name for column in COLUMNS]
_WHOLE = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
_METERS = ("fresh_tokens", "cached_tokens", "cache_write_tokens", "output_tokens")


class Verdict(msgspec.Struct, frozen=True):
    """Whether an export is what was made. `faults` spells out the first of what is wrong, by line; line 1 is the first."""

    file: str
    month: str
    closed: bool
    lines: int
    ok: bool
    faults: tuple[str, ...]
    digest: str

    def __repr__(self) -> str:
        state = "" if self.closed else " (provisional: the month was not closed)"
        head = f"{self.file}: {self.month}{state}, {self.lines:,} lines, digest {self.digest}"
        return "\n".join([head, *(self.faults or ["every line is its tokens × its price, and all is as it was made"])])


def verify_export(path: str | Path, *, digest: str | None = None) -> Verdict:
    """Check a month's export (`.csv`, `.xlsx` or `.parquet`) with the manifest beside it. Reads only, and no database.

    Raises BadInput when there is no such file or no manifest.
    """
    file = Path(path)
    manifest = _manifest(file)
    faults = _Faults()
    if digest is not None and digest.strip().lower() != manifest.right_digest:
        faults.add("the manifest is not the one whose digest was noted")
    if manifest.digest != manifest.right_digest:
        faults.add("the manifest was changed: it does not have its own digest")
    count = 0
    try:
        count = _check_lines(_read(file), manifest, faults)
    except BadInput:
        raise
    except Exception as error:
        # Whatever the format's library says of a file that is broken.
        faults.add(f"the file cannot be read to its end: {type(error).__name__}: {error}")
    if not faults.shown and file_hash(file) != manifest.sha256:
        faults.add("the file was changed, though every line reads as it was made")
    return Verdict(
        file.name, manifest.month, manifest.closed, count, not faults.shown, faults.listed(), manifest.right_digest
    )


def _check_lines(lines: Iterable[list[str]], manifest: Manifest, faults: _Faults) -> int:
    prices = {price.version.id: price for price in manifest.prices}
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    count, given, right = 0, first_check(manifest.month), first_check(manifest.month)
    for count, texts in enumerate(lines, 1):
        line = dict(zip(_NAMES, texts, strict=True))
        hashed = [line[column.name] for column in HASHED]
        wrong = _line_fault(line, prices)
        # After a changed check the next line may build on what it should have been.
        checks = [next_check(before, hashed) for before in dict.fromkeys((given, right))]
        if line["check"] not in checks:
            wrong = (
                wrong or "was changed, or does not follow the line before it, because one was removed, added or moved"
            )
        if wrong:
            faults.add(f"line {count} ({line['request_id'] or 'transfer ' + line['transfer_id']}): {wrong}")
        given, right = line["check"], checks[0]
        total = sums[line["kind"]]
        total[0] += 1
        for place, name in ((1, "amount_nano"), (2, "writeoff_nano")):
            total[place] += int(line[name]) if _WHOLE.fullmatch(line[name]) else 0
    if not faults.shown and given != manifest.last_check:
        faults.add(f"lines are missing at the end, after line {count}")
    if not faults.shown and {kind: Total(*total) for kind, total in sums.items()} != manifest.totals:
        faults.add("the totals in the manifest are not those of the lines")
    return count


def _line_fault(line: dict[str, str], prices: dict[int, Any]) -> str | None:
    """What is wrong with a line in itself."""
    for column in COLUMNS:
        if column.kind == "whole" and line[column.name] and not _WHOLE.fullmatch(line[column.name]):
            return f"{column.name} is {line[column.name]!r}, which is no whole number"
    if not line["amount_nano"] or not line["writeoff_nano"]:
        return "has no amount"
    amount_nano = int(line["amount_nano"])
    if Decimal(line["amount_credits"] or 0) != decimal_credits(amount_nano):
        return f"amount_credits is {line['amount_credits']}, but amount_nano is {amount_nano}"
    if line["kind"] != "charge" or not line["estimated"]:
        return None
    price = prices.get(int(line["price_version"] or 0))
    if price is None or price.model != line["model"]:
        return f"price_version {line['price_version']} is no price of {line['model']} in the manifest"
    return _charge_fault(line, price.version, int(line["writeoff_nano"]) - amount_nano)


def _charge_fault(line: dict[str, str], version: PriceVersion, asked_nano: int) -> str | None:
    if line["estimated"] == "true":
        over = asked_nano - int(line["ceiling_nano"] or 0)
        return f"was estimated {over} nano-credits above its ceiling" if over > 0 else None
    try:
        requested_us = to_us(datetime.fromisoformat(line["requested_at"]))
    except ValueError:
        return f"requested_at is {line['requested_at']!r}, which is no moment"
    if requested_us < version.effective_us:
        return f"price_version {version.id} was not in force at {line['requested_at']}"
    right_nano = version.charge_nano(Meters(*(int(line[name] or 0) for name in _METERS)), requested_us)
    return None if asked_nano == right_nano else f"was charged {asked_nano} nano-credits, its tokens cost {right_nano}"


class _Faults:
    """The first of them are spelled out, the others counted."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self._more = 0

    def add(self, text: str) -> None:
        if len(self.shown) < SHOWN:
            self.shown.append(text)
        else:
            self._more += 1

    def listed(self) -> tuple[str, ...]:
        return (*self.shown, f"and {self._more} more") if self._more else tuple(self.shown)


# ── reading the files back as exact texts ─────────────────────────────────────────────────────────────────────────


def _manifest(path: Path) -> Manifest:
    beside = manifest_path(path)
    for file in (path, beside):
        if not file.is_file():
            raise BadInput(
                f"path: there is no file {file}; an export and its manifest stand side by side", field="path"
            )
    try:
        manifest = msgspec.json.decode(beside.read_bytes(), type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInput(f"path: {beside} is not the manifest of an export: {error}", field="path") from None
    if manifest.format != FORMAT:
        raise BadInput(f"path: {beside} is of the format {manifest.format!r}, not {FORMAT}", field="path")
    return manifest


def _read(path: Path) -> Iterator[list[str]]:
    readers = {".csv": _read_csv, ".xlsx": _read_xlsx, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"path: {path.name} must end with .csv, .xlsx or .parquet", field="path")
    return reader(path)


def _read_csv(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        _check_header(next(rows, []), path)
        for row in rows:
            yield _unquoted(row, path)


def _read_xlsx(path: Path) -> Iterator[list[str]]:
    book = need("python_calamine").CalamineWorkbook.from_path(str(path))
    for name in book.sheet_names:
        rows = book.get_sheet_by_name(name).iter_rows()
        _check_header([str(cell) for cell in next(rows, [])], path)
        for row in rows:
            yield _unquoted([_cell(cell, column.kind) for cell, column in zip(row, COLUMNS, strict=False)], path)


def _cell(cell: Any, kind: str) -> str:
    if kind == "credits":
        # A number for the eye: what it was made from is what counts.
        return f"{decimal_credits(round(cell * NANO_PER_CREDIT)):f}" if isinstance(cell, float | int) else str(cell)
    if isinstance(cell, bool):
        return plain(cell, "flag")
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _read_parquet(path: Path) -> Iterator[list[str]]:
    file = need("pyarrow.parquet").ParquetFile(path)
    _check_header(file.schema_arrow.names, path)
    for batch in file.iter_batches(batch_size=20_000):
        columns = []
        for column, values in zip(COLUMNS, batch.columns, strict=True):
            if column.kind == "moment":
                columns.append(["" if us is None else moment_text(us) for us in values.cast("int64").to_pylist()])
            elif column.kind == "credits":
                columns.append(["" if one is None else f"{one:f}" for one in values.to_pylist()])
            else:
                columns.append([plain(one, column.kind) for one in values.to_pylist()])
        yield from map(list, zip(*columns, strict=True))


def _check_header(found: list[str], path: Path) -> None:
    if found != _NAMES:
        _not_ours(path, f"its columns are {', '.join(found)[:200]}")


def _unquoted(row: list[str], path: Path) -> list[str]:
    if len(row) != len(_NAMES):
        _not_ours(path, f"a line has {len(row)} cells, not {len(_NAMES)}")
    texts = zip(row, COLUMNS, strict=True)
    return [read_text(cell) if column.kind == "text" else cell for cell, column in texts]


def _not_ours(path: Path, why: str) -> NoReturn:
    raise BadInput(f"path: {path.name} is not a month's export: {why}", field="path")
