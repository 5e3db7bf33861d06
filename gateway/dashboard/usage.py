"""Owns the usage explorer: requests by filter, their sums and chart, receipts, and the export of exactly what is filtered."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

import msgspec
from sanic.response import HTTPResponse

from gateway.dashboard import charts
from gateway.dashboard.pages import Pages, mistakes
from gateway.dashboard.visits import Visit
from models.errors import BadInput
from models.explorer import UsageRecord, receipt, usage_page, usage_pages
from models.ids import DAY_US, to_datetime
from models.keys import key_rows
from models.prices import credits_text
from models.spend import Sums, spend_by
from models.spreadsheets import Number, csv_lines
from models.usage import UsageFilter

pages = Pages("usage")
_DAYS = 30
_SIZE = 50
_EPOCH = date(1970, 1, 1)
# No id has so many.
_ID_DIGITS = 19
_METERS = {"fresh": "Input", "cached": "Cached input", "written": "Cache write", "output": "Output"}
_FIELDS = ("since", "until", "model", "key", "outcome", "counts", "by", "show")
_COLUMNS = (
    "request_id", "time_utc", "key_id", "key", "model", "outcome", "streamed", "estimated", "input_tokens",
    "cached_input_tokens", "cache_write_tokens", "output_tokens", "credits", "first_byte_ms", "total_ms",
)  # fmt: skip


class Measure(msgspec.Struct, frozen=True):
    """What a chart shows."""

    title: str
    unit: str

    def of(self, sums: Sums) -> int:
        if self.unit == "credits":
            return sums.charge_nano
        if self.unit == "tokens":
            return sums.fresh_tokens + sums.cached_tokens + sums.cache_write_tokens + sums.output_tokens
        return sums.requests

    def text(self, value: int) -> str:
        return credits_text(value) if self.unit == "credits" else str(value)


_MEASURES = {unit: Measure(unit.capitalize(), unit) for unit in ("credits", "tokens", "requests")}


@pages.page("/usage")
async def show_usage(visit: Visit) -> HTTPResponse:
    form = {name: visit.query.get(name, "").strip() for name in _FIELDS}
    keys, models = await _choices(visit)
    today = to_datetime(visit.at_us).date()
    shown: dict[str, Any] = {"form": form, "keys": keys, "models": models, "today": today.isoformat(), "errors": {}}
    shown["spans"] = _spans(form, today)
    try:
        only = filter_of(form, today)
        form |= {"since": _iso_day(only.since_us), "until": _iso_day((only.until_us or 1) - 1)}
        page = await usage_page(
            visit.database, visit.me.account_id, only, before=visit.query.get("before") or None, size=_SIZE
        )
    except BadInput as error:
        days = mistakes(form, since=partial(_day, field="since"), until=partial(_day, field="until"))
        shown["errors"] = days | {error.field or "since": str(error)}
        return visit.render("usage.html", status=422, **shown)
    by = "key" if form["by"] == "key" else "model"
    measure = _MEASURES.get(form["show"], _MEASURES["credits"])
    groups = await spend_by(visit.database, ("day", by), only, account_id=visit.me.account_id)
    since_us, until_us = only.since_us or 0, only.until_us or visit.at_us
    chart = charts.by_day(
        groups, by, since_us=since_us, until_us=until_us, unit=measure.unit, amount=measure.of, text=measure.text
    )
    asked = {name: value for name, value in form.items() if value}
    return visit.render(
        "usage.html",
        sums=_add(group.sums for group in groups),
        chart=chart,
        chart_title=f"{measure.title} by day and {by}",
        rows=page.records,
        is_deep="before" in visit.query,
        first_address=_address("/usage", asked),
        next_address=_address("/usage", asked | {"before": page.next}) if page.next else None,
        csv_address=_address("/usage.csv", asked),
        **shown,
    )


@pages.page("/usage/<request_id:str>")
async def show_receipt(visit: Visit, request_id: str) -> HTTPResponse:
    """Tokens by meter × price version = credits, of a request of this account."""
    found = await receipt(visit.database, visit.me.account_id, request_id)
    return visit.render("receipt.html", receipt=found, METERS=_METERS)


@pages.page("/usage.csv")
async def export(visit: Visit) -> HTTPResponse | None:
    """Exactly what is filtered, newest first, sent as it is read: an export of any length needs the memory of a page."""
    form = {name: visit.query.get(name, "").strip() for name in _FIELDS}
    only = filter_of(form, to_datetime(visit.at_us).date())
    if only.until_us is None or only.until_us > visit.at_us:
        # What comes in while it is being sent belongs to the next export.
        only = msgspec.structs.replace(only, until_us=visit.at_us)
    name = f"usage-{to_datetime(visit.at_us):%Y%m%d-%H%M%S}.csv"
    head = visit.finish(HTTPResponse(None, 200, None, "text/csv; charset=utf-8"))
    head.headers["content-disposition"] = f'attachment; filename="{name}"'
    batches = usage_pages(visit.database, visit.me.account_id, only)
    # Before the answer begins, so that a filter that cannot be meant, or no database, is still said as such.
    records: list[UsageRecord] = await anext(batches, [])
    if visit.request.method == "HEAD":
        return head
    response = await visit.request.respond(status=200, headers=dict(head.headers), content_type=head.content_type)
    assert response is not None
    await response.send(csv_lines([_COLUMNS]))
    while records:
        await response.send(csv_lines(_line(record) for record in records))
        # Other requests have their turn between two pages, however fast the reader is.
        await asyncio.sleep(0)
        records = await anext(batches, [])
    await response.eof()
    return None


def filter_of(form: dict[str, str], today: date) -> UsageFilter:
    """The filter of a form: days are UTC, both included; without days, the last thirty. Raises BadInput by field."""
    until = _day(form["until"], field="until") or today
    since = _day(form["since"], field="since") or until - timedelta(days=_DAYS - 1)
    if since > until:
        raise BadInput("The first day is after the last one; choose an earlier one.", field="since")
    if form["key"] and not (form["key"].isascii() and form["key"].isdecimal() and len(form["key"]) < _ID_DIGITS):
        raise BadInput("Choose a key from the list.", field="key")
    return UsageFilter(
        since_us=(since - _EPOCH).days * DAY_US,
        until_us=((until - _EPOCH).days + 1) * DAY_US,
        models=(form["model"],) if form["model"] else (),
        keys=(int(form["key"]),) if form["key"] else (),
        outcome=form["outcome"] or None,
        estimated={"estimated": True, "exact": False}.get(form["counts"]),
    )


def _iso_day(at_us: int | None) -> str:
    return to_datetime(at_us or 0).date().isoformat()


def _day(text: str, *, field: str) -> date | None:
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or not 1970 <= day.year < 2200:
        raise BadInput(f"{text!r} is not a day; write it like 2026-11-25.", field=field)
    return day


async def _choices(visit: Visit) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The account's keys, and every alias that one of them may call or that can be called now."""
    rows = await key_rows(visit.database, visit.me.email)
    aliases = {alias for row in rows for alias in row["models"]} | set(visit.gateway.catalog.snapshot.aliases)
    keys = [(str(row["id"]), f"{row['name']} ({row['hint']})") for row in rows]
    return keys, [(alias, alias) for alias in sorted(aliases)]


def _spans(form: dict[str, str], today: date) -> list[tuple[str, str]]:
    """The usual spans of days, each with the address that shows it by the same filter."""
    firsts = {
        "Today": today,
        "7 days": today - timedelta(days=6),
        "30 days": today - timedelta(days=29),
        "This month": today.replace(day=1),
    }
    asked = {name: value for name, value in form.items() if value}
    return [(name, _address("/usage", asked | {"since": first, "until": today})) for name, first in firsts.items()]


def _add(sums: Any) -> Sums:
    fields = Sums.__struct_fields__
    totals = dict.fromkeys(fields, 0)
    for one in sums:
        for name in fields:
            totals[name] += getattr(one, name)
    return Sums(**totals)


def _address(path: str, asked: dict[str, Any]) -> str:
    return f"{path}?{urlencode(asked)}" if asked else path


def _line(record: UsageRecord) -> tuple[object, ...]:
    return (
        record.request_id,
        to_datetime(record.at_us).isoformat(),
        record.key_id,
        record.key,
        record.model,
        record.outcome,
        int(record.streamed),
        int(record.estimated),
        record.fresh_tokens,
        record.cached_tokens,
        record.cache_write_tokens,
        record.output_tokens,
        Number(credits_text(record.charge_nano)),
        record.first_byte_ms if record.is_answered else None,
        record.total_ms,
    )
