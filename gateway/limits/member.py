"""Owns one worker's membership among those who share limits: its name, its lease, and the putting of its questions.

A name is used from one join to the next. A question that a frozen or distant Redis carries out late then comes from a name
that was dropped meanwhile, and does nothing.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence

import msgspec

from gateway.limits.link import Link, RedisAway
from gateway.limits.question import COUNT, JOIN, PART, RENEW, Answer, Question, read_answer

# A lease is renewed this many times before it would end.
_RENEWALS = 5
_MOST_NAMES = 50


class Member:
    """`live` is how many workers share the limits, this one included, as Redis told last.

    For a lease after joining it does not fall: a Redis that came back empty has not heard of the others yet, and were it
    to go again, each would take its share for the whole.
    """

    def __init__(
        self, link: Link, *, workers: int, lease_s: float, prefix: str, clock: Callable[[], float] | None
    ) -> None:
        self.live = workers
        self.renewal_s = lease_s / _RENEWALS
        self._link = link
        self._lease_s = lease_s
        self._prefix = prefix
        self._clock = clock
        # The one in force is the last; the others were tried since, and may have reached Redis all the same.
        self._names: list[str] = []
        self._joined_at = self._renewed_at = 0.0

    async def join(self, question: Question) -> Answer:
        """Under a new name, with what it has to tell. Raises RedisAway."""
        former = self._names
        self._names = [*former[-_MOST_NAMES:], secrets.token_hex(6)]
        answer = await self._put(question, JOIN, former)
        if not answer.live:
            raise RedisAway("its clock runs so fast that no lease lasts")
        self._names = self._names[-1:]
        return answer

    async def put(self, question: Question) -> Answer:
        """An answer whose `live` is 0 says that the lease was lost, and that nothing was done. Raises RedisAway."""
        return await self._put(question, RENEW if self.is_renewal_due else COUNT)

    async def part(self) -> None:
        """Give back all places at once, rather than at the end of the lease."""
        with contextlib.suppress(RedisAway):
            await self._put(Question(), PART, self._names)

    @property
    def is_renewal_due(self) -> bool:
        return time.monotonic() - self._renewed_at > self.renewal_s

    async def _put(self, question: Question, verb: str, dropped: Sequence[str] = ()) -> Answer:
        asked_at = time.monotonic()
        now_us = int(self._clock() * 1e6) if self._clock else 0
        payload = question.payload(verb, self._names[-1], self._lease_s, self._prefix, now_us, dropped)
        try:
            answer = read_answer(await self._link.ask(payload))
        except msgspec.MsgspecError as error:
            raise RedisAway(f"an answer that is none: {error}") from error
        if answer.live:
            if verb != COUNT:
                self._renewed_at = asked_at
            if verb == JOIN:
                self._joined_at = asked_at
            if answer.live > self.live or asked_at - self._joined_at > self._lease_s:
                self.live = answer.live
        return answer
