"""Every page as it is looked at, light and dark, wide and narrow: axe finds nothing serious, and none is wider than a phone.

The pages are those of the server's own router, so a page of tomorrow is looked at, too; those of `/docs` have drills of their
own (`tests/drills/test_documentation.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.dashboard.browsers import PHONE, accessibility_faults, run, sign_up, window
from tests.dashboard.browsers import Person as Signed
from tests.dashboard.endpoints import gets
from tests.dashboard.test_walks import MACHINES, Person, furnish
from tests.dashboard.visitor import visiting
from tests.rig import Rig

DESK = {"width": 1280, "height": 900}
# What is no page: a file to keep.
FILES = {"/usage.csv", "/billing/statements/<name:str>.csv"}
UNFOLD = "() => document.querySelectorAll('main details').forEach((one) => { one.open = true; })"
DOORS = ("/signin", "/signup", "/signin?done=deleted", "/nowhere")


@pytest.mark.drill
def test_every_page_is_accessible_and_fits(rig: Rig, browser: Browser) -> None:
    her = run(_customer(rig))
    with window(browser, rig, Signed(her.visitor.email, her.visitor.cookies)) as page:
        walked = 0
        for endpoint in gets():
            if endpoint.path in MACHINES | FILES or endpoint.path.startswith("/docs"):
                continue
            page.goto(her.fill(endpoint))
            check_looks(page)
            walked += 1
        assert walked > 12
        for address in _in_trouble(page, her):
            check_looks(page, address)
        page.goto(f"/billing/statements/{her.ids['name'][0]}")
        for scheme in ("light", "dark"):
            page.emulate_media(media="print", color_scheme=scheme)  # type: ignore[arg-type]
            assert accessibility_faults(page) == [], ("printed", scheme)
    with window(browser, rig, sign_up(rig)) as page:
        # Nothing is there yet on any of these.
        for address in ("/", "/keys", "/usage", "/billing", "/usage?model=nothing"):
            page.goto(address)
            check_looks(page)
    with window(browser, rig) as page:
        for address in DOORS:
            page.goto(address)
            check_looks(page)


def _in_trouble(page: Page, her: Person) -> Iterator[str]:
    """Pages that say what is wrong, beside the field, or instead of what was looked for; and a key that has ended."""
    for address in ("/usage/nothing", "/usage?since=yesterday", "/usage?since=2026-02-02&until=2026-02-01"):
        page.goto(address)
        yield address
    for address, button in (("/keys/new", "Create the key"), ("/account", "Change password"), ("/billing", "Redeem")):
        page.goto(address)
        page.evaluate("() => document.querySelectorAll('form').forEach((form) => { form.noValidate = true; })")
        page.get_by_role("button", name=button).click()
        page.wait_for_selector("[aria-invalid], .error")
        yield f"{address}, sent empty"
    key = f"/keys/{her.ids['key_id'][0]}"
    for ending in ("Disable", "Delete this key"):
        page.goto(key)
        page.evaluate(UNFOLD)
        page.get_by_role("button", name=ending).click()
        page.wait_for_selector(".notice")
        page.goto(key)
        yield f"{key}: {ending}"
    page.goto("/keys?old=1")
    yield "/keys?old=1"


def check_looks(page: Page, what: str = "") -> None:
    """As it stands, with everything unfolded. Of the colours alone the dark ones can differ in what axe finds."""
    page.evaluate(UNFOLD)
    for size in (DESK, PHONE):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (what or page.url, size)
        for scheme, only in (("light", None), ("dark", "color-contrast")):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            assert accessibility_faults(page, only=only) == [], (what or page.url, size, scheme)


async def _customer(rig: Rig) -> Person:
    async with visiting(rig) as visitor:
        await visitor.sign_up()
        return await furnish(rig, visitor)
