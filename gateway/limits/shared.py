"""Owns the limits that all workers share through one Redis primary, and this worker's share of them while it is away.

What a worker asks at one moment is one question (`question.py`), decided inside Redis by one call (`shared.lua`) over one
connection (`link.py`), in its own name (`member.py`). Admissions wait for the answer. Corrections and places given back wait
for nobody: they mark their count as changed, and the next question tells of it. A worker publishes how many of its requests
run, never how many more, so a lost or repeated call is healed by the next one.

When Redis fails or is slow, waiters and all that come after them are admitted from a local share of each quota, one part in
as many as there were workers. The bucket goes on from what Redis told last, and what is taken meanwhile is owed and told
on return, so an outage grants nothing twice, however often Redis comes and goes. When the lease was lost, because Redis came
back empty or this worker slept for longer than it, the worker joins again and tells of all that it runs.

Redis that was slow is asked again after 0.5 s; a connection that broke is made anew at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from gateway.batching import Batcher
from gateway.limits import Admission, Limit
from gateway.limits.link import BOUND_S, Link, RedisAway, check_redis
from gateway.limits.local import Count, LocalLimiter
from gateway.limits.member import Member
from gateway.limits.question import SCRIPT, Answer, Question
from models.errors import LimitExceeded

if TYPE_CHECKING:
    # The main process of several workers asks Redis before it knows in which folder their numbers are kept.
    from gateway.metrics import Metrics

__all__ = ["SharedLimiter", "check_redis"]

LEASE_S = 15.0
PROBE_S = 0.5
# Changed counts and admissions in one question: Redis answers everybody else between two of them.
_MOST_TOLD = 500
_MOST_ADMITTED = 128
_NUDGE: Final = None
log = structlog.get_logger()


class SharedLimiter:
    def __init__(
        self,
        url: str,
        metrics: Metrics,
        *,
        workers: int = 1,
        lease_s: float = LEASE_S,
        bound_s: float = BOUND_S,
        prefix: str = "gateway:",
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`workers`: how many there are, until Redis has told. `clock`: to count rates by, in tests; else Redis' own."""
        self._metrics = metrics
        self._link = Link(url, SCRIPT, bound_s)
        self._member = Member(self._link, workers=workers, lease_s=lease_s, prefix=prefix, clock=clock)
        self._now = clock or time.monotonic
        # What Redis told last and how many requests run here; and, while it is away, the counts of the local share.
        self._view = LocalLimiter(self._now)
        self._changed: list[Count] = []
        self._batcher: Batcher[Admission | None] = Batcher(self._apply, abandoned=self._abandon, most=_MOST_ADMITTED)
        self._nudged = False
        self._sweep_due = False
        self._is_shared = False
        self._local_at = -PROBE_S
        self._renewer: asyncio.Task[None] | None = None
        self._prober: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        return "shared" if self._is_shared else "local share"

    @property
    def live(self) -> int:
        """How many workers share the limits, this one included, as Redis told last."""
        return self._member.live

    async def start(self) -> None:
        try:
            await self._link.connect()
            await self._join()
            self._is_shared = True
        except RedisAway as error:
            self._go_local(error)
        self._renewer = asyncio.create_task(self._renew())

    async def stop(self) -> None:
        await _end(self._renewer)
        await self._batcher.drained()
        await _end(self._prober)
        if self._is_shared:
            self._is_shared = False
            await self._member.part()
        await self._link.close()

    # ── the path of a request ─────────────────────────────────────────────────────────────────────────────────────

    async def admit(self, limits: tuple[Limit, ...], tokens: int) -> Admission:
        admission = Admission(limits, tokens)
        if not limits:
            return admission
        if not self._is_shared:
            self._take_share(admission)
            return admission
        future = self._batcher.submit(admission)
        try:
            await future
        except asyncio.CancelledError:
            # Whoever leaves before the answer is `_abandon`ed; this one left between the answer and its turn.
            if future.done() and not future.cancelled() and future.exception() is None:
                self.refund(admission)
            raise
        return admission

    def correct(self, admission: Admission, actual_tokens: int) -> None:
        if admission.limits:
            for slot in self._view.gate(admission.limits).tokens:
                units = actual_tokens - min(admission.tokens, slot.limit.quota)
                if units:
                    slot.count.owed += units
                    self._tell(slot.count)
        self._view.correct(admission, actual_tokens)

    def leave(self, admission: Admission) -> None:
        if admission.open:
            self._view.leave(admission)
            if admission.limits:
                for slot in self._view.gate(admission.limits).concurrent:
                    self._tell(slot.count)

    def refund(self, admission: Admission) -> None:
        if admission.open:
            self.correct(admission, 0)
            self.leave(admission)

    def lines(self, limits: tuple[Limit, ...]) -> str:
        return self._view.lines(limits)

    def sweep(self) -> None:
        """Between two questions: what stands in one must not be forgotten."""
        if self._is_shared:
            self._sweep_due = True
            self._nudge()
        else:
            self._view.sweep()

    def _tell(self, count: Count) -> None:
        if not count.changed:
            count.changed = True
            self._changed.append(count)
        self._nudge()

    def _nudge(self) -> None:
        """Have a question put soon, though nobody waits for its answer."""
        if self._is_shared and not self._nudged:
            self._nudged = True
            self._batcher.submit(_NUDGE)

    def _abandon(self, admission: Admission | None, outcome: Any) -> None:
        if admission is not None and outcome is None:
            self.refund(admission)

    # ── one question after another ────────────────────────────────────────────────────────────────────────────────

    async def _apply(self, commands: Sequence[Admission | None]) -> Sequence[Any]:
        self._nudged = False
        if self._sweep_due:
            self._sweep_due = False
            self._view.sweep()
        if self._is_shared:
            question = self._question(commands)
            if not question and not self._member.is_renewal_due:
                return [None] * len(commands)
            try:
                answer = await self._member.put(question)
                if not answer.live:
                    self._take_back(question, was_counted=False)
                    await self._join()
                    question = self._question(commands)
                    answer = await self._member.put(question)
                    if not answer.live:
                        raise RedisAway("a lease does not last for one question")
                return self._read(question, answer, commands)
            except RedisAway as error:
                self._take_back(question)
                self._go_local(error)
        return [self._share_outcome(command) for command in commands]

    def _question(self, commands: Sequence[Admission | None]) -> Question:
        question = Question()
        told, self._changed = self._changed[:_MOST_TOLD], self._changed[_MOST_TOLD:]
        for count in told:
            question.tell(count)
        gate = self._view.gate
        for admission in commands:
            if admission is not None:
                question.admit(admission, gate(admission.limits))
        return question

    def _read(self, question: Question, answer: Answer, commands: Sequence[Admission | None]) -> list[Any]:
        self._note(question, answer)
        outcomes: list[Any] = []
        numbers = iter(answer.outcomes)
        gates = iter(question.gates)
        for admission in commands:
            if admission is None:
                outcomes.append(None)
                continue
            by, wait_us = int(next(numbers)), next(numbers)
            gate = next(gates)
            if by:
                # A place may be free at any moment; a second is as good a guess as any.
                wait_s = wait_us / 1e6 if by > 0 else 1.0
                outcomes.append(self._view.refusal(question.refused_by(by), admission.limits, wait_s))
                continue
            for slot in gate.concurrent:
                slot.count.running += 1
            outcomes.append(None)
        if self._changed:
            self._nudge()
        return outcomes

    def _note(self, question: Question, answer: Answer) -> None:
        """Remember what Redis told: for header lines, and to go on from when it is away."""
        now = self._now()
        for (count, limit, _), used in zip(question.rates, answer.used, strict=True):
            # What was owed meanwhile is not in the answer yet.
            count.full_at = now + (used + count.owed) * limit.window_s / limit.quota

    def _take_back(self, question: Question, *, was_counted: bool = True) -> None:
        """What a lost question told is owed again. Nobody knows whether it was counted: rather twice than never."""
        for count, _, owed in question.rates:
            if owed > 0 or not was_counted:
                count.owed += owed
                self._tell(count)
        question.rates.clear()

    # ── a member of those who share ───────────────────────────────────────────────────────────────────────────────

    async def _join(self) -> None:
        """Under a new name, and with all that runs here. Raises RedisAway."""
        for count in self._view.running:
            self._tell(count)
        for number in range(1 + len(self._changed) // _MOST_TOLD):
            question = self._question(())
            try:
                answer = await (self._member.put(question) if number else self._member.join(question))
            except RedisAway:
                self._take_back(question)
                raise
            self._note(question, answer)

    async def _renew(self) -> None:
        """Keep the lease when there are no requests, and the counts of requests that run for long."""
        at = 0
        while True:
            await asyncio.sleep(self._member.renewal_s)
            if self._is_shared:
                running = self._view.running
                at = at if at < len(running) else 0
                for count in running[at : at + _MOST_TOLD]:
                    self._tell(count)
                at += _MOST_TOLD
                self._nudge()

    # ── while Redis is away ───────────────────────────────────────────────────────────────────────────────────────

    def _go_local(self, error: RedisAway) -> None:
        log.warning(
            "Redis is away or slow: each worker admits its share of the limits", reason=str(error), of=self._member.live
        )
        now = time.monotonic()
        at_once = not isinstance(error.__cause__, TimeoutError) and now - self._local_at > PROBE_S
        self._local_at = now
        self._is_shared = False
        self._metrics.limiter_fallbacks.inc()
        self._metrics.limiter_local.set(1)
        self._view.divide(self._member.live)
        self._prober = asyncio.create_task(self._probe(0.0 if at_once else PROBE_S))

    async def _probe(self, wait_s: float) -> None:
        while True:
            await asyncio.sleep(wait_s)
            wait_s = PROBE_S
            try:
                await self._link.connect()
                self._cap_owed()
                await self._join()
            except RedisAway:
                continue
            except Exception as error:
                # Our own bug; without this task nothing would ever be shared again.
                log.error("joining the other workers failed", error=repr(error))
                continue
            self._view.divide(1)
            self._is_shared = True
            self._metrics.limiter_local.set(0)
            log.info("Redis is back: limits are shared again", workers=self._member.live)
            if self._changed:
                self._nudge()
            return

    def _take_share(self, admission: Admission) -> None:
        """Raises LimitExceeded."""
        self._view.take(admission.limits, admission.tokens)
        gate = self._view.gate(admission.limits)
        for cost, slots in ((1, gate.requests), (admission.tokens, gate.tokens)):
            for slot in slots:
                slot.count.owed += min(cost, slot.quota)
                self._tell(slot.count)

    def _share_outcome(self, command: Admission | None) -> LimitExceeded | None:
        if command is not None:
            try:
                self._take_share(command)
            except LimitExceeded as refusal:
                return refusal
        return None

    def _cap_owed(self) -> None:
        """What has drained from the bucket of the local share since it was taken is not owed any more."""
        now = self._now()
        for count in self._changed:
            if count.owed > 0:
                share = -(-count.limit.quota // self._member.live)
                count.owed = min(count.owed, round(max(0.0, count.full_at - now) * share / count.limit.window_s))


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
