"""Owns one look at a page: who looks, what was sent and whether it came from our own page, and the answer with its headers.

What must hold for every page stands here once; which page stands where, and what goes wrong on the way: `pages.py`. The
database is one of its own: a heavy page cannot keep the request path of `/v1` waiting for a connection.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import secrets
from typing import Any

from sanic import Request
from sanic.response import HTTPResponse

from gateway.dashboard.cookies import Cookies
from gateway.dashboard.forms import MOST_FORM_BYTES, Fields, cookie_of, fields_of, read_form
from gateway.dashboard.guards import HEADERS, Forged, comes_from_us, policy
from gateway.dashboard.site import Site
from gateway.gateway import Gateway
from gateway.limits import Limit
from gateway.network import Client, client_of
from models.database import Database
from models.errors import BadInput
from models.ids import SECOND_US, new_request_id, now_us
from models.sessions import SignedIn, find_session

# How long a form that was opened may be sent.
_FORM_GOOD_FOR_US = 12 * 3600 * SECOND_US
_SESSION, _VISITOR, _THEME = "session", "visitor", "theme"
_VISITOR_S = 400 * 86_400


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
        self.cookies = Cookies(request, self.client, gateway.settings.public_url)
        self._token = self.cookies[_SESSION]
        self._visitor = self.cookies[_VISITOR]

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
        self.cookies.set(_SESSION, token, lasting_s=lasting_s)

    def end(self) -> None:
        """Take the session's cookie away."""
        self._token, self.session = "", None
        self.cookies.set(_SESSION, "", lasting_s=0)

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
            self.cookies.set(_VISITOR, self._visitor, lasting_s=_VISITOR_S)
        return self.sign("form", self._token or self._visitor)

    def check_form(self) -> None:
        """Raises Forged for a form that did not come from a page of ours in this browser."""
        given, held = self.form.get("csrf", ""), self._token or self._visitor
        is_ours = comes_from_us(self.request, self.client, self.gateway.settings.public_url)
        if not (is_ours and held and self.is_signed("form", held, given)):
            raise Forged

    @property
    def once(self) -> str:
        """For a form that makes something: sent twice it is one and the same wish (see `wish`)."""
        moment = f"{self.at_us}.{secrets.token_urlsafe(16)}"
        return f"{moment}.{self.sign('once', self._token + moment)}"

    def wish(self) -> bytes:
        """32 bytes that are the same for one form however often it is sent, and that nobody else can know.

        Raises BadInput when the form is not of this session or too old.
        """
        given = self.form.get("once", "")
        moment, _, signature = given.rpartition(".")
        made_us = moment.partition(".")[0]
        good = self.is_signed("once", self._token + moment, signature)
        if not (good and made_us.isdecimal() and self.at_us - int(made_us) < _FORM_GOOD_FOR_US):
            raise BadInput("This form is too old; check it and send it again.", field="once")
        return self._mac("wish", given)

    @property
    def opened_us(self) -> int:
        """When the form was opened, as its `once` field says; to be asked after `wish`, which checks that field."""
        return int(self.form["once"].partition(".")[0])

    def sign(self, purpose: str, text: str) -> str:
        """What proves later that this text was ours, and meant for this."""
        return base64.urlsafe_b64encode(self._mac(purpose, text)).decode().rstrip("=")

    def is_signed(self, purpose: str, text: str, signature: str) -> bool:
        return hmac.compare_digest(signature.encode(), self.sign(purpose, text).encode())

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
        self.cookies.put_on(response)
        return response

    @property
    def is_exposed(self) -> bool:
        """Whether this page came over plain http from elsewhere, so that its browser will keep no cookie of ours.

        Only the browser can tell where a proxy that we do not know ends https; it sends this header over https alone.
        """
        return not (self.client.is_local or self.client.is_secure or "sec-fetch-site" in self.request.headers)
