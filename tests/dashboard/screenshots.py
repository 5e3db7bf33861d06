"""`make screenshots`: pictures of every page, light and dark, of a customer with three months of history.

They are kept in the project, for the README and for whoever changes how pages look: made again, what changed shows.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from models.ids import DAY_US, SECOND_US, now_us
from ops.sample_data import build
from ops.sample_stock import DAYS
from tests.dashboard.browsers import Person, chromium, run, window
from tests.dashboard.visitor import PASSWORD, visiting
from tests.rig import Rig, start_rig

FOLDER = Path(__file__).parents[2] / "gateway" / "dashboard" / "screenshots"
EMAIL = "northwind@example.com"
PAGES = {
    "overview": "/",
    "keys": "/keys",
    "new-key": "/keys/new",
    "models": "/models",
    "usage": "/usage",
    "receipt": "",
    "billing": "/billing",
    "playground": "/playground",
    "account": "/account",
    "docs": "/docs",
}
_SIZE = {"width": 1280, "height": 860}
_COLOURS = 128


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made, chromium() as browser:
        folder = Path(made)
        # Where the rig will look for its database. The story ends now.
        run(build(folder / "gateway.db", now_us() // SECOND_US * SECOND_US - DAYS * DAY_US))
        with start_rig(folder, GATEWAY_TRUSTED_PROXIES="127.0.0.1", GATEWAY_SIGNUP="open") as rig:
            person = run(_sign_in(rig))
            newest = "SELECT request_id FROM usage WHERE account_id = 1001 ORDER BY request_id DESC LIMIT 1"
            receipt = f"/usage/{rig.sql(newest)[0][0]}"
            for scheme in ("light", "dark"):
                with window(browser, rig, person, color_scheme=scheme, viewport=_SIZE) as page:
                    for name, address in PAGES.items():
                        _take(page, address or receipt, FOLDER / f"{name}-{scheme}.png")
    return 0


async def _sign_in(rig: Rig) -> Person:
    async with visiting(rig) as visitor:
        link = rig.desk.accounts.reset_link(EMAIL)
        await visitor.send(link, password=PASSWORD)
        return Person(EMAIL, visitor.cookies)


def _take(page: Page, address: str, path: Path) -> None:
    page.goto(address)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=path)
    # A page has few colours; with a palette its picture has a third of the bytes.
    Image.open(path).convert("RGB").quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


if __name__ == "__main__":
    sys.exit(main())
