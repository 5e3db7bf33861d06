"""Owns grants from a file or a frame: what its cells mean, and the preview to grant from. Rules: `models/grant_files.py`."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pandas as pd

from models.checks import check_grant_key, check_text
from models.errors import BadInput
from models.grant_files import MOST_LINES, GrantedFile, GrantLine, Planned, grant_lines, plan_grants
from models.prices import nano_from_credits
from ops.frames import EXACT, credits_exact, frame
from ops.tables import Source, TableRow, read_table

if TYPE_CHECKING:
    from ops.credits import Credits

COLUMNS = ("email", "credits", "grant_key")
_ROWS = {"where": "str", "email": "str", "credits": EXACT, "grant_key": "str", "status": "str", "problem": "str"}
_ERRORS = {"where": "str", "column": "str", "problem": "str"}
_TOTALS = {"status": "str", "rows": "Int64", "credits": EXACT}
_SHOWN = 10


class GrantsPreview:
    """What granting a file would do; nothing is granted yet. `.rows`, `.totals` and `.errors` are frames.

    `status` of a row: `new`, `done before`, `needs approval` (above the bound), `waits for approval` (asked for before),
    or `wrong`, and then `problem` names the mistake and the remedy.
    """

    def __init__(self, credits: Credits, lines: Sequence[GrantLine | Planned]) -> None:
        self._credits = credits
        self._lines = [line for line in lines if isinstance(line, GrantLine)]
        fates = iter(credits._read(plan_grants, self._lines, above_nano=credits._above_nano))
        self._planned = [line if isinstance(line, Planned) else next(fates) for line in lines]

    @property
    def rows(self) -> pd.DataFrame:
        """A row per line, in the file's order."""
        return frame((_row(planned) for planned in self._planned), _ROWS)

    @property
    def totals(self) -> pd.DataFrame:
        """Rows and credits of each status."""
        sums: dict[str, list[int]] = {}
        for planned in self._planned:
            total = sums.setdefault(planned.fate, [0, 0])
            total[0] += 1
            total[1] += planned.line.amount_nano
        rows = ({"status": fate, "rows": n, "credits": credits_exact(nano)} for fate, (n, nano) in sums.items())
        return frame(rows, _TOTALS)

    @property
    def errors(self) -> pd.DataFrame:
        """A row per line that is wrong."""
        return frame((_row(planned) for planned in self._planned if planned.problem), _ERRORS)

    def grant(self, *, reason: str) -> GrantedFile:
        """All of it in one transaction, or nothing. Again, it changes nothing: each line counts once by its key.

        Raises BadInput while any line is wrong.
        """
        wrong = [planned for planned in self._planned if planned.problem]
        if wrong:
            first = f"{wrong[0].line.where}: {wrong[0].problem}"
            others = f" (and {len(wrong) - 1} more, see .errors)" if len(wrong) > 1 else ""
            raise BadInput(f"{first}{others}; nothing was granted", field=wrong[0].column)
        return self._credits._write(grant_lines, self._lines, reason=reason, above_nano=self._credits._above_nano)

    def __repr__(self) -> str:
        lines = [self._title]
        for _, row in self.totals.iterrows():
            lines.append(f"  {row['status']}: {row['rows']:,} rows, {row['credits']} credits")
        lines += [f"  {row['where']}: {row['problem']}" for _, row in self.errors.head(_SHOWN).iterrows()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        tables = [self.totals.to_html(index=False)]
        shown = self.rows.astype("object").fillna("")
        tables.append(shown.to_html(index=False, max_rows=2 * _SHOWN))
        if len(self.rows) > 2 * _SHOWN and len(self.errors):
            tables.insert(1, self.errors.to_html(index=False))
        return f"<p><b>{html.escape(self._title)}</b></p>{''.join(tables)}"

    @property
    def _title(self) -> str:
        wrong = sum(planned.problem is not None for planned in self._planned)
        state = f"{wrong:,} of them wrong: correct the file" if wrong else "grant them with .grant(reason=…)"
        return f"{len(self._planned):,} grants, nothing is granted yet; {state}"


def read_lines(source: Source) -> list[GrantLine | Planned]:
    """A line per grant; what cannot be one comes as its problem. Raises BadInput when the table itself is none."""
    return [_line(row) for row in read_table(source, needed=COLUMNS, known=(), most=MOST_LINES)]


def _line(row: TableRow) -> GrantLine | Planned:
    where = f"row {row.number}"
    try:
        for column in COLUMNS:
            if not row[column]:
                raise BadInput(f"{column}: is empty; fill the cell", field=column)
        return GrantLine(
            where,
            email=check_text(row["email"], field="email", most=254),
            amount_nano=_amount_nano(row["credits"]),
            grant_key=check_grant_key(row["grant_key"]),
        )
    except BadInput as error:
        raw = GrantLine(where, row["email"], 0, row["grant_key"])
        return Planned(raw, "wrong", column=error.field, problem=str(error))


def _amount_nano(text: str) -> int:
    try:
        nano = nano_from_credits(text)
    except BadInput as error:
        hint = "; write the decimals after a point" if "," in text else ""
        raise BadInput(f"{error}{hint}", field="credits") from None
    if nano < 1:
        raise BadInput(f"credits: must be above zero, got {text}; to take credits use take_back", field="credits")
    return nano


def _row(planned: Planned) -> dict[str, Any]:
    line = msgspec.structs.asdict(planned.line)
    credits = credits_exact(planned.line.amount_nano) if planned.line.amount_nano else None
    more = {"status": planned.fate, "column": planned.column, "problem": planned.problem, "credits": credits}
    return {**line, **more}
