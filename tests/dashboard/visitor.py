"""A visitor without scripts: cookies, pages, and forms sent with all that stands in them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import aiohttp
from yarl import URL

from tests.rig import Rig

PASSWORD = "a long password"
_count = itertools.count(1)


@dataclass(frozen=True)
class Page:
    """What a visitor got at last, redirects followed; `hops` are the statuses on the way."""

    status: int
    path: str
    headers: dict[str, str]
    text: str
    hops: tuple[int, ...] = ()
    set_cookies: tuple[str, ...] = ()


class Visitor:
    """One browser. Each comes from an address of its own, so that none is throttled for another's tries."""

    def __init__(self, rig: Rig, session: aiohttp.ClientSession) -> None:
        self.rig = rig
        self.email = f"visitor-{os.getpid()}-{next(_count)}@example.com"
        self.address = f"203.0.{next(_count) % 250}.{next(_count) % 250}"
        self._session = session

    async def get(self, path: str, *, follow: bool = True, headers: dict[str, str] | None = None) -> Page:
        return await self._ask("GET", path, None, follow, headers)

    async def send(
        self,
        path: str,
        action: str | None = None,
        /,
        *,
        follow: bool = True,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> Page:
        """Open `path`, fill in the form that goes to `action` (the same path, if not given), and send it as it stands."""
        page = await self.get(path)
        form = form_of(page.text, action or path)
        return await self.post(action or path, {**form, **fields}, follow=follow, headers=headers)

    async def post(
        self, path: str, fields: dict[str, Any], *, follow: bool = True, headers: dict[str, str] | None = None
    ) -> Page:
        """Just these fields; a list sends its name several times."""
        pairs = [
            (name, item)
            for name, value in fields.items()
            for item in (value if isinstance(value, list | tuple) else [value])
        ]
        return await self._ask("POST", path, aiohttp.FormData(pairs), follow, headers)

    async def sign_up(self) -> Page:
        return await self.send("/signup", email=self.email, password=PASSWORD)

    async def csrf(self) -> str:
        """What a form of this browser brings back, wherever it stands."""
        page = await self.get("/account")
        if page.path.startswith("/account"):
            return form_of(page.text, "/signout")["csrf"]
        return form_of(page.text, "/signin")["csrf"]

    async def sign_in(self, email: str, password: str = PASSWORD, **fields: str) -> Page:
        self.email = email
        return await self.send("/signin", email=email, password=password, **fields)

    @property
    def cookies(self) -> dict[str, str]:
        return {cookie.key: cookie.value for cookie in self._session.cookie_jar}

    async def _ask(self, method: str, path: str, data: Any, follow: bool, headers: dict[str, str] | None) -> Page:
        sent = {"X-Forwarded-For": self.address, **(headers or {})}
        url = path if path.startswith("http") else self.rig.url + path
        async with self._session.request(method, url, data=data, headers=sent, allow_redirects=follow) as response:
            text = (await response.read()).decode()
            hops = tuple(hop.status for hop in response.history)
            found = {name.lower(): value for name, value in response.headers.items()}
            set_cookies = tuple(response.headers.getall("Set-Cookie", ()))
            return Page(response.status, response.url.path_qs, found, text, hops, set_cookies)


@contextlib.asynccontextmanager
async def visiting(rig: Rig, *, peer: str = "127.0.0.1") -> AsyncIterator[Visitor]:
    """A visitor who is not signed in. `peer`: the address of this machine that the server sees; the rig trusts 127.0.0.1."""
    # As browsers do: this machine is safe enough for cookies that are for https only.
    jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=URL(rig.url))
    connector = aiohttp.TCPConnector(local_addr=(peer, 0))
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(cookie_jar=jar, connector=connector, timeout=timeout) as session:
        yield Visitor(rig, session)


def form_of(text: str, action: str) -> dict[str, str]:
    """The fields of the page's form that posts to `action`, with the values that stand in them."""
    reader = _Forms()
    reader.feed(text)
    for form in reader.forms:
        if form["action"] == action:
            return dict(form["fields"])
    raise AssertionError(
        f"no form posts to {action}; forms: {[form['action'] for form in reader.forms]}\n{text[:2000]}"
    )


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form" and (given.get("method") or "get").lower() == "post":
            self.forms.append({"action": given.get("action"), "fields": {}})
        elif tag == "input" and self.forms and given.get("name"):
            if given.get("type") in ("checkbox", "radio", "submit") and "checked" not in given:
                return
            self.forms[-1]["fields"][given["name"]] = given.get("value") or ""
