"""Owns which routes are tried, in which order, and which rest: position, weight, cooldown with one probe."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import msgspec

from gateway.catalog import Alias, Route
from models.errors import UpstreamUnavailable

MOST_ATTEMPTS = 4
_LONGEST_COOLDOWN_S = 60.0


class _State(msgspec.Struct):
    failures: int = 0
    cool_until: float = 0.0
    probing: bool = False


class RouteHealth:
    """Counts failures in a row. After `after` of them a route rests; then one request probes it, the others wait."""

    def __init__(self, after: int, cooldown_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._after = after
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._states: dict[int, _State] = {}

    def is_resting(self, route_id: int) -> bool:
        state = self._states.get(route_id)
        return state is not None and state.cool_until > 0 and (state.probing or state.cool_until > self._clock())

    def enter(self, route_id: int) -> bool:
        """Whether this route may be tried now; after a rest only the first to ask may, as its probe."""
        if not self._states:
            return True
        if self.is_resting(route_id):
            return False
        state = self._states.get(route_id)
        if state is not None and state.cool_until > 0:
            state.probing = True
        return True

    def succeeded(self, route_id: int) -> None:
        if self._states:
            self._states.pop(route_id, None)

    def failed(self, route_id: int, retry_after_s: float = 0.0) -> None:
        """`retry_after_s`: the provider itself said how long to stay away."""
        state = self._states.setdefault(route_id, _State())
        state.failures += 1
        state.probing = False
        over = state.failures - self._after
        if over >= 0 or retry_after_s:
            rest_s = min(_LONGEST_COOLDOWN_S, self._cooldown_s * 2 ** min(max(over, 0), 10))
            state.cool_until = self._clock() + max(rest_s if over >= 0 else 0.0, retry_after_s)

    def abandoned(self, route_id: int) -> None:
        """The attempt ended without telling anything about the route (its client left)."""
        state = self._states.get(route_id)
        if state is not None:
            state.probing = False

    @property
    def resting(self) -> set[int]:
        """The ids of the routes that rest."""
        return {route_id for route_id in self._states if self.is_resting(route_id)}


def plan(alias: Alias, health: RouteHealth) -> Sequence[Route]:
    """The routes to try, in order: by position, within one position by chance according to weight.

    Raises UpstreamUnavailable when every route rests.
    """
    if len(alias.routes) == 1:
        routes: Sequence[Route] = alias.routes
    else:
        # Exponential variates with rate `weight`: the smallest belongs to each route with chance weight / sum.
        drawn = [(route.position, random.expovariate(route.weight), route.id, route) for route in alias.routes]
        routes = [route for *_, route in sorted(drawn)]
    ready = [route for route in routes if not health.is_resting(route.id)]
    if not ready:
        raise unavailable(alias.name)
    return ready


def unavailable(alias: str) -> UpstreamUnavailable:
    return UpstreamUnavailable(
        f"The provider of {alias!r} is unavailable or all of its fallback routes failed. This request was not charged; "
        "please try again in a moment."
    )
