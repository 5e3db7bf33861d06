"""One worker process at its limits: asks for all it can get until the moment that it reads, and logs what it got.

A line is `unit, asked, answered, cost` (moments of the clock that all processes share), or `left, number, asked, 0`. A place
is held from its answer until it is left, or until this process is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time

from gateway.limits import Limit
from gateway.limits.shared import SharedLimiter
from gateway.metrics import Metrics
from models.errors import LimitExceeded

LIMITS = {
    "requests": Limit("key", 1, "requests", 100, 2),
    "tokens": Limit("account", 1, "tokens", 100_000, 2),
    "concurrent": Limit("route", 1, "concurrent", 4, 0),
}
MOST_TOKENS = 900
LEASE_S = 1.0


async def main(url: str, prefix: str, seed: int, path: str) -> None:
    limiter = SharedLimiter(url, Metrics(), lease_s=LEASE_S, bound_s=2.0, prefix=prefix)
    await limiter.start()
    log, chance = Log(path), random.Random(seed)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    ends_at = float(await asyncio.to_thread(sys.stdin.readline))
    assert limiter.state == "shared"
    tasks = [use_rate(limiter, log, unit, chance, ends_at) for unit in ("requests", "tokens") for _ in range(3)]
    await asyncio.gather(*tasks, *(use_places(limiter, log, chance, ends_at) for _ in range(4)))
    assert limiter.state == "shared", "this test is about Redis at work"
    await limiter.stop()


async def use_rate(limiter: SharedLimiter, log: Log, unit: str, chance: random.Random, ends_at: float) -> None:
    limits = (LIMITS[unit],)
    while (asked := time.monotonic()) < ends_at:
        cost = 1 if unit == "requests" else chance.randint(100, MOST_TOKENS)
        try:
            await limiter.admit(limits, cost)
            log.write(unit, asked, time.monotonic(), cost)
        except LimitExceeded:
            await asyncio.sleep(0.002)


async def use_places(limiter: SharedLimiter, log: Log, chance: random.Random, ends_at: float) -> None:
    limits = (LIMITS["concurrent"],)
    while (asked := time.monotonic()) < ends_at:
        try:
            admission = await limiter.admit(limits, 1)
        except LimitExceeded:
            await asyncio.sleep(0.002)
            continue
        number = log.write("concurrent", asked, time.monotonic(), 1)
        await asyncio.sleep(chance.choice([0, 0.001, 0.01, 0.03]))
        log.write("left", number, time.monotonic(), 0)
        if chance.random() < 0.5:
            limiter.refund(admission)
        limiter.leave(admission)


class Log:
    """A file and no pipe, for a full one would stop the worker; a line is out before the next begins, lest a kill take it."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "w", buffering=1)  # noqa: SIM115
        self._lines = itertools.count()

    def write(self, *line: object) -> int:
        """The number of the line."""
        self._file.write(json.dumps(line) + "\n")
        return next(self._lines)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
