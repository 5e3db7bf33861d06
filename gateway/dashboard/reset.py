"""Owns the page behind a one-time link, made by staff, where people choose a new password. The rules: `models/logins.py`."""

from __future__ import annotations

from sanic.response import HTTPResponse

from gateway.dashboard import signing
from gateway.dashboard.pages import Pages, said, trouble
from gateway.dashboard.visits import Visit
from models.errors import BadInput, NotFound
from models.logins import find_reset, use_reset
from models.passwords import LEAST_PASSWORD

pages = Pages("reset")


@pages.page("/reset/<token:str>", public=True, secret=True)
async def show_reset(visit: Visit, token: str) -> HTTPResponse:
    """Looking changes nothing: mail programs open links, too."""
    try:
        user = await find_reset(visit.database, token)
    except NotFound as error:
        return _dead(visit, error)
    return _form(visit, token, user.email)


@pages.page("/reset/<token:str>", post=True, public=True, secret=True)
async def reset(visit: Visit, token: str) -> HTTPResponse:
    try:
        user = await find_reset(visit.database, token)
        chosen = await use_reset(visit.database, token, visit.form.get("password", ""))
    except NotFound as error:
        return _dead(visit, error)
    except BadInput as error:
        return _form(visit, token, user.email, status=422, error=said(error))
    await signing.enter(visit, chosen)
    return visit.redirect("/account?done=password")


def _form(visit: Visit, token: str, email: str, *, status: int = 200, error: str | None = None) -> HTTPResponse:
    return visit.render(
        "reset.html", status=status, token=token, email=email, error=error, least_password=LEAST_PASSWORD
    )


def _dead(visit: Visit, error: NotFound) -> HTTPResponse:
    contact = visit.site.settings.contact
    where = f" You reach us at {contact}." if contact else ""
    return trouble(visit, 404, "This link no longer works", f"{said(error)} If you have just used it, sign in.{where}")
