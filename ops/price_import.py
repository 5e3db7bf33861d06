"""Owns price lists from a file or a frame: reading their rows into prices, and the preview that publishes them all at once.

A list has a row per model, and further rows for its tiers (`above_tokens`) and its hours of the UTC day (`start`, `end`, in
which a row with `above_tokens` is a tier of those hours). Prices are USD per million tokens.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pandas as pd

from models.errors import BadInput, NotFound
from models.price_terms import price_from_usd
from models.prices import PriceVersion, rate_from_usd, rate_to_usd
from ops.frames import EXACT, frame, moment_us
from ops.price_lines import HEAD
from ops.proposals import Proposal, draw_up, publish_together
from ops.replay import Replay, replay_prices
from ops.shown import html_list, html_table, plural, text_table
from ops.tables import Source, TableRow, read_table

if TYPE_CHECKING:
    from ops.prices import Prices

MOST_ROWS = 10_000
NEEDED = ("model", "input_usd", "output_usd")
RATES = ("input_usd", "output_usd", "cached_input_usd", "cache_write_usd")
KNOWN = ("cached_input_usd", "cache_write_usd", "above_tokens", "start", "end", "effective_from")
_SHOWN = 40
_ROWS = {
    "model": "str",
    "where": "str",
    "meter": "str",
    "old_usd": EXACT,
    "new_usd": EXACT,
    "change": "str",
    "cost_usd": EXACT,
    "margin": "str",
}
_ERRORS = {"row": "Int64", "column": "str", "model": "str", "problem": "str"}


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one cell, and what to do about it."""

    row: int
    column: str
    model: str
    text: str


class PriceList:
    """What publishing a price list would do; nothing is published yet.

    `.rows` has a line per meter, old and new; `.proposals` one per model whose price changes; `.unchanged` names the others.
    `.errors` names each wrong cell and the remedy: while there are any, nothing can be published.
    """

    def __init__(self, catalog: Prices, proposals: Sequence[Proposal], problems: Sequence[Problem]) -> None:
        self._catalog = catalog
        self._problems = list(problems)
        self._published: list[PriceVersion] | None = None
        self.proposals = [proposal for proposal in proposals if not proposal.is_unchanged]
        self.unchanged = [proposal._draft.model for proposal in proposals if proposal.is_unchanged]

    @property
    def rows(self) -> pd.DataFrame:
        return frame((_row(p._draft.model, line) for p in self.proposals for line in p.lines), _ROWS)

    @property
    def errors(self) -> pd.DataFrame:
        return frame(({**msgspec.structs.asdict(p), "problem": p.text} for p in self._problems), _ERRORS)

    @property
    def warnings(self) -> list[str]:
        return [f"{p._draft.model}: {warning}" for p in self.proposals for warning in p.warnings]

    def publish(self, *, reason: str, accept_warnings: bool = False) -> list[PriceVersion]:
        """Publish every changed price in one transaction, or none; again returns the same versions.

        Raises BadInput while any cell is wrong, NeedsConfirmation while warnings are not accepted, and Conflict when one of
        the models got another price since the list was read.
        """
        if self._problems:
            others = f" (and {len(self._problems) - 1} more, see .errors)" if len(self._problems) > 1 else ""
            first = self._problems[0]
            raise BadInput(f"{first.text}{others}; nothing was published", field=first.column)
        if self._published is None:
            self._published = publish_together(self._catalog, self.proposals, reason, accept_warnings)
        return self._published

    def replay(self, days: int = 30) -> Replay:
        """What the requests of the last `days` for the changed models were billed, and would have been under the list."""
        prices = {proposal._draft.model: proposal._draft.price for proposal in self.proposals}
        return Replay(self._catalog._read(replay_prices, prices, days))

    def __repr__(self) -> str:
        lines = [self._title, *(f"ERROR: {problem.text}" for problem in self._problems[:_SHOWN])]
        if self.proposals:
            lines += text_table(("model", *HEAD), self._texts, left=3)
        lines += [f"… and {self._left:,} more lines in .rows"] if self._left else []
        return "\n".join([*lines, *(f"WARNING: {warning}" for warning in self.warnings)])

    def _repr_html_(self) -> str:
        errors = html_list(f"Error: {problem.text}" for problem in self._problems[:_SHOWN])
        table = html_table(("model", *HEAD), self._texts) if self.proposals else ""
        left = f"<p>… and {self._left:,} more lines in .rows</p>" if self._left else ""
        warnings = html_list(f"Warning: {warning}" for warning in self.warnings)
        return f"<p><strong>{html.escape(self._title)}</strong></p>{errors}{table}{left}{warnings}"

    @property
    def _title(self) -> str:
        state = "published" if self._published is not None else "not published"
        if self._problems:
            state = f"{plural(len(self._problems), 'error')}: correct the list"
        changed = plural(len(self.proposals), "price")
        return f"{changed} to change, {len(self.unchanged):,} unchanged ({state}); USD per million tokens"

    @property
    def _texts(self) -> list[tuple[str, ...]]:
        return [(p._draft.model, *line.texts) for p in self.proposals for line in p.lines][:_SHOWN]

    @property
    def _left(self) -> int:
        return max(0, sum(len(proposal.lines) for proposal in self.proposals) - _SHOWN)


def read_price_list(catalog: Prices, source: Source, effective_from: object = None) -> PriceList:
    """The preview of a list. Raises BadInput when it is no table of prices at all; wrong cells are listed as errors."""
    begins_us = moment_us(effective_from, field="effective_from")
    by_model: dict[str, list[TableRow]] = {}
    for row in read_table(source, needed=NEEDED, known=KNOWN, most=MOST_ROWS):
        by_model.setdefault(row["model"], []).append(row)
    proposals, problems = [], list[Problem]()
    for model, rows in by_model.items():
        found = _cell_problems(model, rows)
        if not found:
            outcome = _propose(catalog, model, rows, begins_us)
            if isinstance(outcome, Proposal):
                proposals.append(outcome)
            else:
                found = [outcome]
        problems += found
    return PriceList(catalog, proposals, sorted(problems, key=lambda problem: (problem.row, problem.column)))


def _propose(catalog: Prices, model: str, rows: Sequence[TableRow], begins_us: int | None) -> Proposal | Problem:
    terms, places = _terms(rows)
    base = places[""]
    try:
        price = price_from_usd(**terms)
        own_us = moment_us(base["effective_from"] or None, field="effective_from")
        return Proposal(catalog, catalog._read(draw_up, model, price, begins_us if own_us is None else own_us))
    except NotFound:
        remedy = "add it first with desk.catalog.add_model, or correct its name"
        return _problem(base, "model", f"there is no model {model!r}; {remedy}")
    except BadInput as error:
        place, _, column = (error.field or "").rpartition(".")
        row = places.get(error.field or "") or places.get(place) or base
        columns = {"tiers": "above_tokens", "windows": "start"}
        if column not in (*NEEDED, *KNOWN):
            column = columns.get(re.sub(r"\[\d+\]$", "", column), "model")
            row = places.get(f"last {place}".strip(), row) if column == "above_tokens" else row
        text = re.sub(
            r"windows\[\d+\]",
            lambda found: f"the hours of row {places[found[0]].number}",
            str(error).removeprefix(f"{error.field}: "),
        )
        return _problem(row, column, text)


def _terms(rows: Sequence[TableRow]) -> tuple[dict[str, Any], dict[str, TableRow]]:
    """What `price_from_usd` takes, and the row of each field that it may name; "" is the row of the model itself."""
    places: dict[str, TableRow] = {}
    windows: dict[tuple[str, str], list[TableRow]] = {}
    for row in rows:
        windows.setdefault((row["start"], row["end"]), []).append(row)
    terms = _tiered(windows.pop(("", "")), "", places)
    terms["windows"] = [
        {"start": start, "end": end} | _tiered(own, f"windows[{n}]", places)
        for n, ((start, end), own) in enumerate(windows.items())
    ]
    return terms, places


def _tiered(rows: Sequence[TableRow], where: str, places: dict[str, TableRow]) -> dict[str, Any]:
    base, *further = sorted(rows, key=lambda row: int(row["above_tokens"] or 0))
    places[where] = base
    terms: dict[str, Any] = _rates(base)
    terms["tiers"] = []
    for n, row in enumerate(further):
        places[f"{where}.tiers[{n}]".removeprefix(".")] = places[f"last {where}".strip()] = row
        terms["tiers"].append({"above_tokens": int(row["above_tokens"])} | _rates(row))
    return terms


def _rates(row: TableRow) -> dict[str, str]:
    return {name: row[name] for name in RATES if row[name]}


def _cell_problems(model: str, rows: Sequence[TableRow]) -> list[Problem]:
    """What is wrong with single cells, all of it at once."""
    found: list[Problem] = []
    first: dict[tuple[str, str, int], TableRow] = {}
    for row in rows:
        if not model:
            found.append(_problem(row, "model", "is empty; name the model that the row prices"))
        for column in RATES:
            if row[column] or column in NEEDED:
                found += _rate_problem(row, column)
        if not re.fullmatch(r"[0-9]{0,9}", row["above_tokens"]):
            text = f"must be a whole number of input tokens like 128000, got {row['above_tokens']!r}"
            found.append(_problem(row, "above_tokens", text))
            continue
        if bool(row["start"]) != bool(row["end"]):
            column = "end" if row["start"] else "start"
            found.append(_problem(row, column, 'is empty; hours need both start and end, like "16:30" and "00:30"'))
        above = int(row["above_tokens"] or 0)
        if row["effective_from"] and (above or row["start"]):
            text = "belongs into the row of the model itself, not of a tier or of hours"
            found.append(_problem(row, "effective_from", text))
        other = first.setdefault((row["start"], row["end"], above), row)
        if other is not row:
            column = "above_tokens" if above else "model"
            found.append(_problem(row, column, f"prices the same as row {other.number} does; remove one of them"))
    for start, end, above in list(first):
        if above and (start, end, 0) not in first:
            row = first[start, end, above]
            found.append(_problem(row, "above_tokens", "has no row without above_tokens to stand beside; add that"))
    if not found and ("", "", 0) not in first:
        found.append(
            _problem(rows[0], "start", "prices hours of a model that has no row for the rest of the day; add one")
        )
    return found


def _rate_problem(row: TableRow, column: str) -> list[Problem]:
    if not row[column]:
        return [_problem(row, column, 'is empty; give USD per million tokens, like "0.27"')]
    try:
        rate_from_usd(row[column], field=column)
    except BadInput as error:
        return [_problem(row, column, str(error).removeprefix(f"{column}: "))]
    return []


def _problem(row: TableRow, column: str, text: str) -> Problem:
    return Problem(row.number, column, row["model"], f"{row.where(column)}: {text}")


def _row(model: str, line: Any) -> Mapping[str, Any]:
    rates = {"old_usd": line.old, "new_usd": line.new, "cost_usd": line.cost}
    return {
        "model": model,
        "where": line.where,
        "meter": line.meter,
        "change": line.percent,
        "margin": line.margin,
        **{name: None if rate is None else rate_to_usd(rate) for name, rate in rates.items()},
    }
