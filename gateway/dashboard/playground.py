"""Owns the playground's page, and the key that it makes for a tab. The chat itself is `static/dashboard/playground.js`, which
calls `/v1` as any client does: the secret stays in the tab, and a chat here costs what it costs anywhere.
"""

from __future__ import annotations

from sanic.response import HTTPResponse

from gateway.dashboard.key_form import Wanted
from gateway.dashboard.keys import available_aliases, issue_by_form, throttle_changes
from gateway.dashboard.pages import Pages, said
from gateway.dashboard.visits import Visit
from models.errors import BadInput
from models.ids import DAY_US

pages = Pages("playground")
KEY_NAME = "Playground"


@pages.page("/playground")
async def show_playground(visit: Visit) -> HTTPResponse:
    return _page(visit)


@pages.page("/playground", post=True)
async def make_key(visit: Visit) -> HTTPResponse:
    """A key for this tab, good for a day: the chosen models, or all that can be called now."""
    await throttle_changes(visit)
    available = available_aliases(visit)
    models = [alias for alias in visit.choices("models") if alias in available] or available
    try:
        if not models:
            raise BadInput("No model can be called just now; please try again soon.", field="models")
        wanted = Wanted(name=KEY_NAME, models=models, expires_us=visit.at_us + DAY_US, limits={})
        issued = await issue_by_form(visit, wanted)
    except BadInput as error:
        return _page(visit, status=422, error=said(error))
    return _page(visit, secret=issued.secret)


def _page(visit: Visit, *, status: int = 200, error: str | None = None, secret: str | None = None) -> HTTPResponse:
    available = available_aliases(visit)
    return visit.render(
        "playground.html",
        status=status,
        error=error,
        secret=secret,
        models=available,
        available=available,
        base_url=visit.api_url,
        drain_s=visit.site.settings.drain_s,
    )
