"""Owns signing up, in and out. Passwords are checked in `models/logins.py`, sessions kept in `models/sessions.py`."""

from __future__ import annotations

from sanic.response import HTTPResponse

from gateway.dashboard.devices import device_of, remember
from gateway.dashboard.guards import safe_next
from gateway.dashboard.kept import carried
from gateway.dashboard.pages import Pages, mistakes, said, too_many
from gateway.dashboard.visits import Visit
from models.accounts import clean_email, create_account
from models.codes import clean_code
from models.errors import AlreadyExists, BadInput, LimitExceeded
from models.ids import SECOND_US
from models.invites import create_invited_account
from models.logins import check_login
from models.passwords import LEAST_PASSWORD, check_new_password
from models.records import User
from models.sessions import LONGEST_US, begin_session, end_session

pages = Pages("signing")
_WINDOW_S = 15 * 60
_TRIES_BY_ACCOUNT, _TRIES_BY_DEVICES, _TRIES_BY_ADDRESS, _SIGN_UPS_BY_ADDRESS = 10, 20, 60, 20
_OPERATOR = "sign-up"
_WRONG = (
    "This e-mail and password do not belong together. Check both; staff can send you a link to choose a new password."
)
_TAKEN = "This address has an account already; sign in instead."
_DONE = {
    "deleted": "Your data is deleted: you are signed out everywhere, and your keys are revoked.",
    "password": "Your new password is saved. Sign in with it.",
}


@pages.page("/signin", public=True)
async def show_sign_in(visit: Visit) -> HTTPResponse:
    if visit.session is not None:
        return visit.redirect(safe_next(visit.query.get("next")))
    return _sign_in_form(visit)


@pages.page("/signin", post=True, public=True)
async def sign_in(visit: Visit) -> HTTPResponse:
    email, password = visit.form.get("email", "").strip().lower(), visit.form.get("password", "")
    try:
        await count_try(visit, email)
        user = await check_login(visit.database, email, password)
    except LimitExceeded as error:
        return _sign_in_form(visit, status=429, error=f"Too many tries. {too_many(error)}")
    if user is None:
        return _sign_in_form(visit, status=422, error=_WRONG)
    await enter(visit, user)
    kept = carried(visit)
    if kept is None:
        return visit.redirect(safe_next(visit.form.get("next")))
    await visit.recognise()
    return visit.render("kept.html", kept=kept, back=safe_next(visit.form.get("next")))


@pages.page("/signout", post=True)
async def sign_out(visit: Visit) -> HTTPResponse:
    await end_session(visit.database, visit.me.user_id, visit.me.session_id, visit.at_us)
    visit.end()
    return visit.redirect("/signin")


@pages.page("/signup", public=True, secret=True)
async def show_sign_up(visit: Visit) -> HTTPResponse:
    """`?invite=…` fills in the code of an invitation."""
    if visit.session is not None:
        return visit.redirect("/")
    return _sign_up_form(visit)


@pages.page("/signup", post=True, public=True, secret=True)
async def sign_up(visit: Visit) -> HTTPResponse:
    if visit.site.settings.signup == "closed":
        return _sign_up_form(visit, status=403)
    try:
        await visit.throttle("sign-up", visit.client.network, quota=_SIGN_UPS_BY_ADDRESS, window_s=_WINDOW_S)
        errors = _mistakes(visit)
        if errors:
            return _sign_up_form(visit, status=422, errors=errors)
        user = await _make_account(visit)
    except LimitExceeded as error:
        return _sign_up_form(visit, status=429, errors={"email": f"Too many tries. {too_many(error)}"})
    except AlreadyExists:
        return _sign_up_form(visit, status=422, errors={"email": _TAKEN})
    except BadInput as error:
        return _sign_up_form(visit, status=422, errors={error.field or "email": said(error)})
    await enter(visit, user)
    return visit.redirect("/")


async def count_try(visit: Visit, email: str) -> None:
    """Before a password is looked at, wherever it was typed. Raises LimitExceeded, by whoever asks and by whose it is:
    a browser that knows it has tries of its own, though not with every new cookie; strangers to the account share theirs."""
    await visit.throttle("sign-in by address", visit.client.network, quota=_TRIES_BY_ADDRESS, window_s=_WINDOW_S)
    device = await device_of(visit, email)
    if device is None:
        await visit.throttle("sign-in", email, quota=_TRIES_BY_ACCOUNT, window_s=_WINDOW_S)
        return
    await visit.throttle("sign-in by device", device, quota=_TRIES_BY_ACCOUNT, window_s=_WINDOW_S)
    # Whoever signs in again and again has as many cookies.
    await visit.throttle("sign-in by devices", email, quota=_TRIES_BY_DEVICES, window_s=_WINDOW_S)


async def enter(visit: Visit, user: User) -> None:
    """Begin a session; one that this browser had before is over, whoever had made it. Raises as `begin_session`."""
    if visit.session is not None:
        await end_session(visit.database, visit.session.user_id, visit.session.session_id, visit.at_us)
    token = await begin_session(
        visit.database,
        user,
        address=visit.client.address,
        agent=visit.request.headers.get("user-agent", ""),
        at_us=visit.at_us,
    )
    visit.begin(token, lasting_s=LONGEST_US // SECOND_US)
    remember(visit, user)


def _mistakes(visit: Visit) -> dict[str, str]:
    """What can be seen to be wrong before anything is looked up."""
    if visit.site.settings.signup == "invite":
        return mistakes(visit.form, email=clean_email, password=check_new_password, invite=clean_code)
    return mistakes(visit.form, email=clean_email, password=check_new_password)


async def _make_account(visit: Visit) -> User:
    """The new user; or the one who has just signed up with the same form, and sent it again."""
    form, database = visit.form, visit.database
    email, password = form.get("email", ""), form.get("password", "")
    try:
        if visit.site.settings.signup == "invite":
            code = form.get("invite", "")
            account = await create_invited_account(database, _OPERATOR, email, code, password=password)
        else:
            account = await create_account(database, _OPERATOR, email, password=password)
    except AlreadyExists:
        await count_try(visit, email.strip().lower())
        user = await check_login(database, email.strip().lower(), password)
        if user is None:
            raise
    else:
        user = await User.get(account_id=account.id)
    return user


def _sign_in_form(visit: Visit, *, status: int = 200, error: str | None = None) -> HTTPResponse:
    wanted = visit.form.get("next") or visit.query.get("next")
    return visit.render(
        "signin.html",
        status=status,
        error=error,
        email=visit.form.get("email", ""),
        next=safe_next(wanted),
        done=_DONE.get(visit.query.get("done", "")),
        kept=carried(visit),
    )


def _sign_up_form(visit: Visit, *, status: int = 200, errors: dict[str, str] | None = None) -> HTTPResponse:
    return visit.render(
        "signup.html",
        status=status,
        errors=errors or {},
        form={"invite": visit.query.get("invite", ""), **visit.form},
        least_password=LEAST_PASSWORD,
    )
