"""Pages are light, and stand still while their numbers arrive."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Response

from tests.dashboard.browsers import PHONE, run, sign_up, window
from tests.dashboard.test_usage import customer
from tests.rig import Rig

MOST_BYTES = 250 * 1024
PAGES = ("/", "/keys", "/keys/new", "/models", "/usage", "/billing", "/playground", "/account", "/docs")
_WATCH = """
    window.shifted = 0;
    new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.shifted += entry.value; })
        .observe({ type: "layout-shift", buffered: true });
"""


@pytest.mark.drill
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, PHONE], ids=["desk", "phone"])
def test_a_first_look_is_light_and_nothing_moves(rig: Rig, browser: Browser, viewport: dict[str, int]) -> None:
    alias = rig.alias("sim:words=3")
    person = sign_up(rig)
    run(rig.chat(customer(rig, person.email, alias), alias))
    for path in PAGES:
        # A window of its own has an empty cache.
        with window(browser, rig, person, viewport=viewport) as page:
            answers: list[Response] = []
            page.on("response", lambda answer: answers.append(answer))  # noqa: B023, PLW0108 – Playwright wants a function of its own
            page.add_init_script(_WATCH)
            page.goto(path)
            page.wait_for_load_state("networkidle")
            sizes = {answer.url: len(answer.body()) for answer in answers}
            assert all(url.startswith(rig.url) for url in sizes), path
            assert sum(sizes.values()) <= MOST_BYTES, (path, sizes)
            assert page.evaluate("() => window.shifted") < 0.01, path


def test_a_new_charge_moves_nothing_above_it(rig: Rig, browser: Browser) -> None:
    alias = rig.alias("sim:words=3")
    person = sign_up(rig)
    key = customer(rig, person.email, alias)
    run(rig.chat(key, alias))
    with window(browser, rig, person, viewport={"width": 1280, "height": 1400}) as page:
        page.add_init_script(_WATCH)
        page.goto("/")
        page.wait_for_load_state("networkidle")
        answer = run(rig.chat(key, alias))
        page.wait_for_selector(f"#calls a[href='/usage/{answer.headers['x-request-id']}']")
        assert page.evaluate("() => window.shifted") < 0.01
