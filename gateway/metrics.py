"""Owns the numbers that `/metrics` shows, in a registry of its own."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
        self.running = Gauge("gateway_requests_running", "Chat completions now running", registry=registry)
        self.draining = Gauge("gateway_streams_draining", "Streams read on after their client left", registry=registry)
        self.cooling = Gauge("gateway_routes_cooling", "Routes that rest after failures", registry=registry)
        self.settlements_waiting = Gauge("gateway_ledger_waiting", "Commands waiting for the ledger", registry=registry)
        self.ledger_retries = Counter("gateway_ledger_retries", "Batches the database did not take", registry=registry)
        self.quarantined = Counter("gateway_quarantined", "Settlements the database refused", registry=registry)
        self.expired_holds = Counter("gateway_expired_holds", "Holds of dead workers given back", registry=registry)
        self.feed_age = Gauge("gateway_change_feed_age_seconds", "Since the change feed was read", registry=registry)

        # Counted in a plain dict, which costs a request a tenth of what counters do, and moved into them when read.
        self._timers: dict[str, tuple[Histogram, Histogram]] = {}
        self._tally: defaultdict[tuple[Any, ...], float] = defaultdict(float)

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
        tally, self._tally = self._tally, defaultdict(float)
        for (metric, *labels), amount in tally.items():
            metric.labels(*map(str, labels)).inc(amount)
        return generate_latest(self.registry)
