"""Owns the account page: name, password, signed-in browsers, looks, and the deletion of one's data."""

from __future__ import annotations

import re

from sanic.response import HTTPResponse

from gateway.dashboard import signing
from gateway.dashboard.pages import Pages, mistakes, said
from gateway.dashboard.visits import Visit
from models.erasure import erase_account
from models.errors import BadInput
from models.logins import change_password, check_own_password, rename
from models.passwords import LEAST_PASSWORD, check_new_password
from models.records import Account
from models.sessions import end_session, end_sessions, session_rows

pages = Pages("account")
_NAMES_AN_HOUR = 60
_DONE = {
    "name": "Your name is saved.",
    "password": "Your new password is saved. Every other browser is signed out.",
    "session": "That browser is signed out.",
    "sessions": "Every other browser is signed out.",
}
# The first that is found: most browsers call themselves by each other's names as well.
_BROWSERS = (("Edg", "Edge"), ("OPR", "Opera"), ("Firefox", "Firefox"), ("Chrome", "Chrome"), ("Version", "Safari"))
_SYSTEMS = (
    ("Windows", "Windows"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


@pages.page("/account")
async def show_account(visit: Visit) -> HTTPResponse:
    return await _page(visit)


@pages.page("/account/name", post=True)
async def save_name(visit: Visit) -> HTTPResponse:
    # Each is a row of the audit log, for ever.
    await visit.throttle("name changes", str(visit.me.account_id), quota=_NAMES_AN_HOUR, window_s=3_600)
    try:
        await rename(visit.database, visit.me, visit.form.get("name", ""))
    except BadInput as error:
        return await _page(visit, errors={"name": said(error)})
    return visit.redirect("/account?done=name")


@pages.page("/account/password", post=True)
async def save_password(visit: Visit) -> HTTPResponse:
    """Every session ends, and this browser gets a new one."""
    form = visit.form
    await signing.count_try(visit, visit.me.email)
    try:
        user = await change_password(visit.database, visit.me, form.get("present", ""), form.get("password", ""))
    except BadInput as error:
        errors = mistakes(form, password=check_new_password) | {error.field or "password": said(error)}
        return await _page(visit, errors=errors)
    await signing.enter(visit, user)
    return visit.redirect("/account?done=password")


@pages.page("/account/sessions/<session_id:int>/end", post=True)
async def sign_out_one(visit: Visit, session_id: int) -> HTTPResponse:
    if session_id == visit.me.session_id:
        return await signing.sign_out(visit)
    await end_session(visit.database, visit.me.user_id, session_id, visit.at_us)
    return visit.redirect("/account?done=session")


@pages.page("/account/sessions/end", post=True)
async def sign_out_others(visit: Visit) -> HTTPResponse:
    await end_sessions(visit.database, visit.me.user_id, visit.at_us, but=visit.me.session_id)
    return visit.redirect("/account?done=sessions")


@pages.page("/account/delete")
async def show_delete(visit: Visit) -> HTTPResponse:
    return await _delete_form(visit)


@pages.page("/account/delete", post=True)
async def delete(visit: Visit) -> HTTPResponse:
    await signing.count_try(visit, visit.me.email)
    try:
        await check_own_password(visit.database, visit.me, visit.form.get("password", ""), field="password")
    except BadInput as error:
        return await _delete_form(visit, status=422, error=said(error))
    await erase_account(visit.database, visit.me.actor, visit.me.account_id)
    visit.end()
    return visit.redirect("/signin?done=deleted")


def browser_text(agent: str) -> str:
    """What a person calls a browser that says of itself `Mozilla/5.0 (…)`: Firefox 140 on Linux."""
    system = next((name for sign, name in _SYSTEMS if sign in agent), None)
    for sign, name in _BROWSERS:
        found = re.search(rf"{sign}\w*/(\d+)", agent)
        if found:
            return f"{name} {found[1]}" + (f" on {system}" if system else "")
    return agent.partition(" ")[0][:60] or "Unknown"


async def _page(visit: Visit, *, errors: dict[str, str] | None = None) -> HTTPResponse:
    sessions = await session_rows(visit.database, visit.me.user_id, visit.at_us)
    return visit.render(
        "account.html",
        status=422 if errors else 200,
        errors=errors or {},
        name=visit.form.get("name", visit.me.name),
        done=_DONE.get(visit.query.get("done", "")),
        sessions=[row | {"browser": browser_text(row["agent"])} for row in sessions],
        least_password=LEAST_PASSWORD,
    )


async def _delete_form(visit: Visit, *, status: int = 200, error: str | None = None) -> HTTPResponse:
    account = await Account.get(id=visit.me.account_id)
    return visit.render("account_delete.html", status=status, error=error, balance_nano=account.balance_nano)
