"""A real browser: Debian's Chromium, driven by Playwright. Tests that use it are plain functions; its loop is its own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import axe_playwright_python
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.dashboard.visitor import visiting
from tests.rig import Rig
from tests.servers import missing

T = TypeVar("T")
PHONE = {"width": 390, "height": 844}
_AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
# The longest that a page may take to show something, on the slowest of machines; a promise in seconds has a test of its own.
expect.set_options(timeout=20_000)
_OPTIONS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]


@dataclass(frozen=True)
class Person:
    """An account, and the cookies of a browser that is signed in to it."""

    email: str
    cookies: dict[str, str]


def sign_up(rig: Rig) -> Person:
    """A new account, made by the form."""

    async def make() -> Person:
        async with visiting(rig) as visitor:
            await visitor.sign_up()
            return Person(visitor.email, visitor.cookies)

    return run(make())


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Skips, or fails in CI, where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        missing("there is no Chromium on this machine; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def window(browser: Browser, rig: Rig, person: Person | None = None, **options: Any) -> Iterator[Page]:
    """A window of its own, signed in as the person. Fails afterwards if a page had a script error or broke its policy."""
    context: BrowserContext = browser.new_context(base_url=rig.url, **options)
    if person is not None:
        # Cookies that are for https alone come to this machine over http, too, but are not taken from it here.
        https = rig.url.replace("http:", "https:")
        context.add_cookies(
            [
                {"name": name, "value": value, "url": https if name.startswith("__Host-") else rig.url}
                for name, value in person.cookies.items()
            ]
        )
    troubles: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if "Content Security" in message.text else None)
    try:
        yield page
    finally:
        context.close()
    assert troubles == []


def accessibility_faults(page: Page, *, only: str | None = None) -> list[str]:
    """What axe finds serious or critical: its rule, and the elements. `only`: by this one of its rules."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(_AXE)
    options = {"resultTypes": ["violations"]} | ({"runOnly": [only]} if only else {})
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{fault['id']}: {', '.join(str(node['target']) for node in fault['nodes'])}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Asynchronous work from a test with a browser, in a thread: the browser's loop runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
