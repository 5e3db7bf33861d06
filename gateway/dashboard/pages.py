"""Owns the way from an address to an answer: which function makes the page there, who may look, and what goes wrong.

A page is a function `async def page(visit) -> HTTPResponse` under `@page(…)`; it reads `visit.form`, calls `models`, and
returns `visit.render(…)` or `visit.redirect(…)`, or None when it has answered by itself.

- A form is taken only with the session's own CSRF token and from our own origin; nothing is changed by a GET.
- What went wrong is a page, and no log has an address as it was asked for: it may be a secret (`/reset/…`).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import structlog
from sanic import Blueprint, Request
from sanic.exceptions import PayloadTooLarge, SanicException
from sanic.response import HTTPResponse

from gateway.dashboard.forms import MOST_FORM_BYTES, MOST_STRANGERS_BYTES
from gateway.dashboard.guards import Forged, safe_next
from gateway.dashboard.kept import typed_into
from gateway.dashboard.visits import Visit
from gateway.errors import retry_headers
from gateway.gateway import Gateway
from gateway.network import split_address
from models.database import is_away
from models.errors import BadInput, LedgerUnavailable, LimitExceeded, NotFound

# What the database takes for an id. A larger number is nobody's.
_MOST_ID = 2**63 - 1
log = structlog.get_logger()

Handler: TypeAlias = Callable[..., Coroutine[Any, Any, HTTPResponse | None]]
H = TypeVar("H", bound=Handler)


class Pages:
    """The pages of one part of the dashboard; `blueprint` puts them on the server."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pages: list[tuple[str, str, Handler]] = []

    def page(self, address: str, *, post: bool = False, public: bool = False, secret: bool = False) -> Callable[[H], H]:
        """Put a function at an address: for GET and HEAD, or (`post`) for forms. `public`: also when signed out.

        `secret`: the address itself is one, as a link to choose a password or an invitation is; nobody else gets to know it.
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
        is_stranger = visit.session is None
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
    """And back: to the page that was asked for, or the one that the form stood on, with what was typed into it."""
    request = visit.request
    address = request.path + (f"?{request.query_string}" if request.query_string else "")
    if request.method == "POST" or visit.is_partial:
        came_from = split_address(request.headers.get("hx-current-url") or request.headers.get("referer"))
        address = came_from.path + (f"?{came_from.query}" if came_from.query else "")
        typed = typed_into(visit)
        if typed is not None:
            return visit.render(
                "signin.html", status=403, error=None, email="", next=safe_next(address), done=None, kept=typed
            )
    return visit.redirect(f"/signin?next={quote(safe_next(address), safe='/')}")


def trouble(visit: Visit, status: int, title: str, text: str) -> HTTPResponse:
    """A page that says what went wrong and what to do about it."""
    return visit.render("trouble.html", status=status, title=title, text=text)


def said(error: BadInput | NotFound) -> str:
    """What stands beside a field: without its name, which is its label."""
    text = str(error).removeprefix(f"{error.field}: ")
    if text.startswith("is "):
        text = f"this {text}"
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def mistakes(form: Mapping[str, str], **checks: Callable[[str], object]) -> dict[str, str]:
    """What is wrong in a form, by field and all of it at once. A check gets what was typed, and raises BadInput."""
    errors = {}
    for field, check in checks.items():
        try:
            check(form.get(field, ""))
        except BadInput as error:
            errors[field] = said(error)
    return errors


def too_many(error: LimitExceeded) -> str:
    minutes = max(1, round(error.retry_after_s / 60 + 0.49))
    return f"Please wait {'a minute' if minutes == 1 else f'{minutes} minutes'} before you try again."
