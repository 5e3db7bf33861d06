"""Limits shared by workers through Redis: exact while it is there, a local share while it is not, and never a hang."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import Admission, Limit
from gateway.limits.link import BOUND_S, check_redis
from gateway.limits.local import LocalLimiter
from gateway.limits.question import COUNT, read_answer
from gateway.limits.shared import SharedLimiter
from gateway.metrics import Metrics
from models.errors import LimitExceeded, SetupError
from tests.faults import limit_worker
from tests.rig import start_rig
from tests.servers import OwnRedis, own_redis, redis_server

HOUR = 3600
# Tests of what Redis decides must not take a machine that is busy with other tests for one whose Redis is away.
PATIENT_S = 2.0
_ids = itertools.count(1)


@pytest.fixture
def prefix() -> Iterator[str]:
    """Keys of one test's own, gone afterwards; a test that leaves one without an end fails."""
    name = f"test-{secrets.token_hex(6)}:"
    yield name
    with redis.Redis.from_url(redis_server()) as client:
        for key in client.scan_iter(name + "*"):
            assert client.pttl(key) != -1, f"{key!r} would stay for ever"
            client.delete(key)


@contextlib.asynccontextmanager
async def workers(count: int, url: str, prefix: str, **options: Any) -> AsyncIterator[list[SharedLimiter]]:
    """So many workers, each with a connection of its own, all of which know of each other."""
    limiters = [SharedLimiter(url, Metrics(), prefix=prefix, **{"bound_s": PATIENT_S, **options}) for _ in range(count)]
    for limiter in [*limiters, *limiters]:
        if limiter.state != "shared":
            await limiter.start()
    for limiter in limiters:
        # Whoever joined early hears of the later ones with his next question.
        await limiter.admit(rate(quota=10, unit="requests"), 1)
    try:
        yield limiters
    finally:
        for limiter in limiters:
            await limiter.stop()


def rate(quota: int, unit: str = "tokens", window_s: int = HOUR) -> tuple[Limit, ...]:
    return (Limit("key", next(_ids), unit, quota, window_s),)


def places(quota: int) -> tuple[Limit, ...]:
    return (Limit("key", next(_ids), "concurrent", quota, 0),)


async def is_admitted(limiter: SharedLimiter, limits: tuple[Limit, ...], tokens: int = 1) -> bool:
    try:
        await limiter.admit(limits, tokens)
    except LimitExceeded:
        return False
    return True


async def count_admitted(limiter: SharedLimiter, limits: tuple[Limit, ...], asked: int) -> int:
    return sum(await asyncio.gather(*(is_admitted(limiter, limits) for _ in range(asked))))


async def until(holds: Callable[[], bool | Awaitable[bool]], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while True:
        found = holds()
        if found is True or (not isinstance(found, bool) and await found):
            return
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


def fallbacks(limiter: SharedLimiter) -> float:
    return limiter._metrics.registry.get_sample_value("gateway_limiter_fallbacks_total") or 0.0


# ── exact, whatever the number of workers ─────────────────────────────────────────────────────────────────────────


def test_three_processes_at_the_limit_get_the_quota_and_not_more(prefix: str, tmp_path: Path) -> None:
    """One of them is killed; its places are free again after its lease."""
    logs = [tmp_path / str(seed) for seed in range(3)]
    started = [_start_worker(prefix, seed, log) for seed, log in enumerate(logs)]
    for worker in started:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    ends_at = time.monotonic() + 4
    for worker in started:
        assert worker.stdin is not None
        worker.stdin.write(f"{ends_at}\n")
        worker.stdin.flush()
    time.sleep(1.5)
    started[0].kill()
    killed_at = time.monotonic()
    for worker in started:
        worker.communicate(timeout=30)
    assert [worker.returncode for worker in started] == [-signal.SIGKILL, 0, 0]
    lines = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    for unit, dearest in (("requests", 1), ("tokens", limit_worker.MOST_TOKENS)):
        _check_rate(
            [line for of in lines for line in of if line[0] == unit], limit_worker.LIMITS[unit], dearest, ends_at
        )
    _check_places(lines, killed_at)


def _start_worker(prefix: str, seed: int, log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.limit_worker", redis_server(), prefix, str(seed), str(log)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=pipe, stdout=pipe, text=True)


def _check_rate(lines: list[Any], limit: Limit, dearest: int, ends_at: float) -> None:
    lines.sort(key=lambda line: line[2])
    first_asked = min(line[1] for line in lines)
    perfect = limit.quota * (1 + (ends_at - first_asked) / limit.window_s)
    total = sum(line[3] for line in lines)
    assert total >= 0.99 * perfect - dearest, f"{1 - total / perfect:.1%} refused without need"
    # Every admission fell between its question and its answer, so these windows are never shorter than the true ones.
    for i, (_, began, _, _) in enumerate(lines):
        units = 0
        for _, asked, answered, cost in lines[i:]:
            if asked >= began:
                units += cost
                assert units <= limit.quota * (1 + (answered - began) / limit.window_s) + 1e-3


def _check_places(lines: list[list[Any]], killed_at: float) -> None:
    quota = limit_worker.LIMITS["concurrent"].quota
    changes = []
    for number, of in enumerate(lines):
        left = {line[1]: line[2] for line in of if line[0] == "left"}
        for at, line in enumerate(of):
            if line[0] == "concurrent":
                changes += [(line[2], 1), (left.get(at, killed_at if number == 0 else float("inf")), -1)]
    assert len(changes) > 100
    held, most, most_later = 0, 0, 0
    for at, change in sorted(changes, key=lambda pair: (pair[0], pair[1])):
        held += change
        most = max(most, held)
        if at > killed_at + 1.3 * limit_worker.LEASE_S:
            most_later = max(most_later, held)
    assert most == quota
    assert most_later == quota, "the places of the killed worker were not freed"


async def test_places_are_counted_exactly_over_workers_that_come_go_and_restart(prefix: str) -> None:
    chance = random.Random(1)
    limits = (Limit("key", 1, "concurrent", 5, 0), Limit("account", 1, "concurrent", 7, 0))
    async with workers(3, redis_server(), prefix) as limiters:
        held: list[tuple[SharedLimiter, Admission]] = []
        for _ in range(400):
            doing = chance.random()
            if doing < 0.55:
                limiter = chance.choice(limiters)
                if len(held) < 5:
                    held.append((limiter, await limiter.admit(limits, 1)))
                else:
                    assert not await is_admitted(limiter, limits)
            elif doing < 0.98 and held:
                limiter, admission = held.pop(chance.randrange(len(held)))
                chance.choice([limiter.leave, limiter.refund])(admission)
                limiter.leave(admission)
                await limiter._batcher.drained()
            elif doing >= 0.98:
                gone = limiters.pop(0)
                held = [pair for pair in held if pair[0] is not gone]
                await gone.stop()
                limiters.append(SharedLimiter(redis_server(), Metrics(), bound_s=PATIENT_S, prefix=prefix))
                await limiters[-1].start()


async def test_the_places_of_a_worker_that_was_silent_for_a_lease_are_free_until_it_is_back(prefix: str) -> None:
    limits = places(2)
    url = redis_server()
    async with workers(1, url, prefix, lease_s=0.4) as (sleeper,), workers(1, url, prefix, lease_s=1.5) as (other,):
        admissions = [await sleeper.admit(limits, 1) for _ in range(2)]
        assert not await is_admitted(other, limits)
        time.sleep(0.5)  # it sleeps, with its event loop; nobody renews
        assert await is_admitted(other, limits)
        # Until the sleeper has told again of those that it runs.
        async with asyncio.timeout(5):
            with contextlib.suppress(LimitExceeded):
                while True:
                    other.leave(await other.admit(limits, 1))
                    await asyncio.sleep(0.01)
        for admission in admissions:
            sleeper.leave(admission)
        await sleeper._batcher.drained()
        assert await is_admitted(other, limits)
        assert fallbacks(sleeper) == 0


async def test_waiters_that_leave_give_back_what_they_took(prefix: str) -> None:
    limits = (*places(40), *rate(1000))
    async with workers(2, redis_server(), prefix) as (one, other):
        for turns in range(12):
            waiting = [asyncio.create_task(one.admit(limits, 10)) for _ in range(5)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            for left in await asyncio.gather(*waiting, return_exceptions=True):
                if isinstance(left, Admission):
                    one.refund(left)
        await one._batcher.drained()
        assert not one._view.running
        assert await other.admit(limits, 1000), "tokens and places are back"


# ── alike in one process and in many ──────────────────────────────────────────────────────────────────────────────

LIMITS = st.lists(
    st.tuples(
        st.sampled_from(["key", "account"]),
        st.sampled_from(["requests", "tokens", "concurrent"]),
        st.integers(1, 40),
        st.sampled_from([1, 7, 60, HOUR]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda limit: limit[:2],
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(0, 60)),
        st.tuples(st.sampled_from(["leave", "refund", "who"]), st.integers(0, 9)),
        st.tuples(st.just("correct"), st.integers(0, 80)),
        st.tuples(st.just("wait"), st.sampled_from([0.001, 0.3, 1.0, 7.0, 61.0])),
        st.tuples(st.just("edit"), st.integers(1, 50)),
    ),
    max_size=25,
)


@pytest.mark.parametrize("count", [1, 3])
def test_a_shared_limiter_decides_like_a_local_one(prefix: str, count: int) -> None:
    with asyncio.Runner() as runner:
        now = 1000.0
        limiters = [
            SharedLimiter(redis_server(), Metrics(), bound_s=PATIENT_S, prefix=prefix, clock=lambda: now)
            for _ in range(count)
        ]
        for limiter in limiters:
            runner.run(limiter.start())

        @settings(max_examples=150 if count == 1 else 80)
        @given(kinds=LIMITS, steps=STEPS)
        def decide_alike(kinds: list[tuple[str, str, int, int]], steps: list[tuple[str, Any]]) -> None:
            nonlocal now
            now = 1000.0
            local = LocalLimiter(clock=lambda: now)
            turns = itertools.cycle(limiters)
            first = next(_ids)

            def in_force(extra: int) -> tuple[Limit, ...]:
                return tuple(
                    Limit(subject, first, unit, quota + extra, 0 if unit == "concurrent" else window_s)
                    for subject, unit, quota, window_s in kinds
                )

            async def walk() -> None:
                nonlocal now
                limits = in_force(0)
                taken: list[tuple[Admission, Admission, SharedLimiter]] = []
                for verb, value in steps:
                    limiter = next(turns)
                    if verb == "admit":
                        expected = await _try(local, limits, value)
                        found = await _try(limiter, limits, value)
                        assert _outcome(found) == _outcome(expected)
                        if isinstance(expected, Admission) and isinstance(found, Admission):
                            taken.append((expected, found, limiter))
                            assert limiter.lines(limits) == local.lines(limits)
                    elif verb == "wait":
                        now += value
                    elif verb == "edit":
                        limits = in_force(value)
                    elif verb != "who" and taken:
                        expected_admission, found_admission, limiter = taken[value % len(taken)]
                        if verb == "correct":
                            local.correct(expected_admission, value)
                            limiter.correct(found_admission, value)
                        else:
                            getattr(local, verb)(expected_admission)
                            getattr(limiter, verb)(found_admission)
                        await limiter._batcher.drained()
                for _, found_admission, limiter in taken:
                    limiter.leave(found_admission)

            runner.run(walk())

        decide_alike()
        for limiter in limiters:
            assert limiter.state == "shared"
            runner.run(limiter.stop())


async def _try(limiter: Any, limits: tuple[Limit, ...], tokens: int) -> Admission | LimitExceeded:
    try:
        return await limiter.admit(limits, tokens)
    except LimitExceeded as refusal:
        return refusal


def _outcome(of: Admission | LimitExceeded) -> Any:
    if isinstance(of, Admission):
        return "admitted"
    return str(of), round(of.retry_after_s, 3), of.headers


async def test_a_token_of_a_huge_quota_is_not_rounded_away(prefix: str) -> None:
    """In seconds since 1970 a double is too coarse for one of them."""
    limits = rate(3 * 10**9)
    async with workers(2, redis_server(), prefix, clock=lambda: 1.8e9) as (one, other):
        await one.admit(limits, 3 * 10**9 - 10)
        assert [await is_admitted(limiter, limits) for limiter in [one, other] * 5] == [True] * 10
        assert not await is_admitted(other, limits)


async def test_what_one_worker_corrects_or_refunds_another_can_use(prefix: str) -> None:
    limits = (*rate(100), *rate(100, "requests"))
    async with workers(2, redis_server(), prefix) as (one, other):
        admission = await one.admit(limits, 80)
        assert not await is_admitted(other, limits, 30)
        assert "x-ratelimit-remaining-tokens: 20\r\n" in one.lines(limits)
        one.correct(admission, 20)
        assert "x-ratelimit-remaining-tokens: 80\r\n" in one.lines(limits), "the answer that is on its way tells of it"
        await one._batcher.drained()
        second = await other.admit(limits, 70)
        assert "x-ratelimit-limit-tokens: 100\r\nx-ratelimit-remaining-tokens: 10\r\n" in other.lines(limits)
        assert "x-ratelimit-remaining-requests: 98\r\n" in other.lines(limits)
        other.refund(second)
        other.refund(second)
        await other._batcher.drained()
        assert await is_admitted(one, limits, 80)
        assert not await is_admitted(one, limits, 1)


async def test_an_edited_limit_keeps_what_was_used_in_all_workers(prefix: str) -> None:
    before = rate(10)
    after = (Limit("key", before[0].subject_id, "tokens", 20, 60),)
    async with workers(2, redis_server(), prefix) as (one, other):
        await one.admit(before, 8)
        assert not await is_admitted(other, after, 13)
        assert await is_admitted(other, after, 12)
        assert not await is_admitted(one, before, 3)


# ── Redis is slow, away, empty ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def own() -> Iterator[OwnRedis]:
    with own_redis() as server:
        yield server


async def test_a_frozen_redis_delays_nobody_and_each_worker_admits_its_share(own: OwnRedis) -> None:
    """Three times: a noisy machine may delay anybody once."""
    delays_s = []
    for _ in range(3):
        async with workers(3, own.url, "", bound_s=BOUND_S, lease_s=60) as limiters:
            assert [limiter.live for limiter in limiters] == [3, 3, 3]
            limits, seats = rate(9, "requests"), places(6)
            assert [await is_admitted(limiters[0], limits) for _ in range(3)] == [True] * 3
            own.freeze()
            began = time.monotonic()
            assert await is_admitted(limiters[1], rate(100))
            delays_s.append(time.monotonic() - began)
            assert limiters[1].state == "local share"
            admitted = [await count_admitted(limiter, limits, 20) for limiter in limiters]
            # The first worker knows that 3 of 9 are used, which is one of its 3; the others had not heard of that.
            assert admitted == [2, 3, 3]
            assert [await count_admitted(limiter, seats, 20) for limiter in limiters] == [2, 2, 2]
            began = time.monotonic()
            assert await count_admitted(limiters[0], rate(100, "requests"), 50) == 34
            assert time.monotonic() - began < 0.05, "while it is away nobody asks it"
            own.thaw()
            await until(lambda: all(limiter.state == "shared" for limiter in limiters))
            assert [await count_admitted(limiter, limits, 3) for limiter in limiters] == [0, 0, 0], "all told Redis"
            assert [await count_admitted(limiter, seats, 3) for limiter in limiters] == [0, 0, 0]
            assert all(fallbacks(limiter) for limiter in limiters)
    assert min(delays_s) < 0.1


async def test_redis_that_comes_and_goes_multiplies_no_quota(own: OwnRedis) -> None:
    async with workers(2, own.url, "", bound_s=BOUND_S, lease_s=60) as limiters:
        limits = rate(10, "requests")
        admitted = 0
        for _ in range(3):
            own.freeze()
            for limiter in limiters:
                admitted += await count_admitted(limiter, limits, 10)
                assert limiter.state == "local share"
            own.thaw()
            await until(lambda: all(limiter.state == "shared" for limiter in limiters))
            for limiter in limiters:
                admitted += await count_admitted(limiter, limits, 10)
        assert admitted == 10


async def test_a_killed_redis_that_comes_back_empty_learns_who_runs(own: OwnRedis) -> None:
    limits, tokens = places(4), rate(100)
    async with workers(2, own.url, "") as (one, other):
        running = [await one.admit(limits, 1) for _ in range(2)]
        await one.admit(tokens, 90)
        own.close()
        assert not await is_admitted(one, limits), "it runs its share"
        running_there = [await other.admit(limits, 1) for _ in range(2)]
        assert not await is_admitted(other, limits)
        one.leave(running.pop())
        assert await count_admitted(one, rate(100), 5) == 5
        own.start()
        await until(lambda: one.state == other.state == "shared")
        assert await is_admitted(other, rate(100))
        assert other.live == 2
        assert await is_admitted(one, limits), "3 of 4 ran"
        assert not await is_admitted(other, limits)
        other.leave(running_there.pop())
        await other._batcher.drained()
        assert await is_admitted(one, limits)
        assert await is_admitted(one, tokens, 90), "its buckets are lost with it"
        assert not await is_admitted(other, tokens, 90)


async def test_whoever_is_back_first_does_not_take_its_share_for_the_whole(own: OwnRedis) -> None:
    async with workers(1, own.url, "", lease_s=0.5) as (one,), workers(1, own.url, "", lease_s=60) as (other,):
        await until(lambda: one.live == 2)
        with own.client() as client:
            client.flushall()
        assert await is_admitted(one, rate(10))
        own.close()
        assert await count_admitted(one, rate(10, "requests"), 20) == 5
        own.start()
        assert other.state == "shared", "it has not noticed anything, for nobody asked it"
        await until(lambda: one.state == "shared" and one.live == 1, within_s=2)
        assert await is_admitted(other, rate(10))
        await until(lambda: one.live == other.live == 2)


async def test_a_flushed_redis_is_joined_again_without_a_fallback(own: OwnRedis) -> None:
    limits = places(2)
    async with workers(2, own.url, "") as (one, other):
        await one.admit(limits, 1)
        with own.client() as client:
            client.flushall()
            client.script_flush()
        assert await is_admitted(one, limits)
        assert not await is_admitted(other, limits)
        assert (fallbacks(one), fallbacks(other)) == (0, 0)


async def test_redis_that_answers_with_errors_is_away_until_it_may_be_written_to_again(own: OwnRedis) -> None:
    limits = rate(10, "requests")
    async with workers(1, own.url, "") as (limiter,):
        with own.client() as client:
            assert await is_admitted(limiter, limits)
            client.replicaof("127.0.0.1", "1")
            assert await count_admitted(limiter, limits, 4) == 4
            assert limiter.state == "local share"
            client.replicaof("NO", "ONE")
        await until(lambda: limiter.state == "shared")
        assert await count_admitted(limiter, limits, 10) == 5


async def test_more_than_fits_into_one_question_is_told_in_several(own: OwnRedis) -> None:
    """700 keys with a request each, when Redis loses everything."""
    keys = [(*places(1), *rate(100)) for _ in range(700)]
    async with workers(2, own.url, "") as (one, other):
        running = await asyncio.gather(*(one.admit(limits, 10) for limits in keys))
        with own.client() as client:
            client.flushall()
        assert await is_admitted(one, rate(10))
        assert [await is_admitted(other, limits) for limits in (keys[0], keys[-1])] == [False, False]
        for admission in running:
            one.leave(admission)
        await one._batcher.drained()
        assert all(await asyncio.gather(*(is_admitted(other, limits) for limits in keys)))


async def test_a_clock_that_is_set_back_holds_no_bucket_still(prefix: str) -> None:
    now = 2000.0
    limits = rate(10, window_s=10)
    async with workers(1, redis_server(), prefix, clock=lambda: now) as (limiter,):
        assert await is_admitted(limiter, limits, 10)
        now = 1000.0
        assert not await is_admitted(limiter, limits)
        now += 5
        assert await is_admitted(limiter, limits, 5)


async def test_a_call_of_a_former_name_does_nothing(prefix: str) -> None:
    """A frozen Redis may carry it out when its worker has long counted otherwise."""
    limits = (*places(2), *rate(100))
    async with workers(1, redis_server(), prefix) as (limiter,):
        question = limiter._question([Admission(limits, 60)])
        late = question.payload(COUNT, limiter._member._names[-1], 15, prefix, 0, [])
        await limiter._join()
        answer = read_answer(await limiter._link.ask(late))
        assert (answer.live, answer.outcomes) == (0, [])
        assert await is_admitted(limiter, limits, 100)


async def test_a_broken_connection_is_made_anew_at_once(own: OwnRedis) -> None:
    async with workers(1, own.url, "") as (limiter,):
        with own.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        began = time.monotonic()
        assert await is_admitted(limiter, rate(100))
        await until(lambda: limiter.state == "shared")
        assert time.monotonic() - began < 0.45


async def test_a_worker_that_starts_in_an_outage_has_its_share_and_joins_later() -> None:
    with own_redis(started=False) as server:
        limiter = SharedLimiter(server.url, Metrics(), workers=3)
        await limiter.start()
        assert limiter.state == "local share"
        assert await count_admitted(limiter, rate(9, "requests"), 20) == 3
        server.start()
        await until(lambda: limiter.state == "shared")
        assert await count_admitted(limiter, rate(9, "requests"), 20) == 9, "the others may have gone"
        await limiter.stop()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_busy_worker_does_not_take_redis_for_slow(prefix: str, loop_factory: Any) -> None:
    """Each turn of its loop takes longer than the bound, before the question leaves and while its answer waits."""

    async def be_busy(limiter: SharedLimiter) -> None:
        while True:
            before = limiter._link._asked
            time.sleep(0.07)
            await asyncio.sleep(0)
            if before != limiter._link._asked:
                time.sleep(0.07)

    async def ask() -> None:
        async with workers(1, redis_server(), prefix, bound_s=BOUND_S) as (limiter,):
            busy = asyncio.create_task(be_busy(limiter))
            for _ in range(3):
                assert await is_admitted(limiter, rate(100))
            busy.cancel()
            assert (fallbacks(limiter), limiter.state) == (0, "shared")

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(ask())


# ── what operators see ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_wrong_redis_url_is_refused_with_the_remedy(own: OwnRedis) -> None:
    await check_redis(own.url)
    with pytest.raises(SetupError, match=r"^GATEWAY_REDIS_URL: .*redis://host:port"):
        await check_redis(f"redis://127.0.0.1:{own.port}0000/x")
    with own.client() as client:
        client.config_set("requirepass", "canary-redis-password")
        client.execute_command("AUTH", "canary-redis-password")
        for url in (own.url, f"redis://:wrong@127.0.0.1:{own.port}/0"):
            with pytest.raises(SetupError, match=r"^GATEWAY_REDIS_URL: .*redis://user:password@host") as refused:
                await check_redis(url)
            assert "wrong" not in str(refused.value)
        await check_redis(f"redis://:canary-redis-password@127.0.0.1:{own.port}/0")
        client.config_set("requirepass", "")
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(SetupError, match=r"^GATEWAY_REDIS_URL: .*must be a single Redis primary"):
            await check_redis(own.url)
    own.freeze()
    began = time.monotonic()
    with pytest.raises(SetupError, match=r"^GATEWAY_REDIS_URL: .*no Redis answers there"):
        await check_redis(own.url)
    assert time.monotonic() - began < 3.5
    own.close()
    with pytest.raises(SetupError, match=r"^GATEWAY_REDIS_URL: .*no Redis answers there"):
        await check_redis(own.url)


async def test_readyz_and_metrics_tell_whose_requests_are_counted(own: OwnRedis, tmp_path: Path) -> None:
    with start_rig(tmp_path / "rig", GATEWAY_REDIS_URL=own.url, GATEWAY_WORKERS="1") as rig:
        alias = rig.alias("sim:words=1")
        ada = rig.customer(models=[alias])
        rig.desk.limits.set(key=ada.key_id, unit="requests", quota=3, window_s=HOUR)
        rig.settle_feed()
        assert _ready(rig.url) == {"status": "ready", "limiter": "shared"}
        answer = await rig.chat(ada, alias)
        assert (answer.status, answer.headers["x-ratelimit-remaining-requests"]) == (200, "2")
        own.close()
        answers = [await rig.chat(ada, alias) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert _ready(rig.url) == {"status": "ready", "limiter": "local share"}
        assert "gateway_limiter_local 1.0" in _get(rig.url + "/metrics")
        own.start()
        await until(lambda: _ready(rig.url)["limiter"] == "shared")
        # Redis lost what it knew, and was told what was admitted meanwhile: two of three.
        assert [(await rig.chat(ada, alias)).status for _ in range(2)] == [200, 429]
        assert "gateway_limiter_local 0.0" in _get(rig.url + "/metrics")
        own.freeze()
        began = time.monotonic()
        assert (await rig.chat(ada, alias)).status == 429, "what Redis told last is not forgotten with it"
        assert time.monotonic() - began < 1
        assert _ready(rig.url) == {"status": "ready", "limiter": "local share"}
        own.thaw()
        await until(lambda: _ready(rig.url)["limiter"] == "shared")


def _ready(url: str) -> Any:
    return json.loads(_get(url + "/readyz"))


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())
