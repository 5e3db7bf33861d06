"""Owns this worker's life in the database: its epoch, the heartbeat that proves it alive, and recovery after the dead.

A worker that cannot renew its heartbeat admits nobody, well before others may take it for dead. One that was taken for
dead (it was frozen) begins a new epoch; what it had held was given back, and its settlements still count, late.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog

from gateway.billing import Billing
from gateway.metrics import Metrics
from gateway.spool import left_behind
from models.database import Database
from models.epochs import (
    LEASE_S,
    Life,
    end_dead_epochs,
    end_epoch,
    ended_epochs,
    holds_of_the_dead,
    is_known,
    open_epoch,
    renew_epoch,
)
from models.ids import SECOND_US
from models.money import Settled

HEARTBEAT_S = 2.0
# Nobody is admitted in the last part of the lease.
_MARGIN_S = 5.0
_LATE_US = 60 * SECOND_US
# After a longer gap between two of our own heartbeats, the others' may have been kept from the database, too.
_GAP_S = 5.0
log = structlog.get_logger()


class Lease:
    def __init__(self, database: Database, life: Life, machine: str, pid: int, secret_mark: str | None) -> None:
        self._database = database
        self._machine, self._pid, self._secret_mark = machine, pid, secret_mark
        self.life = life
        self._renewed_at = time.monotonic()
        self._reachable_since = self._renewed_at
        self._looked_until_us = 0
        self._strange: set[Path] = set()
        self._beat_us = life.started_us

    @classmethod
    async def begin(cls, database: Database, machine: str, pid: int, *, secret_mark: str | None = None) -> Lease:
        life = await open_epoch(database, machine, pid, secret_mark=secret_mark)
        return cls(database, life, machine, pid, secret_mark)

    @property
    def is_fresh(self) -> bool:
        """Whether this worker may admit. On SQLite nobody else could take it for dead."""
        return self._database.dialect == "sqlite" or time.monotonic() - self._renewed_at < LEASE_S - _MARGIN_S

    @property
    def age_s(self) -> float:
        """Since the last heartbeat that was written."""
        return 0.0 if self._database.dialect == "sqlite" else time.monotonic() - self._renewed_at

    async def renew(self, billing: Billing) -> None:
        """The heartbeat; called every HEARTBEAT_S on PostgreSQL."""
        asked_at = time.monotonic()
        try:
            beat_us = await renew_epoch(self._database, self.life.epoch_id)
            if beat_us is None:
                log.warning("this worker was taken for dead; it begins anew", epoch=self.life.epoch_id)
                self.life = await open_epoch(self._database, self._machine, self._pid, secret_mark=self._secret_mark)
                billing.epoch_id = self.life.epoch_id
                beat_us = self.life.started_us
        except BaseException:
            self._reachable_since = 0.0
            raise
        self._renewed_at = asked_at
        if not self._reachable_since or beat_us - self._beat_us > _GAP_S * SECOND_US:
            self._reachable_since = time.monotonic()
        if beat_us < self._beat_us:
            # The database's clock was set back (a failover): what ends from now on may look as if it were long over.
            self._looked_until_us = 0
        self._beat_us = beat_us

    async def recover(self, billing: Billing, metrics: Metrics) -> None:
        """Give back what dead workers held, once everybody alive has had the time to say so. Any worker does it for all."""
        now = time.monotonic()
        is_sure = 0 < self._reachable_since < now - LEASE_S and now - self._renewed_at < _GAP_S
        if self._database.dialect != "sqlite" and not is_sure:
            return
        # What has to wait for the database is not asked on the strength of how it was before.
        async with asyncio.timeout(_GAP_S):
            dead = await end_dead_epochs(self._database, self.life.epoch_id, fresh_s=_GAP_S)
        if dead:
            log.warning("workers have died", epochs=dead)
        # Those that were looked at before are not looked at again, but for the last ones: moments of one time may come late.
        ended = await ended_epochs(self._database, self._looked_until_us - _LATE_US)
        expired = failed = 0
        async for releases in holds_of_the_dead(self._database, ended):
            outcomes = await asyncio.gather(*map(billing.release, releases), return_exceptions=True)
            failed += sum(isinstance(outcome, BaseException) for outcome in outcomes)
            expired += sum(isinstance(outcome, Settled) and not outcome.repeated for outcome in outcomes)
        if not failed:
            self._looked_until_us = max(ended.values(), default=self._looked_until_us)
        if expired:
            metrics.expired_holds.inc(expired)
            log.warning("gave back what workers that died had held", holds=expired)

    async def adopt(self, billing: Billing, folder: Path, metrics: Metrics) -> None:
        """Store what dead workers of this machine left in their spools."""
        stay: list[Path] = []
        left = left_behind(folder, stay)
        while (spool := await asyncio.to_thread(next, left, None)) is not None:
            try:
                if await is_known(self._database, spool.life):
                    await billing.replay(spool)
                    continue
                stay.append(spool.path)
                if spool.path not in self._strange:
                    self._strange.add(spool.path)
                    log.error("a spool belongs to another database; move it away", spool=str(spool.path))
            finally:
                await asyncio.to_thread(spool.close)
        metrics.spools_left.set(len(stay))

    async def end(self) -> None:
        await end_epoch(self._database, self.life.epoch_id)
