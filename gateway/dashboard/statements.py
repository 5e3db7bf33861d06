"""Owns monthly statements: a page that prints well, and the same as CSV. What they say is `models/statements.py`."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sanic.response import HTTPResponse

from gateway.dashboard.billing import kind_text
from gateway.dashboard.pages import Pages
from gateway.dashboard.site import aligner
from gateway.dashboard.visits import Visit
from models.errors import BadInput, NotFound
from models.ids import to_datetime
from models.months import Month, parse_month
from models.prices import credits_text
from models.spreadsheets import Number, csv_lines
from models.statements import Line, Statement, month_statement

pages = Pages("statements")
_COLUMNS = ("date_utc", "kind", "model", "requests", "credits", "balance_credits")


@pages.page("/billing/statements/<name:str>")
async def show_statement(visit: Visit, name: str) -> HTTPResponse:
    """`2026-11`, or `2026-11.csv`."""
    month = _month(name.removesuffix(".csv"))
    try:
        statement = await month_statement(visit.database, visit.me.account_id, month)
    except BadInput as error:
        raise NotFound(str(error).removeprefix("month: ").capitalize()) from None
    if name.endswith(".csv"):
        return _csv(visit, statement)
    return visit.render(
        "statement.html",
        statement=statement,
        document=document_id(statement),
        first_us=month.start_us,
        last_us=month.plus(1).start_us - 1,
        sums=_sums(statement),
        aligned=aligner(
            [statement.opening_nano, *(nano for one in statement.lines for nano in (one.amount_nano, one.balance_nano))]
        ),
        contact=visit.site.settings.contact,
        kind_text=kind_text,
    )


def document_id(statement: Statement) -> str:
    """The same for the same account and month, whenever it is asked for."""
    return f"{statement.account_id}-{statement.month}"


def _month(text: str) -> Month:
    try:
        return parse_month(text, field="month")
    except BadInput:
        raise NotFound("There is no such month; statements are listed on the billing page.") from None


def _sums(statement: Statement) -> list[tuple[str, int, int]]:
    """What moved the balance: (what, requests, nano-credits), each kind once, and usage once a model, the most used first."""
    kinds: dict[str, int] = defaultdict(int)
    models: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for line in statement.lines:
        if line.model is None:
            kinds[kind_text(line.kind)] += line.amount_nano
        else:
            models[line.model][0] += line.requests
            models[line.model][1] += line.amount_nano
    used = sorted(models.items(), key=lambda item: (item[1][1], item[0]))
    return [(kind, 0, nano) for kind, nano in kinds.items()] + [(name, count, nano) for name, (count, nano) in used]


def _csv(visit: Visit, statement: Statement) -> HTTPResponse:
    edge: Any = ("", "opening balance", "", "", "", Number(credits_text(statement.opening_nano)))
    end: Any = ("", "closing balance", "", "", "", Number(credits_text(statement.closing_nano)))
    text = csv_lines([_COLUMNS, edge, *map(_row, statement.lines), end])
    name = f"statement-{document_id(statement)}{'' if statement.closed else '-provisional'}.csv"
    response = HTTPResponse(text, 200, None, "text/csv; charset=utf-8")
    response.headers["content-disposition"] = f'attachment; filename="{name}"'
    return visit.finish(response)


def _row(line: Line) -> tuple[object, ...]:
    moment = to_datetime(line.at_us)
    is_day = line.kind == "usage"
    return (
        moment.date().isoformat() if is_day else moment.isoformat(timespec="seconds"),
        kind_text(line.kind),
        line.model or "",
        line.requests if is_day else "",
        Number(credits_text(line.amount_nano)),
        Number(credits_text(line.balance_nano)),
    )
