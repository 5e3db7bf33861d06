"""Owns natural batching: while one batch is being applied the next one gathers. Nobody waits for a timer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

C = TypeVar("C")
_GATHERING_TURNS = 4

RETRY: Any = object()
"""An outcome that puts its command back at the head of the queue."""


class Certain(asyncio.Future[Any]):
    """Whoever waits for it gets to its end: a cancellation meanwhile reaches the waiter when it is done."""

    def cancel(self, msg: Any | None = None) -> bool:
        return False


class Batcher(Generic[C]):
    """Calls `apply(commands)` with all that waits, one batch at a time, and hands each waiter its own outcome.

    `apply` returns one outcome a command: a value, an exception (raised for its waiter), or RETRY. `abandoned(command,
    outcome)` hears of outcomes whose waiter was cancelled or refused meanwhile; the command is applied all the same.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[C]], Awaitable[Sequence[Any]]],
        *,
        abandoned: Callable[[C, Any], None],
        most: int = 512,
    ) -> None:
        self._apply = apply
        self._abandoned = abandoned
        self._most = most
        self._queue: list[tuple[C, asyncio.Future[Any]]] = []
        self._applying: list[tuple[C, asyncio.Future[Any]]] = []
        self._runner: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, command: C, *, certain: bool = False) -> asyncio.Future[Any]:
        """Queue a command. It will be applied whatever becomes of the future; a `certain` one cannot be cancelled."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = Certain(loop=loop) if certain else loop.create_future()
        self._queue.append((command, future))
        if self._runner is None:
            self._runner = loop.create_task(self._run())
        return future

    def waiting(self) -> Iterator[C]:
        """The commands that are not applied yet, the oldest first."""
        for command, _ in itertools.chain(self._applying, self._queue):
            yield command

    def refuse(self, kind: type[C], error: Callable[[], Exception]) -> None:
        """Raise `error()` for all who wait for commands of this kind. Those still in the queue are forgotten."""
        queue, self._queue = self._queue, []
        for command, future in queue:
            if not isinstance(command, kind):
                self._queue.append((command, future))
            elif not future.done():
                future.set_exception(error())
        for command, future in self._applying:
            if isinstance(command, kind) and not future.done():
                future.set_exception(error())

    async def drained(self) -> None:
        """Wait until nothing is queued or being applied."""
        while self._queue or self._runner is not None:
            if self._runner is None:
                self._runner = asyncio.get_running_loop().create_task(self._run())
            await asyncio.wait([self._runner])

    async def stop(self, within_s: float) -> list[tuple[C, asyncio.Future[Any]]]:
        """Apply what is queued, for so long; then give up, and return what is left, for `resolve`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.drained()
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
        left, self._queue = self._queue, []
        return left

    def resolve(self, batch: Sequence[tuple[C, asyncio.Future[Any]]], outcomes: Sequence[Any]) -> None:
        """Hand each waiter its outcome; RETRY goes back to the head of the queue."""
        again = []
        for (command, future), outcome in zip(batch, outcomes, strict=True):
            if outcome is RETRY:
                again.append((command, future))
            elif future.done():
                self._abandoned(command, outcome)
            elif isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if again:
            self._queue = again + self._queue

    async def _run(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue[: self._most], self._queue[self._most :]
                self._applying = batch
                commands = [command for command, _ in batch]
                # Taken from the queue, but not lost: a batch that failed as a whole goes to its waiters as the error.
                try:
                    outcomes: Sequence[Any] = await self._apply(commands)
                except asyncio.CancelledError:
                    # Nobody knows whether it was stored. Commands can be repeated, so it stays at the head of the queue.
                    self._queue = batch + self._queue
                    raise
                except Exception as error:
                    outcomes = [error] * len(batch)
                finally:
                    self._applying = []
                self.resolve(batch, outcomes)
                # Those just answered run first, and what arrives in these turns of the loop joins the next batch: larger
                # batches are cheaper, and when nothing is going on the turns take microseconds.
                for _ in range(_GATHERING_TURNS):
                    await asyncio.sleep(0)
        finally:
            self._runner = None
