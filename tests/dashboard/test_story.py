"""The whole way of a customer in a browser: from signing up to the first call, its charge, a new secret, and the export."""

from __future__ import annotations

import csv
import io
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser, expect

from models.prices import credits_text
from tests.dashboard.browsers import PHONE, run, window
from tests.dashboard.visitor import PASSWORD
from tests.rig import Rig, client


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("desk", {}),
        pytest.param("phone", {"viewport": PHONE, "color_scheme": "dark", "has_touch": True}, marks=pytest.mark.drill),
    ],
)
def test_from_signing_up_to_the_export_of_what_was_spent(
    rig: Rig, browser: Browser, name: str, look: dict[str, Any]
) -> None:
    alias = rig.alias("sim:words=7")
    batch = rig.desk.vouchers.make(f"story-{name}", credits="25", count=1, reason="test")
    code = batch.to_frame()["code"].iloc[0]
    email = f"story-{name}@example.com"
    clipboard = ["clipboard-read", "clipboard-write"]
    with window(browser, rig, permissions=clipboard, accept_downloads=True, **look) as page:
        page.goto("/signup")
        page.get_by_label("E-mail").fill(email)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Create account").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Overview")

        page.get_by_role("link", name="Billing").click()
        page.get_by_label("Code").fill(code)
        page.get_by_role("button", name="Redeem").click()
        expect(page.locator("main")).to_contain_text("25 credits")

        page.get_by_role("link", name="API keys").click()
        page.locator("main").get_by_role("link", name="Create a key").first.click()
        page.get_by_label("Name").fill("laptop")
        page.get_by_label(alias, exact=True).check()
        page.get_by_role("button", name="Create the key").click()
        page.get_by_role("button", name="Copy the key").click()
        expect(page.get_by_role("button", name="Copy the key")).to_have_text("Copied")
        secret = page.evaluate("() => navigator.clipboard.readText()")

        # While the overview stands open, a program makes the first call.
        page.get_by_role("link", name="Overview").click()
        answer = openai.OpenAI(api_key=secret, base_url=f"{rig.url}/v1").chat.completions.with_raw_response.create(
            model=alias, messages=[{"role": "user", "content": "Hello"}], max_tokens=160
        )
        charged = answer.headers["x-credits-charged"]
        call = page.locator(f"#calls tr:has(a[href='/usage/{answer.headers['x-request-id']}'])")
        expect(call).to_contain_text(charged)
        [(spent_nano,)] = rig.sql(
            "SELECT amount_nano FROM transfer WHERE request_id = ?", answer.headers["x-request-id"]
        )
        assert credits_text(spent_nano) == charged
        left = credits_text(25 * 10**9 - spent_nano)
        expect(page.locator("#live")).to_contain_text(left)

        page.get_by_role("link", name="API keys").click()
        page.locator("main").get_by_role("link", name="laptop").click()
        page.get_by_role("button", name="Regenerate").click()
        expect(page.locator("#secret")).not_to_have_text(secret)
        fresh, changed_at = page.locator("#secret").inner_text(), time.monotonic()
        assert _status(rig, fresh) == 200
        while _status(rig, secret) != 401:
            assert time.monotonic() - changed_at < 1

        page.get_by_role("link", name="Usage").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="Export CSV").click()
        lines = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
        assert sum(Decimal(line["credits"]) for line in lines) == 25 - Decimal(left)


def _status(rig: Rig, secret: str) -> int:
    async def ask() -> int:
        headers = {"Authorization": f"Bearer {secret}"}
        async with client() as session, session.get(f"{rig.url}/v1/models", headers=headers) as response:
            return response.status

    return run(ask())
