"""Owns the counters of one process: exact for one worker. Nothing here awaits, so a check and its take are one step.

Every request passes here three times, so what a limit needs is looked up once and kept as slots beside each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from gateway.limits import Admission, Limit, duration_text, gcra
from models.errors import LimitExceeded


class Count(msgspec.Struct, eq=False):
    """What is known of one subject and unit: when its bucket is full again, or how many requests run.

    The last fields are for the limiter of all workers (`shared.py`): what Redis is still to be told, and where this count
    stands in the question that is being put to it.
    """

    limit: Limit  # the one that counted last
    name: str  # of its key in Redis
    full_at: float = 0.0
    running: int = 0
    step_s: float = 0.0  # seconds a unit, by that limit
    owed: int = 0
    changed: bool = False
    question: int = 0
    index: int = 0


class Slot(msgspec.Struct, eq=False):
    """One limit with its count; several callers of an account share the count. `quota` is this worker's share of it."""

    limit: Limit
    count: Count
    quota: int
    window_s: int


class Gate(msgspec.Struct, eq=False):
    """The slots of one caller's or route's limits, by unit; and where they stand in the question to Redis."""

    limits: tuple[Limit, ...]
    requests: list[Slot] = []
    tokens: list[Slot] = []
    concurrent: list[Slot] = []
    question: int = 0
    index: int = 0


class LocalLimiter:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, int, str], Count] = {}
        # By identity: a caller keeps its tuple of limits for as long as they are in force.
        self._gates: dict[int, Gate] = {}
        self._share = 1

    @property
    def state(self) -> str:
        return "local"

    async def start(self) -> None:
        """Nothing to wait for: all is in this process."""

    async def stop(self) -> None:
        """Nothing to give back: all is in this process."""

    async def admit(self, limits: tuple[Limit, ...], tokens: int) -> Admission:
        return self.take(limits, tokens)

    def take(self, limits: tuple[Limit, ...], tokens: int) -> Admission:
        """`admit`, without a coroutine."""
        if not limits:
            return Admission((), tokens)
        gate = self.gate(limits)
        now = self._clock()
        taken: list[tuple[Count, float]] = []
        for slot in gate.concurrent:
            if slot.count.running >= slot.quota:
                raise self.refusal(slot.limit, limits, 1.0)
        for cost, slots in ((1, gate.requests), (tokens, gate.tokens)):
            for slot in slots:
                after = gcra.take(slot.count.full_at, now, cost, slot.quota, slot.window_s)
                if after is None:
                    wait_s = gcra.wait_s(slot.count.full_at, now, cost, slot.quota, slot.window_s)
                    raise self.refusal(slot.limit, limits, wait_s)
                taken.append((slot.count, after))
        for count, after in taken:
            count.full_at = after
        for slot in gate.concurrent:
            slot.count.running += 1
        return Admission(limits, tokens)

    def correct(self, admission: Admission, actual_tokens: int) -> None:
        if admission.limits:
            now = self._clock()
            for slot in self.gate(admission.limits).tokens:
                units = actual_tokens - min(admission.tokens, slot.quota)
                # By the limit that counted last: an edit may lie between the estimate and its correction.
                step_s = slot.count.step_s * slot.limit.quota / slot.quota
                slot.count.full_at = gcra.shift(slot.count.full_at, now, units, step_s)
        admission.tokens = actual_tokens

    def leave(self, admission: Admission) -> None:
        if admission.open:
            admission.open = False
            if admission.limits:
                for slot in self.gate(admission.limits).concurrent:
                    slot.count.running -= 1

    def refund(self, admission: Admission) -> None:
        if admission.open:
            self.correct(admission, 0)
            self.leave(admission)

    def lines(self, limits: tuple[Limit, ...]) -> str:
        if not limits:
            return ""
        gate = self.gate(limits)
        now = self._clock()
        text = ""
        for unit, slots in (("requests", gate.requests), ("tokens", gate.tokens)):
            if slots:
                tightest, least = slots[0], -1
                for slot in slots:
                    left = gcra.remaining(slot.count.full_at, now, slot.quota, slot.window_s)
                    if least < 0 or left < least:
                        tightest, least = slot, left
                text += (
                    f"x-ratelimit-limit-{unit}: {tightest.limit.quota}\r\nx-ratelimit-remaining-{unit}: {least}\r\n"
                    f"x-ratelimit-reset-{unit}: {duration_text(tightest.count.full_at - now)}\r\n"
                )
        return text

    def sweep(self) -> None:
        """Forget buckets that are full: a subject that was never seen has a full one, too."""
        now = self._clock()
        self._gates.clear()
        self._counts = {
            key: count for key, count in self._counts.items() if count.full_at > now or count.running or count.changed
        }

    def divide(self, share: int) -> None:
        """From now on admit one of `share` equal parts of each quota, rounded up. What was used stays used."""
        if share != self._share:
            self._share = share
            self._gates.clear()

    @property
    def running(self) -> list[Count]:
        """The counts of which some request now holds a place."""
        return [count for count in self._counts.values() if count.running]

    def gate(self, limits: tuple[Limit, ...]) -> Gate:
        """What is counted for these limits, looked up once."""
        gate = self._gates.get(id(limits))
        if gate is None or gate.limits is not limits:
            gate = self._gates[id(limits)] = Gate(limits)
            for limit in limits:
                count = self._counts.get(limit.key)
                if count is None:
                    count = self._counts[limit.key] = Count(limit, "{}:{}:{}".format(*limit.key))
                self._rescale(count, limit)
                slots: list[Slot] = getattr(gate, limit.unit)
                slots.append(Slot(limit, count, -(-limit.quota // self._share), limit.window_s))
        return gate

    def _rescale(self, count: Count, limit: Limit) -> None:
        """What was used stays used when a limit is edited: so many units, not so many seconds."""
        step_s = limit.window_s / limit.quota
        if count.step_s not in (0.0, step_s):
            now = self._clock()
            count.full_at = now + max(0.0, count.full_at - now) / count.step_s * step_s if step_s else 0.0
        count.step_s = step_s
        count.limit = limit

    def refusal(self, limit: Limit, limits: tuple[Limit, ...], retry_after_s: float) -> LimitExceeded:
        """What a customer reads who is refused by this limit."""
        seconds = max(1, int(retry_after_s + 0.999))
        return LimitExceeded(
            f"Rate limit reached: {limit.words}. Try again in {seconds} s, backing off exponentially.",
            retry_after_s=retry_after_s,
            headers=dict(line.split(": ", 1) for line in self.lines(limits).splitlines()),
        )
