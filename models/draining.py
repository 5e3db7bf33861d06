"""Owns what is left of a disabled route: how many requests may still run on it, and when it last answered one."""

from __future__ import annotations

import msgspec

from models.database import Database
from models.ids import DAY_US, SECOND_US, lowest_id, now_us
from models.records import Audit
from models.routes import RouteInfo, find_route

# Every worker knows of an edit after a second; two machines' clocks may differ by the rest.
GRACE_US = 5 * SECOND_US
LOOK_BACK_US = 90 * DAY_US


class Draining(msgspec.Struct, frozen=True):
    """A route, since when it is disabled (None: it is not), and what may still be going on.

    `may_run` counts the model's running requests that began early enough to be on this route: 0 means that it is empty.
    `last_used_us` is the start of the last request that ended on it, None when there is none within 90 days.
    """

    route: RouteInfo
    disabled_us: int | None
    may_run: int
    last_used_us: int | None

    @property
    def is_empty(self) -> bool:
        return self.disabled_us is not None and self.may_run == 0


async def draining(database: Database, route_id: object) -> Draining:
    """Raises NotFound. Reads only."""
    route = await find_route(route_id)
    disabled_us = None
    if not route.enabled:
        row = await Audit.filter(subject=f"route {route.id}", action="route.disable").order_by("-id").first()
        disabled_us = row.at_us if row is not None else 0
    until = now_us() + GRACE_US if disabled_us is None else disabled_us + GRACE_US
    running = await database.rows(
        "SELECT COUNT(*) AS n FROM hold h JOIN price p ON p.id = h.price_id JOIN model m ON m.id = p.model_id"
        " WHERE h.status = 'open' AND m.alias = ? AND h.at_us <= ?",
        [route.model, until],
    )
    used = await database.rows(
        "SELECT at_us FROM usage WHERE route_id = ? AND request_id >= ? ORDER BY request_id DESC LIMIT 1",
        [route.id, lowest_id(now_us() - LOOK_BACK_US)],
    )
    return Draining(route, disabled_us, running[0]["n"], used[0]["at_us"] if used else None)
