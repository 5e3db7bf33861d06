"""Owns the files of a month's billing export: its columns, the check that each line carries, and the manifest beside the file.

The check of a line is a hash of its own fields and of the check before it, so a digit that is changed anywhere, a line that
is removed, added or moved is found and named (see `verifier.py`). The manifest `NAME.manifest.json` carries what a reader
without our database needs: the price versions, the totals as the ledger has them, the last check and the file's SHA-256; and
its own `digest`, to be kept elsewhere by whoever must be able to prove later that nothing was exchanged.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from models.database import Database
from models.errors import DomainError
from models.month_lines import MonthLine, MonthTotals, PricedModel, month_lines, month_totals, price_list
from models.months import Month
from ops.frames import EXACT, credits_exact, frame
from ops.table_files import WRITERS, Column, moment_text, new_file, plain

FORMAT = "supertomorrow-billing-export/1"
COLUMNS = (
    Column("at", "moment"),
    Column("kind", "text"),
    Column("account", "text"),
    Column("account_id", "whole"),
    Column("amount_nano", "whole"),
    Column("amount_credits", "credits"),
    Column("writeoff_nano", "whole"),
    Column("request_id", "text"),
    Column("requested_at", "moment"),
    Column("key_id", "whole"),
    Column("key", "text"),
    Column("model", "text"),
    Column("fresh_tokens", "whole"),
    Column("cached_tokens", "whole"),
    Column("cache_write_tokens", "whole"),
    Column("output_tokens", "whole"),
    Column("price_version", "whole"),
    Column("estimated", "flag"),
    Column("ceiling_nano", "whole"),
    Column("transfer_id", "whole"),
    Column("note", "text"),
    Column("check", "text"),
)
# In the order of the columns; `amount_credits` is the same amount again, and the check comes last.
_FIELDS = tuple(
    {"at": "at_us", "requested_at": "requested_us", "amount_credits": "amount_nano"}.get(column.name, column.name)
    for column in COLUMNS[:-1]
)
HASHED = tuple(column for column in COLUMNS[:-1] if column.kind != "credits")


class Total(msgspec.Struct, frozen=True):
    """The lines of one kind."""

    lines: int
    amount_nano: int
    writeoff_nano: int


class Manifest(msgspec.Struct, frozen=True):
    """What stands beside an export. `digest` is the hash of all the rest."""

    format: str
    file: str
    month: str
    closed: bool
    lines: int
    totals: dict[str, Total]
    ledger: MonthTotals
    last_check: str
    sha256: str
    prices: list[PricedModel]
    digest: str = ""

    def frame(self) -> pd.DataFrame:
        """Lines and exact credits of each kind, as the export has them."""
        rows = (
            {
                "kind": kind,
                "lines": total.lines,
                "credits": credits_exact(total.amount_nano),
                "written_off": credits_exact(total.writeoff_nano),
            }
            for kind, total in self.totals.items()
        )
        return frame(rows, {"kind": "str", "lines": "Int64", "credits": EXACT, "written_off": EXACT})

    @property
    def right_digest(self) -> str:
        text = msgspec.json.encode(msgspec.structs.replace(self, digest=""), order="deterministic")
        return hashlib.sha256(text).hexdigest()


class OutOfBalance(DomainError):
    """An export's lines do not add up to the ledger's transfers; nothing was written."""


def first_check(month: str) -> str:
    """What the first line's check builds upon."""
    return hashlib.sha256(f"{FORMAT} {month}".encode()).hexdigest()[:16]


def next_check(before: str, texts: Sequence[str]) -> str:
    """The check of a line whose hashed fields are `texts`. Each is written with its length: no two lines read alike."""
    line = "".join(f"{len(text)}:{text}" for text in texts)
    return hashlib.blake2b(f"{before}{line}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def manifest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.manifest.json")


async def write_month(
    snapshot: Database, month: Month, closed: bool, kind: str, path: Path, told: Callable[[int], None]
) -> Manifest:
    """Write a month to `path` (CSV, XLSX or Parquet) and its manifest beside it; `told` hears of each few thousand lines.

    Either both stand there in the end, or what stood there before. Raises OutOfBalance, and BadInput for a path that cannot be.
    """
    ledger, beside = await month_totals(snapshot, month), manifest_path(path)
    with new_file(path) as written:
        writer = WRITERS[kind](written, COLUMNS, month.end_us)
        try:
            totals, last, used = await _write_lines(month_lines(snapshot, month), str(month), writer.write, told)
        finally:
            writer.close()
        _check_balance(totals, ledger)
        manifest = Manifest(
            format=FORMAT,
            file=path.name,
            month=str(month),
            closed=closed,
            lines=sum(total.lines for total in totals.values()),
            totals=totals,
            ledger=ledger,
            last_check=last,
            sha256=file_hash(written),
            prices=[price for price in await price_list(snapshot) if price.version.id in used],
        )
        manifest = msgspec.structs.replace(manifest, digest=manifest.right_digest)
        # An export beside the manifest of another would look forged: rather none for a moment.
        beside.unlink(missing_ok=True)
    with new_file(beside) as written:
        written.write_bytes(msgspec.json.format(msgspec.json.encode(manifest, order="deterministic")) + b"\n")
    return manifest


async def _write_lines(
    some: AsyncIterator[list[MonthLine]],
    month: str,
    write: Callable[[Sequence[Sequence[Any]]], None],
    told: Callable[[int], None],
) -> tuple[dict[str, Total], str, set[int]]:
    """All of them; returns the totals by kind, the last check and the price versions that were used."""
    check, used = first_check(month), set[int]()
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    async for lines in some:
        rows = []
        for line in lines:
            values = [getattr(line, field) for field in _FIELDS]
            check = next_check(check, _texts(values))
            rows.append([*values, check])
            total = sums[line.kind]
            total[0] += 1
            total[1] += line.amount_nano
            total[2] += line.writeoff_nano
            if line.price_version is not None:
                used.add(line.price_version)
        write(rows)
        told(len(rows))
    return {kind: Total(*total) for kind, total in sorted(sums.items())}, check, used


def _texts(values: Sequence[Any]) -> list[str]:
    return [
        plain(value, column.kind) for value, column in zip(values, COLUMNS, strict=False) if column.kind != "credits"
    ]


def _check_balance(totals: dict[str, Total], ledger: MonthTotals) -> None:
    amount_nano = sum(total.amount_nano for total in totals.values())
    writeoff_nano = sum(total.writeoff_nano for total in totals.values())
    if (amount_nano, writeoff_nano) != (ledger.amount_nano, ledger.writeoff_nano):
        raise OutOfBalance(
            f"the lines add up to {amount_nano} and {writeoff_nano} nano-credits, the ledger's transfers to"
            f" {ledger.amount_nano} and {ledger.writeoff_nano}; nothing was written. Look for the fault with: desk.reconcile()"
        )


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["COLUMNS", "FORMAT", "HASHED", "Manifest", "OutOfBalance", "Total", "moment_text", "write_month"]
