"""Owns what is seen of a running worker from outside: its gauges, and what is told of a request that is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import structlog

from gateway.log_lines import lines
from gateway.logs import RequestLog
from gateway.traces import Traces, open_traces
from models.ids import SECOND_US, now_us
from models.survey import survey

if TYPE_CHECKING:
    from gateway.gateway import Gateway
    from gateway.turn import Turn

SURVEY_S = 3.0
log = structlog.get_logger()


class Watch:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        metrics = gateway.metrics
        self._log: RequestLog | None = None
        self._traces: Traces | None = None
        metrics.watch(metrics.running, lambda: len(gateway.running))
        metrics.watch(metrics.draining, lambda: len(gateway.drains))
        metrics.watch(metrics.lines_lost, lambda: lines.lost)

    def begin(self) -> None:
        """All parts of the gateway are there. Raises SetupError for traces that cannot be had."""
        self._traces = open_traces()
        gateway, metrics, billing = self._gateway, self._gateway.metrics, self._gateway.billing
        if gateway.settings.log_requests:
            self._log = RequestLog(gateway.settings)
        metrics.workers.set(1)
        metrics.workers_wanted.set(gateway.settings.workers)
        metrics.watch(metrics.settlements_waiting, lambda: billing.waiting)
        metrics.watch(metrics.lag, lambda: billing.lag_s)
        metrics.watch(metrics.spooled, lambda: billing.spooled)
        metrics.watch(metrics.spool_age, lambda: billing.spool_age_s)
        metrics.watch(metrics.feed_read_at, lambda: time.time() - (time.monotonic() - gateway.catalog.read_at))
        metrics.watch(metrics.heartbeat_at, lambda: time.time() - gateway.lease.age_s)
        metrics.watch_cooling(self._cooling)

    def begun(self, turn: Turn, headers: Mapping[str, str]) -> None:
        if self._traces is not None:
            turn.carried = self._traces.carried(headers)

    def finished(self, turn: Turn) -> None:
        """A request is over, and its numbers stand. Whatever goes wrong here is not the request's."""
        try:
            self._gateway.metrics.count_request(turn)
            if self._log is not None:
                self._log.tell(turn)
            if self._traces is not None:
                self._traces.tell(turn)
        except Exception:
            log.exception("a request could not be told of", request_id=turn.request_id)

    def refused(self, request_id: str, status: int, *, api: bool) -> None:
        """HTTP itself refused something; what others than clients of the API get wrong is not told."""
        self._gateway.metrics.count_error(status)
        if api and self._log is not None:
            self._log.tell_error(now_us(), request_id, status)

    async def end(self) -> None:
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    async def survey(self) -> None:
        """Called every SURVEY_S: what only the database knows."""
        now, metrics = now_us(), self._gateway.metrics
        found = await survey(self._gateway.database, now)
        oldest_us = now if found.oldest_hold_us is None else found.oldest_hold_us
        metrics.holds.set(found.holds_open)
        metrics.oldest_hold.set(max(0.0, (now - oldest_us) / SECOND_US))
        metrics.quarantine.set(found.quarantined)
        metrics.partitions_missing.set(found.partitions_missing)

    def _cooling(self) -> Iterator[tuple[str, str, str]]:
        resting = self._gateway.health.resting
        for alias in self._gateway.catalog.snapshot.aliases.values() if resting else ():
            for route in alias.routes:
                if route.id in resting:
                    yield alias.name, route.provider, str(route.id)
