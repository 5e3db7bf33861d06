"""What the simulated provider remembers: every call and its state, and how to await one. HTTP is in `control`."""

import asyncio
import itertools
import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gateway.simulator.usage import Counts, Usage

State = Literal["open", "served", "cut", "left", "failed"]
MOST_CALLS = 20_000
MOST_BODY_BYTES = 256 * 2**20
SETTLE_S = 0.005


@dataclass(eq=False)
class Call:
    """One call as it came and how it fared.

    `served`: the whole answer was sent. `failed`: an error was the answer. `cut`: broken off on purpose.
    `left`: the client went first. `counts` is what was truly used up to the end, `reported` what the client was told.
    """

    n: int
    at: float
    model: str
    headers: Mapping[str, str]
    raw: bytes
    state: State = "open"
    events_sent: int = 0
    words: int = 0
    reasoning_words: int = 0
    counts: Counts | None = None
    reported: list[Usage] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "at": self.at,
            "model": self.model,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": _decoded(self.raw),
            "body_text": self.raw.decode("utf-8", "replace"),
            "state": self.state,
            "events_sent": self.events_sent,
            "usage": None if self.counts is None else asdict(self.counts),
            # NaN is no JSON; the log says "NaN", so that any client can read it.
            "reported": json.loads(json.dumps(self.reported), parse_constant=str),
        }


class CallLog:
    """The latest calls, bounded by their number and the bytes of their bodies."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._body_bytes = 0
        self._numbers = itertools.count(1)
        self._ended: Counter[tuple[str, str]] = Counter()
        self._changed = asyncio.Event()

    def open(self, model: str, headers: Mapping[str, str], raw: bytes, *, kept: bool = True) -> Call:
        """Begin a call; one that is not kept is numbered like the others, and found by nobody."""
        call = Call(next(self._numbers), time.time(), model, headers, raw)
        if kept:
            self._calls.append(call)
            self._body_bytes += len(raw)
            self._drop_oldest()
            self._changed.set()
        return call

    def finish(self, call: Call, state: State) -> None:
        """End a call; only the first end counts."""
        if call.state == "open":
            call.state = state
            self._ended[call.model, state] += 1
            self._changed.set()

    def find(self, model: str | None = None, state: str | None = None) -> list[Call]:
        return [call for call in self._calls if model in (None, call.model) and state in (None, call.state)]

    def count(self, model: str, state: str) -> int:
        """How many calls of a model have ended so, those included that the log has forgotten."""
        return self._ended[model, state]

    def clear(self, model: str | None = None) -> None:
        self._calls = deque(call for call in self._calls if model not in (None, call.model))
        self._body_bytes = sum(len(call.raw) for call in self._calls)

    async def wait(self, model: str | None, state: str | None, *, count: int, timeout_s: float) -> list[Call]:
        """The calls asked for, as soon as there are `count`; fewer when the time has run out."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._changed.clear()
            found = self.find(model, state)
            left_s = deadline - time.monotonic()
            if len(found) >= count or left_s <= 0:
                return found
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                continue
            # Under load many changes come at once: one look serves them all.
            await asyncio.sleep(SETTLE_S)

    def _drop_oldest(self) -> None:
        while len(self._calls) > MOST_CALLS or (self._body_bytes > MOST_BODY_BYTES and len(self._calls) > 1):
            self._body_bytes -= len(self._calls.popleft().raw)


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None
