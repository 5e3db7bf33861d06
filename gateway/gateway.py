"""Owns the parts of a running gateway and their life: what is built at the start, polled meanwhile, and ended at the stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from tortoise.context import TortoiseContext

from gateway.auth import Keys
from gateway.billing import Billing
from gateway.catalog import Catalog
from gateway.client import ClientStream
from gateway.limits import Limiter
from gateway.limits.local import LocalLimiter
from gateway.metrics import Metrics
from gateway.routing import RouteHealth
from gateway.settings import Settings
from gateway.turn import Turn
from gateway.upstream import Upstream
from models.database import Database, connect, pending_migrations
from models.errors import SetupError
from models.ids import now_us
from models.ledger import SqliteLedger
from models.secrets import Seal, load_secret_key

FEED_S = 0.25
_KEEP_ALIVE_CHECK_S = 1.0
_SWEEP_S = 60.0
# Once interrupted, streams need a moment to say so to their clients.
_INTERRUPTED_S = 2.0
log = structlog.get_logger()


class Gateway:
    """Everything one worker needs. Built by `start`, in the worker's own event loop."""

    database: Database
    catalog: Catalog
    keys: Keys
    billing: Billing
    upstream: Upstream

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.limiter: Limiter = LocalLimiter()
        self.health = RouteHealth(settings.cooldown_after, settings.cooldown_s)
        self.running: set[Turn] = set()
        self.streams: set[ClientStream] = set()
        self.drains: set[asyncio.Task[None]] = set()
        self.stopping = False
        self.closed = False
        self._ended = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        self.metrics.running.set_function(lambda: len(self.running))
        self.metrics.draining.set_function(lambda: len(self.drains))
        self.metrics.cooling.set_function(lambda: self.health.resting)

    async def start(self) -> None:
        """Raises SetupError when settings or database are not ready."""
        url = self.settings.database
        if url.path is None:
            raise SetupError("GATEWAY_DATABASE_URL: serving from PostgreSQL is not ready yet; use sqlite://PATH")
        self.database = await connect(url, TortoiseContext(), everywhere=True)
        try:
            await self._build(url.path)
        except BaseException:
            # An open database keeps a thread, and a thread keeps the process.
            await self.database.close()
            raise

    async def _build(self, path: Path) -> None:
        url = self.settings.database
        secret = self.settings.secret_key
        seal = Seal(load_secret_key(url, secret.get_secret_value() if secret else None))
        pending = await pending_migrations(self.database)
        if pending:
            raise SetupError(f"the database {url.shown} needs {len(pending)} migrations; run: gateway migrate")
        self.catalog = Catalog(self.database, seal)
        await self.catalog.start()
        self.keys = Keys(self.database, self.catalog)
        self.billing = Billing(SqliteLedger(path), self.database, self.metrics)
        expired = await self.billing.start(socket.gethostname(), os.getpid())
        if expired:
            self.metrics.expired_holds.inc(expired)
            log.warning("gave back what a worker that died had held", holds=expired)
        self.metrics.settlements_waiting.set_function(lambda: self.billing.waiting)
        self.metrics.feed_age.set_function(lambda: (now_us() - self.catalog.read_at_us) / 1e6)
        self.upstream = Upstream(self.settings)
        _tune_collector()
        self._background = [
            asyncio.create_task(_every(FEED_S, self._follow)),
            asyncio.create_task(_every(_KEEP_ALIVE_CHECK_S, self._keep_alive)),
            asyncio.create_task(_every(_SWEEP_S, self._sweep)),
        ]

    async def stop(self) -> None:
        """Admit nobody; let what runs finish within the bound; interrupt the rest; settle everything; close."""
        self.stopping = True
        await self._quiet(lambda: not (self.running or self.drains), self.settings.shutdown_s)
        for stream in list(self.streams):
            if stream.task is not None and not stream.settling:
                stream.interrupted = True
                stream.task.cancel()
        for drain in list(self.drains):
            drain.cancel()
        await self._quiet(lambda: not (self.streams or self.drains), _INTERRUPTED_S)
        self.closed = True
        for turn in list(self.running):
            turn.release("failed")
        for task in self._background:
            task.cancel()
        await self.billing.stop()
        await self.upstream.close()
        await self.database.close()

    def ended(self) -> None:
        """A request or a drain is over: whoever waits for quiet looks again."""
        self._ended.set()

    def drained(self, drain: asyncio.Task[None]) -> None:
        self.drains.discard(drain)
        self.ended()

    async def _quiet(self, is_quiet: Callable[[], bool], within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not is_quiet():
                    self._ended.clear()
                    await self._ended.wait()

    async def _follow(self) -> None:
        await self.catalog.follow(self.keys.evict, self.keys.clear)

    async def _keep_alive(self) -> None:
        for stream in list(self.streams):
            stream.keep_alive(self.settings.keep_alive_s)

    async def _sweep(self) -> None:
        self.limiter.sweep()


def _tune_collector() -> None:
    """Requests make many short-lived objects and hardly a cycle: look for those less often, and never among the modules."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    """Again and again until cancelled; one failure is logged, and the next time is another chance."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await act()
        except Exception as error:
            log.error("a background task failed", task=act.__name__, error=repr(error))
