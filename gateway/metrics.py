"""Owns the numbers that `/metrics` shows: of this process, or, where workers share a folder, of all of them.

The folder is named by PROMETHEUS_MULTIPROC_DIR, which `workers.py` sets; each worker writes its numbers to files in it.
Labels are bounded: aliases and routes of the catalog, statuses, and the first accounts that walked away. What every worker
reads in the database (holds, quarantine, partitions) is shown once, as whoever read it last found it.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from models.prices import Meters

if TYPE_CHECKING:
    from gateway.catalog import Route
    from gateway.turn import Turn

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ADDED_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_MOST_ACCOUNTS = 200
_OTHERS = "others"
_ROUTE = ("model", "provider", "route")
Mode = Literal["livesum", "livemax", "livemin", "livemostrecent"]


class _Times:
    """Durations of a model, counted in a list and moved into their histogram when read: see `Metrics.refresh`."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_sum_s")

    def __init__(self, histogram: Histogram, bounds: tuple[float, ...], model: str) -> None:
        self._histogram: Any = histogram.labels(model)
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum_s += seconds

    def move(self) -> None:
        # As `Histogram.observe` does it, which takes one value at a time.
        for bucket, count in enumerate(self._counts):
            if count:
                self._histogram._buckets[bucket].inc(count)
                self._counts[bucket] = 0
        self._histogram._sum.inc(self._sum_s)
        self._sum_s = 0.0


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Chat completions that are over", "model", "route", "status")
        self.http_errors = self._counter("http_errors", "Errors answered elsewhere than by chat completions", "status")
        self.attempts = self._counter("attempts", "Calls to providers", *_ROUTE, "result")
        self.tokens = self._counter("tokens", "Tokens billed", "model", "meter")
        self.credits = self._counter("charged_credits", "Credits charged", "model")
        self.charged = self._counter("charged_requests", "Requests that were charged", "model")
        self.estimated = self._counter("estimated_requests", "Charged by estimate", "model")
        self.left = self._counter("client_left", "Clients gone before their answer's end", "account", "when")
        self.first_byte = self._histogram("first_byte", "Until a provider's answer began", _SECONDS)
        self.duration = self._histogram("request", "Whole requests", _SECONDS)
        self.added = self._histogram("added", "Of whole requests, without the time at providers", _ADDED_SECONDS)
        self.running = self._gauge("requests_running", "Chat completions now running")
        self.draining = self._gauge("streams_draining", "Streams read on after their client left")
        self.cooling = self._gauge("route_cooling", "Workers in which a route rests after failures", labels=_ROUTE)
        # Money.
        self.settlements_waiting = self._gauge("ledger_waiting", "Commands waiting for the ledger")
        self.lag = self._gauge(
            "settlement_lag_seconds", "Since the oldest settlement was made that is not stored yet", mode="livemax"
        )
        self.spooled = self._gauge("spooled_settlements", "Settlements on disk until the database is back")
        self.spool_age = self._gauge("spool_age_seconds", "Since the oldest of those was made", mode="livemax")
        self.spools_left = self._gauge("spools_left", "Spools of the dead that nobody can take over", mode="livemax")
        self.replayed = self._counter("replayed_settlements", "Settlements stored from a spool")
        self.ledger_retries = self._counter("ledger_retries", "Batches the database did not take")
        self.quarantined = self._counter("quarantined", "Settlements the database refused")
        self.expired_holds = self._counter("expired_holds", "Holds of dead workers given back")
        # What the database says.
        self.holds = self._gauge("holds_open", "Holds of all servers", mode="livemostrecent")
        self.oldest_hold = self._gauge("oldest_hold_seconds", "Age of the oldest of those", mode="livemostrecent")
        self.quarantine = self._gauge("quarantine_size", "What waits for a person in quarantine", mode="livemostrecent")
        self.partitions_missing = self._gauge(
            "usage_partitions_missing", "Of the next months, those without a partition of usage", mode="livemostrecent"
        )
        # How the workers are.
        self.workers = self._gauge("workers", "Workers alive")
        self.workers_wanted = self._gauge("workers_wanted", "Workers that there should be", mode="livemax")
        self.restarts = restarts_counter(self.registry)
        self.heartbeat_at = self._moment("heartbeat", "The last heartbeat of a worker; the oldest of these")
        self.leases_lost = self._counter("leases_lost", "Times that a worker was taken for dead")
        self.feed_read_at = self._moment("change_feed_read", "The last reading of the change feed; the oldest of these")
        self.lines_lost = self._gauge("log_lines_lost", "Lines of the log that nobody read in time, or that failed")
        self.limiter_fallbacks = self._counter("limiter_fallbacks", "Times that Redis was away or slow")
        self.limiter_local = self._gauge("limiter_local", "Workers in which a local share of the limits is in force")

        # Counted in plain dicts and lists, which costs a request a tenth of what counters do, and moved into them when read.
        self._timers: dict[str, tuple[_Times, _Times, _Times]] = {}
        self._tally: defaultdict[tuple[Any, ...], float] = defaultdict(float)
        self._watched: list[tuple[Gauge, Callable[[], float]]] = []
        self._cooling: Callable[[], Iterable[tuple[str, str, str]]] = tuple
        self._cooled: set[tuple[str, str, str]] = set()
        self._accounts: set[int] = set()

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Let `value` say what this gauge shows."""
        self._watched.append((gauge, value))

    def watch_cooling(self, routes: Callable[[], Iterable[tuple[str, str, str]]]) -> None:
        """Let `routes` say which rest now: alias, provider and id of each."""
        self._cooling = routes

    def refresh(self) -> None:
        """Write down what was counted, and how things are now: called at every reading, and every second."""
        tally, self._tally = self._tally, defaultdict(float)
        for (metric, *labels), amount in tally.items():
            metric.labels(*map(str, labels)).inc(amount)
        for gauge, value in self._watched:
            gauge.set(value())
        now_cooling = set(self._cooling())
        self._cooled |= now_cooling
        for route in self._cooled:
            self.cooling.labels(*route).set(route in now_cooling)
        for timers in self._timers.values():
            for times in timers:
                times.move()

    def count_attempt(self, model: str, route: Route, status: int) -> None:
        self._tally[self.attempts, model, route.provider, route.id, status or "none"] += 1

    def count_request(self, turn: Turn) -> None:
        """Called when it is over."""
        model, route = turn.alias_name, turn.route
        self._tally[self.requests, model, "none" if route is None else route.id, turn.status] += 1
        if turn.status == 200:
            timers = self._timers.get(model)
            if timers is None:
                timers = self._timers[model] = (
                    _Times(self.duration, _SECONDS, model),
                    _Times(self.first_byte, _SECONDS, model),
                    _Times(self.added, _ADDED_SECONDS, model),
                )
            timers[0].observe(turn.ended_s)
            timers[1].observe(turn.first_byte_s)
            timers[2].observe(max(0.0, turn.ended_s - turn.provider_s))

    def count_charge(self, model: str, meters: Meters, credits: float, estimated: bool) -> None:
        tally = self._tally
        tally[self.tokens, model, "fresh"] += meters.fresh
        tally[self.tokens, model, "output"] += meters.output
        if meters.cached or meters.written:
            tally[self.tokens, model, "cached"] += meters.cached
            tally[self.tokens, model, "written"] += meters.written
        tally[self.credits, model] += credits
        tally[self.charged, model] += 1
        if estimated:
            tally[self.estimated, model] += 1

    def count_left(self, account_id: int, when: str) -> None:
        """By account, for who does it often; anybody may sign up, so only the first ones have a number of their own."""
        if len(self._accounts) < _MOST_ACCOUNTS:
            self._accounts.add(account_id)
        self._tally[self.left, account_id if account_id in self._accounts else _OTHERS, when] += 1

    def count_error(self, status: int) -> None:
        self._tally[self.http_errors, status] += 1

    def text(self) -> bytes:
        self.refresh()
        if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return generate_latest(self.registry)
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
        return generate_latest(everybody)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"gateway_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"gateway_{name}_seconds", what, ["model"], buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, what: str, *, mode: Mode = "livesum", labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"gateway_{name}", what, labels, registry=self.registry, multiprocess_mode=mode)

    def _moment(self, name: str, what: str) -> Gauge:
        """In Unix seconds, and not as an age: that of a worker that hangs would not grow."""
        gauge = self._gauge(f"{name}_timestamp_seconds", what, mode="livemin")
        gauge.set(time.time())
        return gauge


def restarts_counter(registry: CollectorRegistry) -> Counter:
    """Of the main process, which counts them; the workers show it, also where there is only one."""
    return Counter("gateway_worker_restarts", "Workers that died or hung and were replaced", registry=registry)
