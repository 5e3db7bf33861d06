"""Owns one question to Redis and the reading of its answer, pure: what `shared.lua` gets to decide, each limit sent once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.limits import Admission, Limit
from gateway.limits.local import Count, Gate, Slot

SCRIPT = Path(__file__).with_name("shared.lua").read_text("utf-8")
JOIN, RENEW, COUNT, PART = "join", "renew", "count", "part"
_numbers = itertools.count(1)
_encode = msgspec.msgpack.Encoder().encode


class Answer(msgspec.Struct, array_like=True):
    """`live` workers, 0 when this one has to join first; units used by rate; (refused by, wait in µs) by admission."""

    live: int
    used: list[float]
    outcomes: list[float]


read_answer = msgspec.msgpack.Decoder(Answer).decode


class Question:
    """What one worker asks and tells at one moment. Made, filled, put once, and forgotten."""

    __slots__ = ("_admissions", "_gates", "_number", "_places", "_rates", "gates", "places", "rates")

    def __init__(self) -> None:
        # A count carries the number of the question in which it stands, so that none is looked up.
        self._number = next(_numbers)
        self._rates: list[Any] = []
        self._places: list[Any] = []
        self._gates: list[tuple[list[int], list[int], list[int]]] = []
        self._admissions: list[int] = []
        self.rates: list[tuple[Count, Limit, int]] = []
        """In the order of the answer's `used`, each with the units that it owed."""
        self.places: list[tuple[Count, Limit]] = []
        self.gates: list[Gate] = []
        """One an admission, in their order."""

    def __bool__(self) -> bool:
        return bool(self.rates or self.places or self.gates)

    def tell(self, count: Count) -> None:
        """Publish what this worker owes to a rate, or how many of its requests run."""
        count.changed = False
        if count.limit.unit == "concurrent":
            count.index = self._add_place(count, count.limit)
        else:
            count.index = self._add_rate(count, count.limit)
        count.question = self._number

    def admit(self, admission: Admission, gate: Gate) -> None:
        if gate.question != self._number:
            gate.question = self._number
            self._gates.append(
                (
                    [self._rate(slot) for slot in gate.requests],
                    [self._rate(slot) for slot in gate.tokens],
                    [self._place(slot) for slot in gate.concurrent],
                )
            )
            gate.index = len(self._gates)
        self._admissions += (gate.index, admission.tokens)
        self.gates.append(gate)

    def payload(self, verb: str, me: str, lease_s: float, prefix: str, at_us: int, dropped: Sequence[str]) -> bytes:
        """`at_us`: the moment to count by, or 0 for Redis' own clock. `dropped`: names that this worker had before."""
        lease_us = int(lease_s * 1e6)
        return _encode(
            (verb, me, lease_us, prefix, at_us, dropped, self._rates, self._places, self._gates, self._admissions)
        )

    def refused_by(self, by: int) -> Limit:
        """The limit that an outcome names."""
        return self.places[-by - 1][1] if by < 0 else self.rates[by - 1][1]

    def _rate(self, slot: Slot) -> int:
        count = slot.count
        if count.question == self._number and _alike(self.rates[count.index - 1][1], slot.limit):
            return count.index
        count.index = self._add_rate(count, slot.limit)
        count.question = self._number
        return count.index

    def _place(self, slot: Slot) -> int:
        count = slot.count
        if count.question == self._number and _alike(self.places[count.index - 1][1], slot.limit):
            return count.index
        count.index = self._add_place(count, slot.limit)
        count.question = self._number
        return count.index

    def _add_rate(self, count: Count, limit: Limit) -> int:
        self._rates += (count.name, limit.quota, limit.window_s, count.owed)
        self.rates.append((count, limit, count.owed))
        count.owed = 0
        return len(self.rates)

    def _add_place(self, count: Count, limit: Limit) -> int:
        self._places += (count.name, limit.quota, count.running)
        self.places.append((count, limit))
        return len(self.places)


def _alike(one: Limit, other: Limit) -> bool:
    """Callers read their limits at different moments; while one is being edited, both versions are in force."""
    return one is other or (one.quota == other.quota and one.window_s == other.window_s)
