"""Owns the money side of requests: placing holds and settling them through the ledger, one batch after another.

A settlement that was submitted is never lost: it is applied even if its request is cancelled, kept while the database is
busy, and put into quarantine when the database refuses it for good, while everybody else's billing goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from tortoise.exceptions import BaseORMException

from gateway.batching import RETRY, Batcher
from gateway.metrics import Metrics
from models.database import Database
from models.errors import DomainError, InsufficientCredits, LedgerUnavailable
from models.ids import now_us
from models.ledger import Ledger
from models.money import Capture, Command, Held, Place, Release, Settled
from models.prices import credits_text
from models.records import Epoch, Quarantine

_RETRY_PAUSE_S = 0.1
_RECOVERY_BATCH = 500
log = structlog.get_logger()


class Billing:
    def __init__(self, ledger: Ledger, database: Database, metrics: Metrics) -> None:
        self._ledger = ledger
        self._database = database
        self._metrics = metrics
        self._batcher: Batcher[Command] = Batcher(self._apply, abandoned=self._on_abandoned)
        self.epoch_id = 0

    async def start(self, machine: str, pid: int) -> int:
        """Open this worker's epoch and expire what dead ones left held. Returns how many holds that were.

        On SQLite the server owns the database file alone, so every other epoch is dead.
        """
        now = now_us()
        epoch = await Epoch.create(machine=machine, pid=pid, started_us=now, heartbeat_us=now)
        self.epoch_id = epoch.id
        expired = 0
        while rows := await self._database.rows(
            "SELECT request_id, account_id FROM hold WHERE status = 'open' AND epoch_id <> ? LIMIT ?",
            [self.epoch_id, _RECOVERY_BATCH],
        ):
            await self._ledger.apply(
                [Release(str(row["request_id"]), row["account_id"], now_us(), expired=True) for row in rows]
            )
            expired += len(rows)
        await Epoch.filter(ended_us=None).exclude(id=self.epoch_id).update(ended_us=now_us())
        return expired

    async def stop(self) -> None:
        """Wait for every settlement, then end the epoch."""
        await self._batcher.drained()
        await Epoch.filter(id=self.epoch_id).update(ended_us=now_us())
        await self._ledger.close()

    @property
    def waiting(self) -> int:
        return len(self._batcher)

    async def place(
        self, request_id: str, account_id: int, least_nano: int, most_nano: int, *, price_id: int, at_us: int
    ) -> int:
        """Hold money for a request and return how much. Raises InsufficientCredits or LedgerUnavailable.

        Cancelled while it waits, it leaves nothing held.
        """
        command = Place(request_id, account_id, least_nano, most_nano, price_id, self.epoch_id, at_us)
        future = self._batcher.submit(command)
        try:
            held: Held = await future
        except asyncio.CancelledError:
            # Granted in the very moment of the cancellation: the future has a result that nobody will read.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._on_abandoned(command, future.result())
            raise
        except InsufficientCredits as error:
            raise InsufficientCredits(
                f"Insufficient credits: this request can cost {credits_text(error.needed_nano)} credits and "
                f"{credits_text(error.available_nano)} are available. Top up in the dashboard under Billing, or send "
                "fewer tokens (a smaller max_tokens helps).",
                available_nano=error.available_nano,
                needed_nano=error.needed_nano,
            ) from None
        return held.amount_nano

    def capture(self, command: Capture) -> asyncio.Future[Settled]:
        """Charge. The future resolves when the charge is durable; nobody has to wait for it."""
        return self._batcher.submit(command)

    def release(self, command: Release) -> asyncio.Future[Settled]:
        """Give a hold back."""
        return self._batcher.submit(command)

    # ── how batches are applied ───────────────────────────────────────────────────────────────────────────────────

    async def _apply(self, commands: Sequence[Command]) -> Sequence[Any]:
        try:
            return await self._ledger.apply(commands)
        except LedgerUnavailable as error:
            self._metrics.ledger_retries.inc()
            log.warning("the ledger is not available", error=str(error), waiting=len(commands))
            await asyncio.sleep(_RETRY_PAUSE_S)
            return [_unavailable() if isinstance(command, Place) else RETRY for command in commands]
        except Exception as error:
            # Something in this batch cannot be stored. Each alone: the others must not suffer from it.
            if len(commands) > 1:
                return [(await self._apply([command]))[0] for command in commands]
            return [await self._refuse(commands[0], error)]

    async def _refuse(self, command: Command, error: Exception) -> Any:
        log.error("the ledger refused a command", error=repr(error), command=type(command).__name__)
        if not isinstance(command, Place):
            text = type(command).__name__ + " " + msgspec.json.encode(command).decode()
            request_id = getattr(command, "request_id", "")
            try:
                await Quarantine.create(at_us=now_us(), request_id=request_id, error=repr(error), command=text)
            except Exception as refusal:
                if isinstance(refusal, BaseORMException) and "locked" in str(refusal):
                    await asyncio.sleep(_RETRY_PAUSE_S)
                    return RETRY
                # The log keeps it then: whatever is wrong with this one, the others' settlements must go on.
                log.error("the quarantine refused a settlement", error=repr(refusal), settlement=text)
            self._metrics.quarantined.inc()
            await self._let_go(command)
        return _unavailable()

    async def _let_go(self, command: Command) -> None:
        """The hold of a settlement in quarantine goes back to its account, if the database takes that."""
        if isinstance(command, Capture | Release):
            try:
                await self._ledger.apply([Release(command.request_id, command.account_id, now_us())])
            except Exception as error:
                log.error("the hold stays open", request_id=command.request_id, error=repr(error))

    def _on_abandoned(self, command: Command, outcome: object) -> None:
        if isinstance(command, Place) and isinstance(outcome, Held):
            self._batcher.submit(Release(command.request_id, command.account_id, now_us()))
        elif isinstance(outcome, Exception) and not isinstance(outcome, DomainError):
            log.error("a settlement failed after its request had ended", error=repr(outcome))


def _unavailable() -> LedgerUnavailable:
    return LedgerUnavailable("Billing is unavailable for a moment. Nothing was charged; please try again.")
