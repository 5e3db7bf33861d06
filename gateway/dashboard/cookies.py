"""Owns the cookies of pages: HttpOnly, SameSite=Lax, and for https alone where a network lies between the browser and us."""

from __future__ import annotations

from sanic import Request
from sanic.response import HTTPResponse

from gateway.dashboard.forms import cookie_of
from gateway.network import Client


class Cookies:
    """Those that came, and those that go out with the answer."""

    def __init__(self, request: Request, client: Client, public_url: str | None) -> None:
        self._request = request
        # A proxy may ask for this machine by its own name: so two more signs count.
        is_public = (public_url or "").startswith("https:")
        self._is_guarded = is_public or client.is_secure or not client.is_local
        self._set: list[tuple[str, str, int]] = []

    def __getitem__(self, name: str) -> str:
        """Empty where there is none."""
        return cookie_of(self._request, self._full(name))

    def set(self, name: str, value: str, *, lasting_s: int) -> None:
        self._set.append((name, value, lasting_s))

    def put_on(self, response: HTTPResponse) -> None:
        for name, value, lasting_s in self._set:
            response.add_cookie(
                self._full(name),
                value,
                path="/",
                secure=self._is_guarded,
                httponly=True,
                samesite="Lax",
                max_age=lasting_s,
            )

    def _full(self, name: str) -> str:
        # A browser takes a cookie of this name only from the very host, over https.
        return f"__Host-{name}" if self._is_guarded else name
