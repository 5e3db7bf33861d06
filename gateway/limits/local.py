"""Owns the counters of one process: exact for one worker. Nothing here awaits, so a check and its take are one step."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.limits import Admission, Limit, duration_text, gcra
from models.errors import LimitExceeded

_Key = tuple[str, int, str]


class LocalLimiter:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[_Key, float] = {}
        self._running: dict[_Key, int] = {}

    async def admit(self, limits: tuple[Limit, ...], tokens: int) -> Admission:
        if not limits:
            return Admission((), tokens)
        now = self._clock()
        taken: list[tuple[_Key, float]] = []
        for limit in limits:
            key = limit.key
            if limit.unit == "concurrent":
                if self._running.get(key, 0) >= limit.quota:
                    raise self._refusal(limit, limits, 1.0)
                continue
            cost = tokens if limit.unit == "tokens" else 1
            full_at = self._full_at.get(key, 0.0)
            after = gcra.take(full_at, now, cost, limit.quota, limit.window_s)
            if after is None:
                raise self._refusal(limit, limits, gcra.wait_s(full_at, now, cost, limit.quota, limit.window_s))
            taken.append((key, after))
        self._full_at.update(taken)
        for limit in limits:
            if limit.unit == "concurrent":
                key = limit.key
                self._running[key] = self._running.get(key, 0) + 1
        return Admission(limits, tokens)

    def correct(self, admission: Admission, actual_tokens: int) -> None:
        now = self._clock()
        for limit in admission.limits:
            if limit.unit == "tokens":
                key = limit.key
                units = actual_tokens - min(admission.tokens, limit.quota)
                self._full_at[key] = gcra.shift(self._full_at.get(key, now), now, units, limit.quota, limit.window_s)
        admission.tokens = actual_tokens

    def leave(self, admission: Admission) -> None:
        if not admission.open:
            return
        admission.open = False
        for limit in admission.limits:
            if limit.unit == "concurrent":
                key = limit.key
                left = self._running[key] - 1
                if left:
                    self._running[key] = left
                else:
                    del self._running[key]

    def refund(self, admission: Admission) -> None:
        if admission.open:
            self.correct(admission, 0)
            self.leave(admission)

    def headers(self, limits: tuple[Limit, ...]) -> dict[str, str]:
        if not limits:
            return {}
        now = self._clock()
        found: dict[str, str] = {}
        for unit in ("requests", "tokens"):
            tightest: Limit | None = None
            least, full_at = 0, 0.0
            for limit in limits:
                if limit.unit == unit:
                    at = self._full_at.get(limit.key, 0.0)
                    left = gcra.remaining(at, now, limit.quota, limit.window_s)
                    if tightest is None or left < least:
                        tightest, least, full_at = limit, left, at
            if tightest is not None:
                found["x-ratelimit-limit-" + unit] = str(tightest.quota)
                found["x-ratelimit-remaining-" + unit] = str(least)
                found["x-ratelimit-reset-" + unit] = duration_text(full_at - now)
        return found

    def sweep(self) -> None:
        """Forget buckets that are full: a subject that was never seen has a full one, too."""
        now = self._clock()
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}

    def _refusal(self, limit: Limit, limits: tuple[Limit, ...], retry_after_s: float) -> LimitExceeded:
        seconds = max(1, int(retry_after_s + 0.999))
        return LimitExceeded(
            f"Rate limit reached: {limit.words}. Try again in {seconds} s, backing off exponentially.",
            retry_after_s=retry_after_s,
            headers=self.headers(limits),
        )
