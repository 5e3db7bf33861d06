"""Natural batching: every command is applied, in order, whoever stops waiting for it and whatever fails meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batching import RETRY, Batcher


class Store:
    """Applies commands to a list, slowly enough for more to gather; told beforehand what each will meet."""

    def __init__(self, meets: dict[int, list[Any]] | None = None, *, most: int = 512) -> None:
        self.meets = meets or {}
        self.batches: list[list[int]] = []
        self.stored: list[int] = []
        self.abandoned: list[tuple[int, Any]] = []
        self.began = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.batcher: Batcher[int] = Batcher(
            self.apply, abandoned=lambda c, o: self.abandoned.append((c, o)), most=most
        )

    async def apply(self, commands: Sequence[int]) -> Sequence[Any]:
        self.batches.append(list(commands))
        self.began.set()
        await self.open.wait()
        await asyncio.sleep(0)
        outcomes = []
        for command in commands:
            meets = self.meets.get(command, [])
            outcome = meets.pop(0) if meets else command * 10
            if isinstance(outcome, SystemError):
                raise outcome
            if outcome is not RETRY and not isinstance(outcome, Exception):
                self.stored.append(command)
            outcomes.append(outcome)
        return outcomes


async def test_what_comes_while_a_batch_is_applied_forms_the_next_one() -> None:
    store = Store()
    store.open.clear()
    first = store.batcher.submit(1)
    await store.began.wait()
    rest = [store.batcher.submit(n) for n in (2, 3, 4)]
    assert len(store.batcher) == 3
    store.open.set()
    assert await asyncio.gather(first, *rest) == [10, 20, 30, 40]
    assert store.batches == [[1], [2, 3, 4]]


async def test_a_batch_has_a_largest_size() -> None:
    store = Store(most=3)
    await asyncio.gather(*(store.batcher.submit(n) for n in range(8)))
    assert [len(batch) for batch in store.batches] == [3, 3, 2]
    assert store.stored == list(range(8))


async def test_a_command_whose_waiter_was_cancelled_is_applied_all_the_same() -> None:
    """Faults 32: cancelling a flush loses nothing."""
    store = Store()
    store.open.clear()
    running = [store.batcher.submit(n) for n in (1, 2)]
    await store.began.wait()
    queued = [store.batcher.submit(n) for n in (3, 4)]
    running[0].cancel()
    queued[0].cancel()
    store.open.set()
    await store.batcher.drained()
    assert store.stored == [1, 2, 3, 4]
    assert store.abandoned == [(1, 10), (3, 30)]
    assert (running[1].result(), queued[1].result()) == (20, 40)


async def test_a_batch_that_was_interrupted_is_applied_again() -> None:
    """Faults 32: rows leave the queue after the commit, not before it."""
    store = Store()
    store.open.clear()
    future = store.batcher.submit(1)
    await store.began.wait()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert len(others) == 1
    others.pop().cancel()
    later = store.batcher.submit(2)
    store.open.set()
    await store.batcher.drained()
    assert (future.result(), later.result()) == (10, 20)
    assert store.stored == [1, 2]


async def test_who_stops_waiting_for_the_end_stops_nothing() -> None:
    store = Store()
    store.open.clear()
    store.batcher.submit(1)
    await store.began.wait()
    waiting = asyncio.create_task(store.batcher.drained())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    store.open.set()
    await store.batcher.drained()
    assert store.stored == [1]


async def test_what_could_not_be_done_yet_comes_first_the_next_time() -> None:
    store = Store({2: [RETRY], 3: [RETRY, RETRY]})
    store.open.clear()
    futures = [store.batcher.submit(n) for n in (1, 2, 3)]
    await store.began.wait()
    futures.append(store.batcher.submit(4))
    store.open.set()
    assert await asyncio.gather(*futures) == [10, 20, 30, 40]
    assert store.batches == [[1, 2, 3], [2, 3, 4], [3]]


async def test_a_batch_that_fails_as_a_whole_tells_its_waiters_and_the_next_one_goes_on() -> None:
    store = Store({2: [SystemError("away")]})
    store.open.clear()
    futures = [store.batcher.submit(n) for n in (1, 2)]
    await store.began.wait()
    later = store.batcher.submit(3)
    store.open.set()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SystemError, SystemError]
    assert await later == 30


async def test_a_refusal_is_raised_for_its_own_waiter_alone() -> None:
    store = Store({2: [ValueError("no")]})
    futures = [store.batcher.submit(n) for n in (1, 2, 3)]
    assert await futures[0] == 10
    with pytest.raises(ValueError, match="no"):
        await futures[1]
    assert await futures[2] == 30


@given(
    retries=st.dictionaries(st.integers(0, 30), st.integers(1, 3)),
    cancelled=st.sets(st.integers(0, 30)),
    pauses=st.sets(st.integers(0, 30)),
    most=st.integers(1, 8),
)
def test_every_command_is_stored_once_and_in_order(
    retries: dict[int, int], cancelled: set[int], pauses: set[int], most: int
) -> None:
    """Faults 25: whatever has to be tried again is tried until it is done, and then never again."""

    async def history() -> Store:
        store = Store({command: [RETRY] * times for command, times in retries.items()}, most=most)
        futures = []
        for command in range(31):
            futures.append(store.batcher.submit(command))
            if command in pauses:
                await asyncio.sleep(0)
            if command in cancelled:
                futures[-1].cancel()
        await store.batcher.drained()
        assert all(future.done() for future in futures)
        return store

    store = asyncio.run(history())
    assert sorted(store.stored) == list(range(31))
    calm = [command for command in store.stored if command not in retries]
    assert calm == sorted(calm)


async def test_who_leaves_while_it_is_made_certain_leaves_when_it_is() -> None:
    store = Store()
    store.open.clear()

    async def wait_for_it() -> None:
        await store.batcher.submit(1, certain=True)

    waiting = asyncio.create_task(wait_for_it())
    await store.began.wait()
    waiting.cancel()
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    store.open.set()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert store.stored == [1]
    assert store.abandoned == []


async def test_what_is_left_at_the_end_is_told_to_whoever_waits() -> None:
    store = Store({1: [RETRY] * 1_000_000})
    future = store.batcher.submit(1, certain=True)
    left = await store.batcher.stop(0.05)
    assert [command for command, _ in left] == [1]
    store.batcher.resolve(left, [ConnectionError("away")])
    with pytest.raises(ConnectionError):
        await future
    await store.batcher.drained()
    assert store.stored == []
