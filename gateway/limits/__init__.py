"""Owns limits: the value, the arithmetic (`gcra.py`), the counters in this process (`local.py`) or of all workers
(`shared.py`), the headers here.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Limit(msgspec.Struct, frozen=True):
    """At most `quota` of `unit` per `window_s` seconds for one subject (`key`, `account` or `route` and its id)."""

    subject: str
    subject_id: int
    unit: str
    quota: int
    window_s: int
    key: tuple[str, int, str] = ("", 0, "")

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "key", (self.subject, self.subject_id, self.unit))

    @property
    def words(self) -> str:
        """The limit as a customer reads it."""
        if self.unit == "concurrent":
            return f"{self.quota} requests at once for this {self.subject}"
        return f"{self.quota} {self.unit} per {self.window_s} s for this {self.subject}"


class Admission(msgspec.Struct):
    """What one request took from its limits: to be corrected to the actual tokens, and its places given back."""

    limits: tuple[Limit, ...]
    tokens: int
    open: bool = True


class Limiter(Protocol):
    """Counts for all requests of this worker, or of all workers together."""

    @property
    def state(self) -> str:
        """Whose requests are counted now: "shared" by all workers, this worker's "local share", or "local"."""
        ...

    async def start(self) -> None:
        """Called once, in the worker's event loop. Never fails, whoever is away."""
        ...

    async def stop(self) -> None:
        """Called when no request runs any more."""
        ...

    async def admit(self, limits: tuple[Limit, ...], tokens: int) -> Admission:
        """Take one request, `tokens` and one place from every limit, or from none. Raises LimitExceeded."""
        ...

    def correct(self, admission: Admission, actual_tokens: int) -> None:
        """Replace the estimate by what was really used."""
        ...

    def leave(self, admission: Admission) -> None:
        """Give the places back. Safe to repeat."""
        ...

    def refund(self, admission: Admission) -> None:
        """Give places and estimated tokens back: no provider did any work for this request."""
        ...

    def lines(self, limits: tuple[Limit, ...]) -> str:
        """`x-ratelimit-*` header lines of the tightest limit of each unit, each ending with CRLF."""
        ...

    def sweep(self) -> None:
        """Called every minute: forget what needs no remembering."""
        ...


def duration_text(seconds: float) -> str:
    """A reset as OpenAI writes it: "0s", "250ms", "1s", "6m0s"."""
    if seconds <= 0:
        return "0s"
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))}ms"
    whole = int(seconds + 0.999)
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
