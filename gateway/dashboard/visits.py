"""Owns one look at a page: who looks, whether the form came from our own page, and the answer with its headers.

What must hold for every page stands here once. A page is a function `async def page(visit) -> HTTPResponse` under
`@page(…)`; it reads `visit.form`, calls `models`, and returns `visit.render(…)` or `visit.redirect(…)`, or None when it has
answered by itself.

- A form is taken only with the session's own CSRF token and from our own origin; nothing is changed by a GET.
- Cookies are HttpOnly, SameSite=Lax, and Secure wherever a network lies between the browser and us.
- What went wrong is a page, and no log has an address as it was asked for: it may be a secret (`/reset/…`).
- The database is one of its own: a heavy page cannot keep the request path of `/v1` waiting for a connection.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import structlog
from sanic import Blueprint, Request
from sanic.exceptions import PayloadTooLarge, SanicException
from sanic.response import HTTPResponse

from gateway.dashboard.forms import MOST_FORM_BYTES, MOST_STRANGERS_BYTES, Fields, cookie_of, fields_of, read_form
from gateway.dashboard.guards import HEADERS, Forged, comes_from_us, policy, safe_next
from gateway.dashboard.site import Site
from gateway.errors import retry_headers
from gateway.gateway import Gateway
from gateway.limits import Limit
from gateway.network import Client, client_of, split_address
from models.database import Database, is_away
from models.errors import BadInput, LedgerUnavailable, LimitExceeded, NotFound
from models.ids import SECOND_US, new_request_id, now_us
from models.sessions import SignedIn, find_session

# How long a form that was opened may be sent.
_FORM_GOOD_FOR_US = 12 * 3600 * SECOND_US
_SESSION, _VISITOR, _THEME = "session", "visitor", "theme"
_VISITOR_S = 400 * 86_400
# What the database takes for an id. A larger number is nobody's.
_MOST_ID = 2**63 - 1
log = structlog.get_logger()

Handler: TypeAlias = Callable[..., Coroutine[Any, Any, HTTPResponse | None]]
H = TypeVar("H", bound=Handler)


class Visit:
    """One request to the dashboard. `me` is who is signed in; pages that ask for a session may rely on it."""

    def __init__(self, request: Request, gateway: Gateway, site: Site, *, is_secret_address: bool = False) -> None:
        self.request = request
        self.gateway = gateway
        self.site = site
        self.at_us = now_us()
        self.client: Client = client_of(request, gateway.settings.trusted_proxies)
        self.session: SignedIn | None = None
        self._body, self.most_bytes = "", MOST_FORM_BYTES
        self._is_secret_address = is_secret_address
        self._cookies: list[tuple[str, str, int | None]] = []
        self._token = self._cookie(_SESSION)
        self._visitor = self._cookie(_VISITOR)

    # ── who looks ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def database(self) -> Database:
        return self.gateway.pages_database

    @property
    def me(self) -> SignedIn:
        assert self.session is not None, "this page needs a session"
        return self.session

    @property
    def address(self) -> str:
        """Where we are reached: the operator's public address, else the one that this visitor came by."""
        return self.gateway.settings.public_url or self.client.origin

    @property
    def api_url(self) -> str:
        """The base URL to give to clients."""
        return self.address + "/v1"

    async def recognise(self) -> None:
        if self._token:
            self.session = await find_session(self.database, self._token, self.at_us)

    def begin(self, token: str, *, lasting_s: int) -> None:
        """Put the cookie of a new session; whatever the browser had before is replaced."""
        self._token = token
        self._set_cookie(_SESSION, token, lasting_s)

    def end(self) -> None:
        """Take the session's cookie away."""
        self._token, self.session = "", None
        self._set_cookie(_SESSION, "", 0)

    # ── what was sent ─────────────────────────────────────────────────────────────────────────────────────────────

    async def receive(self, *, most_bytes: int) -> None:
        """Read the form. Raises PayloadTooLarge for one that no page of ours could have made."""
        self.most_bytes = most_bytes
        self._body = await read_form(self.request, most_bytes)

    @functools.cached_property
    def _fields(self) -> Fields:
        return fields_of(self._body)

    @functools.cached_property
    def form(self) -> dict[str, str]:
        """The form's fields, the last of each name; `choices` gives all of one name."""
        return {name: values[-1] for name, values in self._fields.items()}

    @functools.cached_property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in fields_of(self.request.query_string).items()}

    def choices(self, name: str) -> list[str]:
        """What was ticked under one name, in the form or in the address."""
        source = self._fields if self.request.method == "POST" else fields_of(self.request.query_string)
        return source.get(name, [])

    @property
    def is_partial(self) -> bool:
        """Whether htmx asks for a part of a page that is shown already."""
        return (
            self.request.headers.get("hx-request") == "true"
            and "hx-history-restore-request" not in self.request.headers
        )

    # ── forms that are ours ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def csrf(self) -> str:
        """What a form of this browser must bring back. It changes with the session."""
        if not (self._token or self._visitor):
            self._visitor = secrets.token_urlsafe(32)
            self._set_cookie(_VISITOR, self._visitor, _VISITOR_S)
        return self._sign("form", self._token or self._visitor)

    def check_form(self) -> None:
        """Raises Forged for a form that did not come from a page of ours in this browser."""
        given, held = self.form.get("csrf", ""), self._token or self._visitor
        is_ours = comes_from_us(self.request, self.client, self.gateway.settings.public_url)
        if not (is_ours and held and hmac.compare_digest(given.encode(), self._sign("form", held).encode())):
            raise Forged

    @property
    def once(self) -> str:
        """For a form that makes something: sent twice it is one and the same wish (see `wish`)."""
        moment = f"{self.at_us}.{secrets.token_urlsafe(16)}"
        return f"{moment}.{self._sign('once', self._token + moment)}"

    def wish(self) -> bytes:
        """32 bytes that are the same for one form however often it is sent, and that nobody else can know.

        Raises BadInput when the form is not of this session or too old.
        """
        given = self.form.get("once", "")
        moment, _, signature = given.rpartition(".")
        made_us = moment.partition(".")[0]
        good = hmac.compare_digest(signature.encode(), self._sign("once", self._token + moment).encode())
        if not (good and made_us.isdecimal() and self.at_us - int(made_us) < _FORM_GOOD_FOR_US):
            raise BadInput("This form is too old; check it and send it again.", field="once")
        return self._mac("wish", given)

    @property
    def opened_us(self) -> int:
        """When the form was opened, as its `once` field says; to be asked after `wish`, which checks that field."""
        return int(self.form["once"].partition(".")[0])

    def _sign(self, purpose: str, text: str) -> str:
        return base64.urlsafe_b64encode(self._mac(purpose, text)).decode().rstrip("=")

    def _mac(self, purpose: str, text: str) -> bytes:
        return hmac.digest(self.gateway.secret_key.encode(), f"dashboard {purpose}\0{text}".encode(), hashlib.sha256)

    # ── throttling ────────────────────────────────────────────────────────────────────────────────────────────────

    async def throttle(self, what: str, subject: str, *, quota: int, window_s: int) -> None:
        """Count one try of `what` by `subject` (an address, an e-mail). Raises LimitExceeded. Shared by all workers."""
        digest = hashlib.sha256(subject.encode("utf-8", "replace")).digest()
        limit = Limit(f"page {what}", int.from_bytes(digest[:6]), "requests", quota, window_s)
        await self.gateway.limiter.admit((limit,), 0)

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def render(self, template: str, *, status: int = 200, **values: Any) -> HTTPResponse:
        """A page. Templates always have `me` (or None), `csrf`, `path`, `theme` and `visit`."""
        theme = cookie_of(self.request, _THEME)
        text = self.site.html(
            template,
            visit=self,
            me=self.session,
            csrf=self.csrf,
            path=self.request.path,
            theme=theme if theme in ("light", "dark") else None,
            **values,
        )
        return self.finish(HTTPResponse(text, status, None, "text/html; charset=utf-8"))

    def redirect(self, address: str) -> HTTPResponse:
        """To another page of ours, after a form was taken (303)."""
        headers = {"hx-redirect": address} if self.is_partial else {"location": address}
        return self.finish(HTTPResponse(None, 200 if self.is_partial else 303, headers, "text/html; charset=utf-8"))

    def finish(self, response: HTTPResponse) -> HTTPResponse:
        """The headers and cookies of every answer of the dashboard."""
        response.headers.update(HEADERS)
        response.headers["x-request-id"] = new_request_id(self.at_us)
        response.headers["content-security-policy"] = policy(self.gateway.settings)
        if self._is_secret_address:
            # Its own host is all that even the files it loads get to know.
            response.headers["referrer-policy"] = "strict-origin"
        for name, value, lasting_s in self._cookies:
            response.add_cookie(
                self._cookie_name(name),
                value,
                path="/",
                secure=self._is_guarded,
                httponly=True,
                samesite="Lax",
                max_age=lasting_s,
            )
        return response

    @property
    def is_exposed(self) -> bool:
        """Whether this page came over plain http from elsewhere, so that its browser will keep no cookie of ours.

        Only the browser can tell where a proxy that we do not know ends https; it sends this header over https alone.
        """
        return not (self.client.is_local or self.client.is_secure or "sec-fetch-site" in self.request.headers)

    @property
    def _is_guarded(self) -> bool:
        """Whether cookies are for https only. A proxy may ask for this machine by its own name: so two more signs count."""
        is_public = (self.gateway.settings.public_url or "").startswith("https:")
        return is_public or self.client.is_secure or not self.client.is_local

    def _cookie_name(self, name: str) -> str:
        # A browser takes a cookie of this name only from the very host, over https.
        return f"__Host-{name}" if self._is_guarded else name

    def _cookie(self, name: str) -> str:
        return cookie_of(self.request, self._cookie_name(name))

    def _set_cookie(self, name: str, value: str, lasting_s: int | None) -> None:
        self._cookies.append((name, value, lasting_s))


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Pages:
    """The pages of one part of the dashboard; `blueprint` puts them on the server."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pages: list[tuple[str, str, Handler]] = []

    def page(self, address: str, *, post: bool = False, public: bool = False, secret: bool = False) -> Callable[[H], H]:
        """Put a function at an address: for GET and HEAD, or (`post`) for forms. `public`: also when signed out.

        `secret`: the address itself is one, as a link to choose a password is; nobody else gets to know it.
        """

        def put(handler: H) -> H:
            @functools.wraps(handler)
            async def answer(request: Request, **parts: Any) -> HTTPResponse | None:
                return await _answer(request, handler, parts, public=public, secret=secret)

            self._pages.append((address, "POST" if post else "GET", answer))
            return handler

        return put

    def blueprint(self) -> Blueprint:
        routes = Blueprint(f"dashboard-{self.name}")
        for i, (address, method, answer) in enumerate(self._pages):
            methods = ["POST"] if method == "POST" else ["GET", "HEAD"]
            # The body is read by the page, which knows how much of it there may be, and answers with a page.
            routes.route(address, methods=methods, name=f"{answer.__name__}-{i}", ignore_body=True)(answer)
        return routes


async def nowhere(request: Request) -> HTTPResponse | None:
    """What a browser is shown at an address where there is nothing."""

    async def missing(_visit: Visit) -> HTTPResponse:
        raise NotFound("Check its address, or begin at the overview.")

    return await _answer(request, missing, {}, public=True, secret=False)


async def _answer(
    request: Request, handler: Handler, parts: dict[str, Any], *, public: bool, secret: bool
) -> HTTPResponse | None:
    gateway: Gateway = request.app.ctx.gateway
    visit = Visit(request, gateway, request.app.ctx.site, is_secret_address=secret)
    # In a task of its own: there the ORM finds the dashboard's database, and nowhere else.
    looking = _look(visit, handler, parts, public=public)
    response = await asyncio.create_task(looking, context=gateway.pages_context.copy())
    if response is None or not request.responded:
        return response
    # It went wrong in the middle of an answer: what is missing of it must not look as if that were all.
    transport: Any = request.transport
    transport.abort()
    return None


async def _look(visit: Visit, handler: Handler, parts: dict[str, Any], *, public: bool) -> HTTPResponse | None:
    try:
        if visit.gateway.stopping:
            raise LedgerUnavailable("This server is being restarted; please try again in a moment.")
        if any(isinstance(part, int) and part > _MOST_ID for part in parts.values()):
            raise NotFound("Check its address; it may have been removed, or belong to another account.")
        await visit.recognise()
        is_stranger = public and visit.session is None
        await visit.receive(most_bytes=MOST_STRANGERS_BYTES if is_stranger else MOST_FORM_BYTES)
        if visit.request.method == "POST":
            if visit.session is None and not public:
                return _to_sign_in(visit)
            visit.check_form()
        elif visit.session is None and not public:
            return _to_sign_in(visit)
        return await handler(visit, **parts)
    except Forged:
        return trouble(
            visit,
            403,
            "This form could not be checked",
            "It was opened in another session, or sent from another site. "
            "Go back, reload the page and send it again; nothing was changed.",
        )
    except PayloadTooLarge:
        text = f"A form may have {visit.most_bytes // 1024} KiB. Send less at once; nothing was changed."
        return trouble(visit, 413, "This is too much", text)
    except NotFound as error:
        return trouble(visit, 404, "There is no such page", said(error))
    except LimitExceeded as error:
        response = trouble(visit, 429, "Too many tries", too_many(error))
        response.headers.update(retry_headers(error.retry_after_s))
        return response
    except BadInput as error:
        return trouble(visit, 400, "That did not work", said(error))
    except LedgerUnavailable as error:
        return trouble(visit, 503, "A moment, please", str(error))
    except SanicException:
        # HTTP itself is broken: a body that does not come, or not as it was announced.
        raise
    except Exception as error:
        page = visit.request.uri_template
        if is_away(error):
            log.warning("a page has no database", page=page, error=repr(error))
            return trouble(visit, 503, "A moment, please", "Our database does not answer; please try again soon.")
        response = trouble(visit, 500, "That was our fault", "Something went wrong on our side; we have been told.")
        log.error(
            "a page failed by our own fault", page=page, exc_info=error, request_id=response.headers["x-request-id"]
        )
        return response


def _to_sign_in(visit: Visit) -> HTTPResponse:
    """And back: to the page that was asked for, or the one that the form stood on."""
    request = visit.request
    address = request.path + (f"?{request.query_string}" if request.query_string else "")
    if request.method == "POST" or visit.is_partial:
        came_from = split_address(request.headers.get("hx-current-url") or request.headers.get("referer"))
        address = came_from.path + (f"?{came_from.query}" if came_from.query else "")
    return visit.redirect(f"/signin?next={quote(safe_next(address), safe='/')}")


def trouble(visit: Visit, status: int, title: str, text: str) -> HTTPResponse:
    """A page that says what went wrong and what to do about it."""
    return visit.render("trouble.html", status=status, title=title, text=text)


def said(error: BadInput | NotFound) -> str:
    """What stands beside a field: without its name, which is its label."""
    text = str(error).removeprefix(f"{error.field}: ")
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def too_many(error: LimitExceeded) -> str:
    minutes = max(1, round(error.retry_after_s / 60 + 0.49))
    return f"Please wait {'a minute' if minutes == 1 else f'{minutes} minutes'} before you try again."
