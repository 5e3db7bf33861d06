"""Owns the first page: what is left, what was spent, how long it lasts, and the last calls as they come in."""

from __future__ import annotations

from typing import Any

from sanic.response import HTTPResponse

from gateway.dashboard import charts, signing
from gateway.dashboard.pages import Pages
from gateway.dashboard.visits import Visit
from models.explorer import usage_page
from models.ids import DAY_US, SECOND_US
from models.keys import key_rows
from models.prices import NANO_PER_CREDIT, credits_text
from models.spend import Overview, overview, spend_by
from models.usage import UsageFilter

pages = Pages("overview")
_CHART_DAYS = 30
_CALLS = 8
_NOTHING = "nothing"
_LOW_NANO, _LOW_DAYS = 5 * NANO_PER_CREDIT, 3


@pages.page("/", public=True)
async def show_overview(visit: Visit) -> HTTPResponse:
    """The sign-in page when signed out. `?part=live` is what a page that stays open asks for again and again."""
    if visit.session is None:
        return await signing.show_sign_in(visit)
    account_id = visit.me.account_id
    now = await overview(visit.database, account_id, visit.at_us)
    calls = await usage_page(visit.database, account_id, size=_CALLS)
    # What a page has seen tells when its chart is out of date, which is dearer to draw than the rest.
    seen = f"{now.this_month.requests}-{visit.at_us // DAY_US}" if calls.records else _NOTHING
    shown: dict[str, Any] = {"now": now, "runway": runway_text(now), "low": _is_low(now), "calls": calls.records}
    shown |= {"seen": seen, "CHART_TITLE": f"Credits spent by day and model, the last {_CHART_DAYS} days"}
    if visit.is_partial and visit.query.get("part") == "live":
        before = visit.query.get("seen")
        if before == _NOTHING != seen:
            # The first call: the steps that led to it make room.
            return visit.redirect("/")
        chart = await _chart(visit) if before != seen else None
        return visit.render("overview_live.html", chart=chart, **shown)
    if calls.records:
        return visit.render("overview.html", chart=await _chart(visit), **shown)
    has_key = any(row["revoked_us"] is None for row in await key_rows(visit.database, visit.me.email))
    takes_payments = visit.gateway.payments is not None
    return visit.render("overview.html", has_key=has_key, takes_payments=takes_payments, **shown)


async def _chart(visit: Visit) -> dict[str, Any]:
    today_us = visit.at_us - visit.at_us % DAY_US
    since_us = today_us - (_CHART_DAYS - 1) * DAY_US
    only = UsageFilter(since_us=since_us)
    return charts.by_day(
        await spend_by(visit.database, ("day", "model"), only, account_id=visit.me.account_id),
        "model",
        since_us=since_us,
        until_us=today_us + DAY_US,
        unit="credits",
        amount=lambda sums: sums.charge_nano,
        text=credits_text,
    )


def runway_text(now: Overview) -> str:
    """For how long the credits last, in words, at the mean of the last seven days."""
    if now.runway_s is None:
        return "–"
    days = now.runway_s * SECOND_US // DAY_US
    if days >= 2:
        return f"{days:,} days" if days <= 1_000 else "over 1,000 days"
    hours = now.runway_s // 3600
    return f"{hours} hours" if hours >= 2 else "under 2 hours"


def _is_low(now: Overview) -> bool:
    lasts_days = _LOW_DAYS if now.runway_s is None else now.runway_s * SECOND_US // DAY_US
    return now.available_nano < _LOW_NANO or lasts_days < _LOW_DAYS
