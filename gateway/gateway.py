"""Owns the parts of a running gateway and their life: what is built at the start, polled meanwhile, and ended at the stop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from threading import Thread

import structlog
from tortoise.context import TortoiseContext

from gateway.auth import Keys
from gateway.billing import WATCH_S, Billing
from gateway.catalog import LOOK_S, Catalog
from gateway.client import ClientStream
from gateway.lease import HEARTBEAT_S, Lease
from gateway.limits import Limiter
from gateway.limits.local import LocalLimiter
from gateway.metrics import Metrics
from gateway.payments import Payments
from gateway.routing import RouteHealth
from gateway.settings import Settings
from gateway.spool import Spool, path_of
from gateway.turn import Turn
from gateway.upstream import Upstream
from gateway.watching import SURVEY_S, Watch
from models.database import Database, connect, is_away
from models.errors import LedgerUnavailable, SetupError
from models.ids import now_us
from models.key_uses import note_uses
from models.ledger import Ledger
from models.partitions import make_partitions
from models.postgres_ledger import PostgresLedger
from models.price_list import database_now_us
from models.rollups import roll_up
from models.schema import check_schema
from models.secrets import Seal, load_secret_key
from models.sqlite_ledger import SqliteLedger

FEED_S = 0.25
_RETURN_S = 0.5
_RECOVER_S = 5.0
_PARTITIONS_S = 3600.0
# Days of the past are rolled up in small steps: a year of them in a few minutes.
_ROLL_UP_S = 5.0
_DAYS_AT_ONCE = 10
# No background task may hang for ever on a database that is frozen; the next time is another chance.
_PROMPT_S = 5.0
_AT_LENGTH_S = 120.0
# A statement that takes this long on the request path's connections never comes back.
_COMMAND_TIMEOUT_S = 5.0
_PAGES_POOL = 2
_PAGES_NICENESS = 19
_PAGES_COMMAND_TIMEOUT_S = 15.0
_SETTLE_WITHIN_S = 30.0
_KEEP_ALIVE_CHECK_S = 1.0
_REFRESH_S = 1.0
_MISSES = 3
_SWEEP_S = 60.0
_NOTE_USES_S = 15.0
# Once interrupted, streams need a moment to say so to their clients.
_INTERRUPTED_S = 2.0
_STOPPING = "This server is shutting down; please try again, another one will answer."
log = structlog.get_logger()


class Gateway:
    """Everything one worker needs. Built by `start`, in the worker's own event loop."""

    database: Database
    # The dashboard reads and writes on connections of its own: whatever it does, requests do not wait for it.
    pages_database: Database
    pages_context: contextvars.Context
    secret_key: str
    catalog: Catalog
    keys: Keys
    lease: Lease
    billing: Billing
    upstream: Upstream
    payments: Payments | None = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.limiter = _limiter(settings, self.metrics)
        self.health = RouteHealth(settings.cooldown_after, settings.cooldown_s)
        self.running: set[Turn] = set()
        self.streams: set[ClientStream] = set()
        self.drains: set[asyncio.Task[None]] = set()
        self.shutdown_s = settings.shutdown_s
        self.stopping = False
        self.closed = False
        self._misses = 0
        self._ended = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        self.watch = Watch(self)

    async def start(self) -> None:
        """Raises SetupError when settings or database are not ready."""
        url, pool = self.settings.database, self.settings.database_pool
        self.database = await connect(
            url, TortoiseContext(), everywhere=True, pool=pool, command_timeout_s=_COMMAND_TIMEOUT_S
        )
        try:
            context = TortoiseContext()
            self.pages_database = await connect(
                url, context, pool=_PAGES_POOL, command_timeout_s=_PAGES_COMMAND_TIMEOUT_S
            )
            _step_back(self.pages_database)
            self.pages_context = contextvars.copy_context()
            self.pages_context.run(context.__enter__)
            await self._build()
        except BaseException:
            # An open database keeps a thread, and a thread keeps the process.
            await self._close_databases()
            raise

    async def _build(self) -> None:
        url = self.settings.database
        secret = self.settings.secret_key
        self.secret_key = load_secret_key(url, secret.get_secret_value() if secret else None)
        seal = Seal(self.secret_key)
        # A newer version may have migrated meanwhile, which only adds: a worker of this one that died comes back all the same.
        await check_schema(self.database, newer=True)
        self.catalog = Catalog(self.database, seal)
        await self.catalog.start()
        self.keys = Keys(self.database, self.catalog)
        self.lease = await Lease.begin(self.database, socket.gethostname(), os.getpid(), secret_mark=seal.mark)
        self.billing = self._open_billing()
        self.billing.epoch_id = self.lease.life.epoch_id
        if url.path is not None:
            # Only a server that ran before this one can have left anything, and nobody else has this file.
            await self.lease.recover(self.billing, self.metrics)
        self.upstream = Upstream(self.settings)
        if self.settings.stripe_secret_key is not None:
            self.payments = Payments(self.settings)
        self.watch.begin()
        await self.limiter.start()
        _tune_collector()
        tasks: list[tuple[float, Callable[[], Awaitable[None]], float]] = [
            (FEED_S, self._follow, _PROMPT_S),
            (LOOK_S, self.catalog.look, _PROMPT_S),
            (_KEEP_ALIVE_CHECK_S, self._keep_alive, _PROMPT_S),
            (_REFRESH_S, self._refresh, _PROMPT_S),
            (_SWEEP_S, self._sweep, _PROMPT_S),
            (SURVEY_S, self.watch.survey, _PROMPT_S),
            (_NOTE_USES_S, self.store_uses, _PROMPT_S),
            (_ROLL_UP_S, self._roll_up, _AT_LENGTH_S),
        ]
        if url.path is None:
            tasks += [
                (WATCH_S, self.billing.watch, _PROMPT_S),
                (HEARTBEAT_S, self._renew, _PROMPT_S),
                (_RETURN_S, self.billing.return_to_database, _AT_LENGTH_S),
                (_RECOVER_S, self._recover, _AT_LENGTH_S),
                (_PARTITIONS_S, self._make_partitions, _AT_LENGTH_S),
            ]
        self._background = [asyncio.create_task(_every(*task)) for task in tasks]

    def _open_billing(self) -> Billing:
        url = self.settings.database
        if url.path is not None:
            sqlite: Ledger = SqliteLedger(url.path)
            return Billing(sqlite, self.metrics)
        life = self.lease.life
        try:
            spool = Spool(path_of(self.settings.spool_folder, life), life)
        except OSError as error:
            raise SetupError(f"GATEWAY_SPOOL_DIR: cannot write to {self.settings.spool_folder}: {error}") from None
        return Billing(PostgresLedger(url), self.metrics, spool)

    async def stop(self) -> None:
        """Admit nobody; let what runs finish within the bound; interrupt the rest; settle everything; close."""
        self.stopping = True
        await self._quiet(lambda: not (self.running or self.drains), self.shutdown_s)
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
        await self.limiter.stop()
        # The heartbeat goes on meanwhile, and so does the watch over a database that does not answer.
        await self.billing.stop(_SETTLE_WITHIN_S)
        for task in self._background:
            task.cancel()
        self.metrics.refresh()
        try:
            async with asyncio.timeout(_PROMPT_S):
                await self.lease.end()
                await self.store_uses()
        except Exception as error:
            # Others will take it for dead, and find nothing held.
            log.warning("could not write that this worker has ended", error=repr(error))
        await self.watch.end()
        await self.upstream.close()
        if self.payments is not None:
            await self.payments.close()
        await self._close_databases()

    async def _close_databases(self) -> None:
        if hasattr(self, "pages_database"):
            await self.pages_database.close()
        await self.database.close()

    def check_admits(self) -> None:
        """Raises LedgerUnavailable when this worker takes no new requests."""
        if self.stopping:
            raise LedgerUnavailable(_STOPPING)
        if not self.lease.is_fresh:
            raise LedgerUnavailable("This server has lost touch with its database for a moment; please try again.")

    def check_open(self) -> None:
        """Raises LedgerUnavailable when nothing may be begun any more."""
        if self.closed:
            raise LedgerUnavailable(_STOPPING)

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

    async def _renew(self) -> None:
        """The heartbeat; a pool whose connections do not come back is made anew."""
        life = self.lease.life
        try:
            await self.lease.renew(self.billing)
            self._misses = 0
            if self.lease.life != life:
                self.metrics.leases_lost.inc()
        except BaseException:
            self._misses += 1
            if self._misses % _MISSES == 0:
                await self.database.reconnect()
            raise

    async def _recover(self) -> None:
        """After the dead: store what they left in spools, give back what they held."""
        try:
            await self.lease.adopt(self.billing, self.settings.spool_folder, self.metrics)
        finally:
            await self.lease.recover(self.billing, self.metrics)

    async def _make_partitions(self) -> None:
        """Those of the months to come. Late or never, nothing is lost: see `models/partitions.py`."""
        try:
            made = await make_partitions(self.database, now_us())
        except (SetupError, LedgerUnavailable) as error:
            log.warning("partitions of usage could not be made", error=str(error))
            return
        if made:
            log.info("made partitions of usage", names=made)

    async def _roll_up(self) -> None:
        """Days that are over; on PostgreSQL by one worker of all."""
        await roll_up(self.database, await database_now_us(self.database), most_days=_DAYS_AT_ONCE)

    async def _refresh(self) -> None:
        self.metrics.refresh()

    async def _keep_alive(self) -> None:
        for stream in list(self.streams):
            stream.keep_alive(self.settings.keep_alive_s)

    async def store_uses(self) -> None:
        """When keys were last used; what cannot be stored now is stored the next time."""
        uses, self.keys.used = self.keys.used, {}
        try:
            await note_uses(self.pages_database, uses)
        except BaseException as error:
            self.keys.used = uses | self.keys.used
            if not is_away(error):
                raise

    async def _sweep(self) -> None:
        self.limiter.sweep()


def _limiter(settings: Settings, metrics: Metrics) -> Limiter:
    if settings.redis_url is None:
        return LocalLimiter()
    # It loads redis-py, which takes a tenth of a server's start.
    from gateway.limits.shared import SharedLimiter

    return SharedLimiter(settings.redis_url, metrics, workers=settings.workers)


def _step_back(database: Database) -> None:
    """SQLite works in a thread of ours: where the dashboard's and the event loop want one processor, the loop goes first."""
    thread: Thread | None = getattr(getattr(database.connection, "_connection", None), "_thread", None)
    if thread is not None and thread.native_id is not None and sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, thread.native_id, _PAGES_NICENESS)


def _tune_collector() -> None:
    """Requests make many short-lived objects and few cycles: look for those less often, and never among the modules.

    Often enough, though, that what clients who leave a stream tie together is found within minutes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 5)


async def _every(seconds: float, act: Callable[[], Awaitable[None]], within_s: float) -> None:
    """Again and again until cancelled; one failure is logged, and the next time is another chance."""
    while True:
        await asyncio.sleep(seconds)
        try:
            async with asyncio.timeout(within_s):
                await act()
        except Exception as error:
            log.error("a background task failed", task=act.__name__, error=repr(error))
