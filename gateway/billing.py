"""Owns the money side of requests: placing holds and settling them through the ledger, one batch after another.

A settlement that was submitted is never lost: it is applied even if its request is cancelled, kept while the database is
away (on PostgreSQL in the spool, so that answers need not wait; on SQLite in memory), and put into quarantine when the
database refuses it for good, while everybody else's billing goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from gateway.batching import RETRY, Batcher
from gateway.metrics import Metrics
from gateway.spool import Settlement, Spool
from models.database import is_away
from models.errors import DomainError, LedgerUnavailable, NotFound
from models.ids import SECOND_US, now_us
from models.ledger import Ledger
from models.money import Capture, Command, Held, Place, Release, Settled
from models.records import Quarantine

# Looked at so often, a database that owes an answer keeps nobody waiting for longer than this; and is given up after that.
WATCH_S = 0.15
_STALLED_LOOKS = 5
_GIVE_UP_S = 3.0
_RETRY_PAUSE_S = 0.1
_REPLAYED_AT_ONCE = 200
# Well within the hour after which a month is closed (see models/months.py).
_LONG_US = 1_800 * SECOND_US
log = structlog.get_logger()


class Billing:
    def __init__(self, ledger: Ledger, metrics: Metrics, spool: Spool | None = None) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._spool = spool
        self._batcher: Batcher[Command] = Batcher(self._apply, abandoned=self._on_abandoned)
        self._stalled = False
        self._looked = (0.0, 0)
        # The database is away: what is settled meanwhile goes to the spool.
        self._away = False
        # Held while settlements are appended, and while the spool is found empty and cleared.
        self._spooling = asyncio.Lock()
        self.epoch_id = 0

    async def stop(self, within_s: float) -> None:
        """Wait for every settlement; what the database does not take within the bound goes to the spool, or to the log."""
        left = await self._batcher.stop(within_s)
        commands = [command for command, _ in left]
        kept = await self._set_aside(commands) if left and self._spool is not None else [RETRY] * len(left)
        for command, outcome in zip(commands, kept, strict=True):
            if outcome is RETRY and not isinstance(command, Place):
                log.error("not settled before the end", settlement=_text(command))
        self._batcher.resolve(left, [_unavailable() if outcome is RETRY else outcome for outcome in kept])
        await self._ledger.close()
        if self._spool is not None:
            self._spool.close()

    @property
    def is_open(self) -> bool:
        """Whether new requests may hold money."""
        return not (self._away or self._stalled)

    @property
    def waiting(self) -> int:
        return len(self._batcher)

    @property
    def spooled(self) -> int:
        return 0 if self._spool is None else self._spool.count

    @property
    def spool_age_s(self) -> float:
        """Since the oldest settlement that waits on disk was made."""
        return 0.0 if self._spool is None else _since_s(self._spool.oldest_us)

    @property
    def lag_s(self) -> float:
        """Since the oldest settlement was made that is not in the database yet, wherever it waits."""
        made_us = (c.at_us for c in self._batcher.waiting() if isinstance(c, Capture | Release))
        return max(self.spool_age_s, _since_s(next(made_us, None)))

    async def place(
        self, request_id: str, account_id: int, least_nano: int, most_nano: int, *, price_id: int, at_us: int
    ) -> int:
        """Hold money for a request and return how much. Raises InsufficientCredits or LedgerUnavailable.

        Cancelled while it waits, it leaves nothing held.
        """
        if not self.is_open:
            raise _unavailable()
        command = Place(request_id, account_id, least_nano, most_nano, price_id, self.epoch_id, at_us)
        future = self._batcher.submit(command)
        try:
            held: Held = await future
        except asyncio.CancelledError:
            # Granted in the very moment of the cancellation: the future has a result that nobody will read.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._on_abandoned(command, future.result())
            raise
        except LedgerUnavailable:
            raise _unavailable() from None
        return held.amount_nano

    def capture(self, command: Capture) -> asyncio.Future[Settled]:
        """Charge. The future resolves when the charge is durable; nobody has to wait for it, nor can stop it."""
        return self._batcher.submit(command, certain=True)

    def release(self, command: Release) -> asyncio.Future[Settled]:
        """Give a hold back."""
        return self._batcher.submit(command)

    async def watch(self) -> None:
        """Called every WATCH_S. New requests wait less than a second for a database that does not answer.

        Looks are counted, not seconds: in a loop that lags, the answer may long be there, waiting for its turn.
        """
        asked_at = self._ledger.asked_at
        if asked_at is None or asked_at != self._looked[0]:
            self._looked, self._stalled = (asked_at or 0.0, 0), False
            return
        looks = self._looked[1] + 1
        self._looked = (asked_at, looks)
        if looks >= _STALLED_LOOKS:
            if not self._stalled:
                log.warning("the database does not answer")
            self._stalled = True
            self._batcher.refuse(Place, _unavailable)
        if time.monotonic() - asked_at > _GIVE_UP_S:
            self._ledger.give_up()

    async def return_to_database(self) -> None:
        """Called now and then: when the database is back, store what waits in the spool, and settle directly again."""
        if not self._away or self._spool is None:
            return
        try:
            await self._ledger.apply([])
            await self.replay(self._spool)
        except LedgerUnavailable:
            return
        log.info("the database is back")

    async def replay(self, spool: Spool) -> None:
        """Store all that waits in a spool. Raises LedgerUnavailable, and can then be repeated from the start."""
        done = 0
        while True:
            async with self._spooling:
                found = await asyncio.to_thread(lambda: list(spool.settlements()))
                if len(found) == done:
                    await asyncio.to_thread(spool.clear)
                    if spool is self._spool:
                        self._away = False
                    break
            # What is settled meanwhile is appended, and found by the next look.
            for start in range(done, len(found), _REPLAYED_AT_ONCE):
                await self._replay(found[start : start + _REPLAYED_AT_ONCE])
            done = len(found)
        if done:
            self._metrics.replayed.inc(done)
            log.info("settlements were replayed from a spool", spool=str(spool.path), count=done)

    async def _replay(self, settlements: Sequence[Settlement]) -> None:
        for command, outcome in zip(settlements, await self._store(settlements), strict=True):
            if outcome is RETRY:
                raise LedgerUnavailable("the quarantine is away")
            if isinstance(command, Capture) and isinstance(outcome, NotFound):
                # The database knows nothing of a request that it had held money for: it is an older copy of itself.
                await self._refuse(command, outcome)

    # ── how batches are applied ───────────────────────────────────────────────────────────────────────────────────

    async def _apply(self, commands: Sequence[Command]) -> Sequence[Any]:
        if self._away:
            return await self._set_aside(commands)
        try:
            return await self._store(commands)
        except LedgerUnavailable as error:
            self._metrics.ledger_retries.inc()
            log.warning("the ledger is not available", error=str(error), waiting=len(commands))
            return await self._set_aside(commands)

    async def _set_aside(self, commands: Sequence[Command]) -> Sequence[Any]:
        """The database is away: holds are refused, settlements are kept."""
        if self._spool is None:
            await asyncio.sleep(_RETRY_PAUSE_S)
            return [_unavailable() if isinstance(command, Place) else RETRY for command in commands]
        kept: list[Settlement] = [command for command in commands if isinstance(command, Capture | Release)]
        # Nobody knows whether these were placed, now or in an earlier try. If they were, they must not stay.
        kept += [Release(c.request_id, c.account_id, c.at_us) for c in commands if isinstance(c, Place)]
        try:
            async with self._spooling:
                self._away = True
                await asyncio.to_thread(self._spool.append, kept)
        except OSError as error:
            log.error("the spool cannot be written", error=repr(error), waiting=len(kept))
            await asyncio.sleep(_RETRY_PAUSE_S)
            return [RETRY] * len(commands)
        return [
            Settled(command.charge_nano if isinstance(command, Capture) else 0, 0)
            if isinstance(command, Capture | Release)
            else _unavailable()
            for command in commands
        ]

    async def _store(self, commands: Sequence[Command]) -> Sequence[Any]:
        try:
            return await self._ledger.apply(_dated(commands, now_us()))
        except LedgerUnavailable:
            raise
        except Exception as error:
            # Something in this batch cannot be stored. Each alone: the others must not suffer from it.
            if len(commands) > 1:
                return [(await self._store([command]))[0] for command in commands]
            return [await self._refuse(commands[0], error)]

    async def _refuse(self, command: Command, error: Exception) -> Any:
        log.error("the ledger refused a command", error=repr(error), command=type(command).__name__)
        if not isinstance(command, Place):
            text = _text(command)
            request_id = getattr(command, "request_id", "")
            try:
                await Quarantine.create(at_us=now_us(), request_id=request_id, error=repr(error), command=text)
            except Exception as refusal:
                if is_away(refusal):
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


def _dated(commands: Sequence[Command], now: int) -> Sequence[Command]:
    """A settlement that waited long is made now: its transfer must not appear in a month that people took for closed."""
    return [
        msgspec.structs.replace(command, at_us=now)
        if isinstance(command, Capture | Release) and now - command.at_us > _LONG_US
        else command
        for command in commands
    ]


def _since_s(moment_us: int | None) -> float:
    return 0.0 if moment_us is None else max(0.0, (now_us() - moment_us) / SECOND_US)


def _text(command: Command) -> str:
    return type(command).__name__ + " " + msgspec.json.encode(command).decode()


def _unavailable() -> LedgerUnavailable:
    return LedgerUnavailable("Billing is unavailable for a moment. Nothing was charged; please try again.")
