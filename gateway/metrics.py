"""Owns the numbers that `/metrics` shows, in a registry of its own."""

from __future__ import annotations

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

        self._bound: dict[tuple[str, ...], Any] = {}

    def count_attempt(self, route_id: int, status: int) -> None:
        self._child(self.attempts, str(route_id), str(status) if status else "none").inc()

    def count_answer(self, model: str, status: int, seconds: float, first_byte_s: float) -> None:
        self._child(self.requests, model, str(status)).inc()
        if status == 200:
            self._child(self.duration, model).observe(seconds)
            self._child(self.first_byte, model).observe(first_byte_s)

    def count_charge(self, model: str, meters: Meters, credits: float, estimated: bool) -> None:
        for meter in ("fresh", "cached", "written", "output"):
            tokens = getattr(meters, meter)
            if tokens:
                self._child(self.tokens, model, meter).inc(tokens)
        self._child(self.credits, model).inc(credits)
        if estimated:
            self._child(self.estimated, model).inc()

    def _child(self, metric: Any, *labels: str) -> Any:
        """A metric with its labels, looked up once."""
        key = (metric._name, *labels)
        child = self._bound.get(key)
        if child is None:
            child = self._bound[key] = metric.labels(*labels)
        return child

    def text(self) -> bytes:
        return generate_latest(self.registry)
