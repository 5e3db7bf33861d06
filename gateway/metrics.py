"""Owns the numbers that `/metrics` shows: of this process, or, where workers share a folder, of all of them.

The folder is named by PROMETHEUS_MULTIPROC_DIR, which `workers.py` sets; each worker writes its numbers to files in it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from models.prices import Meters

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("gateway_requests", "Chat completions answered", ["model", "status"], registry=registry)
        self.attempts = Counter("gateway_attempts", "Calls to providers", ["route", "result"], registry=registry)
        self.tokens = Counter("gateway_tokens", "Tokens billed", ["model", "meter"], registry=registry)
        self.credits = Counter("gateway_charged_credits", "Credits charged", ["model"], registry=registry)
        self.estimated = Counter("gateway_estimated_requests", "Charged by estimate", ["model"], registry=registry)
        self.left = Counter(
            "gateway_client_left", "Clients gone before their answer's end", ["account", "when"], registry=registry
        )
        self.first_byte = Histogram(
            "gateway_first_byte_seconds",
            "Until a provider's answer began",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "gateway_request_seconds", "Whole requests", ["model"], buckets=_SECONDS, registry=registry
        )
        self.running = self._gauge("gateway_requests_running", "Chat completions now running")
        self.draining = self._gauge("gateway_streams_draining", "Streams read on after their client left")
        self.cooling = self._gauge("gateway_routes_cooling", "Routes that rest after failures")
        self.settlements_waiting = self._gauge("gateway_ledger_waiting", "Commands waiting for the ledger")
        self.spooled = self._gauge("gateway_spooled_settlements", "Settlements on disk until the database is back")
        self.replayed = Counter("gateway_replayed_settlements", "Settlements stored from a spool", registry=registry)
        self.ledger_retries = Counter("gateway_ledger_retries", "Batches the database did not take", registry=registry)
        self.quarantined = Counter("gateway_quarantined", "Settlements the database refused", registry=registry)
        self.expired_holds = Counter("gateway_expired_holds", "Holds of dead workers given back", registry=registry)
        self.feed_age = self._gauge("gateway_change_feed_age_seconds", "Since the change feed was read", mode="livemax")
        self.limiter_fallbacks = Counter(
            "gateway_limiter_fallbacks", "Times that Redis was away or slow", registry=registry
        )
        self.limiter_local = self._gauge(
            "gateway_limiter_local", "Workers in which a local share of the limits is in force"
        )

        # Counted in a plain dict, which costs a request a tenth of what counters do, and moved into them when read.
        self._timers: dict[str, tuple[Histogram, Histogram]] = {}
        self._tally: defaultdict[tuple[Any, ...], float] = defaultdict(float)
        self._watched: list[tuple[Gauge, Callable[[], float]]] = []

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Let `value` say what this gauge shows."""
        self._watched.append((gauge, value))

    def refresh(self) -> None:
        """Write down what was counted, and how things are now: called at every reading, and every second."""
        tally, self._tally = self._tally, defaultdict(float)
        for (metric, *labels), amount in tally.items():
            metric.labels(*map(str, labels)).inc(amount)
        for gauge, value in self._watched:
            gauge.set(value())

    def count_attempt(self, route_id: int, status: int) -> None:
        self._tally[self.attempts, route_id, status or "none"] += 1

    def count_answer(self, model: str, status: int, seconds: float, first_byte_s: float) -> None:
        self._tally[self.requests, model, status] += 1
        if status == 200:
            timers = self._timers.get(model)
            if timers is None:
                timers = self._timers[model] = (self.duration.labels(model), self.first_byte.labels(model))
            timers[0].observe(seconds)
            timers[1].observe(first_byte_s)

    def count_charge(self, model: str, meters: Meters, credits: float, estimated: bool) -> None:
        tally = self._tally
        tally[self.tokens, model, "fresh"] += meters.fresh
        tally[self.tokens, model, "output"] += meters.output
        if meters.cached or meters.written:
            tally[self.tokens, model, "cached"] += meters.cached
            tally[self.tokens, model, "written"] += meters.written
        tally[self.credits, model] += credits
        if estimated:
            tally[self.estimated, model] += 1

    def text(self) -> bytes:
        self.refresh()
        if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return generate_latest(self.registry)
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
        return generate_latest(everybody)

    def _gauge(self, name: str, what: str, *, mode: Literal["livesum", "livemax"] = "livesum") -> Gauge:
        return Gauge(name, what, registry=self.registry, multiprocess_mode=mode)
