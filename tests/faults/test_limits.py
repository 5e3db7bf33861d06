"""Limits by key, account and route: who is refused, what a refusal says, and that it gives back what it took."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import Limit
from gateway.limits.local import LocalLimiter
from models.errors import LimitExceeded
from tests.faults.wire import route_id
from tests.rig import Answer, Customer, Rig, client

# Of 1 token for "Hello", 4 for its message and max_tokens=45, the gateway's estimate of one request is 50.
FIFTY: dict[str, Any] = {"max_tokens": 45}


def limit(rig: Rig, **what: Any) -> None:
    rig.desk.limits.set(**what)
    rig.settle_feed()


def subject(rig: Rig, ada: Customer, alias: str, kind: str) -> dict[str, Any]:
    return {"key": {"key": ada.key_id}, "account": {"account": ada.email}, "route": {"route": route_id(rig, alias)}}[
        kind
    ]


def check_refusal(answer: Answer) -> None:
    """What SDKs read to come back at the right time."""
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
    assert answer.error["type"] == "rate_limit_error"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert int(answer.headers["retry-after-ms"]) == 1000 * int(answer.headers["retry-after"])
    assert "x-should-retry" not in answer.headers
    assert "x-request-id" in answer.headers
    assert "x-credits-charged" not in answer.headers


async def burst(rig: Rig, ada: Customer, alias: str, count: int, **fields: Any) -> list[Answer]:
    return await asyncio.gather(*[rig.chat(ada, alias, **fields) for _ in range(count)])


# ── who is refused ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["key", "account", "route"])
async def test_requests_are_limited_by(rig: Rig, kind: str) -> None:
    upstream = f"sim:words=1,tag=requests-{kind}"
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    limit(rig, **subject(rig, ada, alias, kind), unit="requests", quota=5, window_s=3600)
    answers = await burst(rig, ada, alias, 12)
    assert Counter(answer.status for answer in answers) == {200: 5, 429: 7}
    assert len(await rig.provider.calls(upstream)) == 5
    for answer in answers:
        if answer.status == 429:
            check_refusal(answer)
            assert f"5 requests per 3600 s for this {kind}" in answer.error["message"]
        if kind != "route":
            assert answer.headers["x-ratelimit-limit-requests"] == "5"
    if kind != "route":
        assert min(int(a.headers["x-ratelimit-remaining-requests"]) for a in answers if a.status == 200) == 0
        assert answers[-1].headers["x-ratelimit-reset-requests"].endswith("s")
    await rig.settled(ada, records=5)


@pytest.mark.parametrize("kind", ["key", "account", "route"])
async def test_tokens_are_limited_by(rig: Rig, kind: str) -> None:
    """Admitted by estimate; the provider uses just as much, so a quota of 220 is good for four."""
    upstream = f"sim:words=1,prompt=5,completion=45,tag=tokens-{kind}"
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    limit(rig, **subject(rig, ada, alias, kind), unit="tokens", quota=220, window_s=3600)
    answers = await burst(rig, ada, alias, 10, **FIFTY)
    assert Counter(answer.status for answer in answers) == {200: 4, 429: 6}
    assert len(await rig.provider.calls(upstream)) == 4
    for answer in answers:
        if answer.status == 429:
            check_refusal(answer)
            assert f"220 tokens per 3600 s for this {kind}" in answer.error["message"]
        if kind != "route":
            assert answer.headers["x-ratelimit-limit-tokens"] == "220"


@pytest.mark.parametrize("kind", ["key", "account", "route"])
@pytest.mark.parametrize("stream", [False, True])
async def test_requests_at_once_are_limited_by(rig: Rig, kind: str, stream: bool) -> None:
    upstream = f"sim:words=2,gate,tag=at-once-{kind}-{stream}"
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    limit(rig, **subject(rig, ada, alias, kind), unit="concurrent", quota=3)
    for _ in range(2):
        running = [asyncio.create_task(rig.chat(ada, alias, stream=stream)) for _ in range(10)]
        refused = list(itertools.islice(asyncio.as_completed(running), 7))
        for answer in [await done for done in refused]:
            check_refusal(answer)
            assert f"3 requests at once for this {kind}" in answer.error["message"]
        await rig.provider.wait(upstream, count=3, state="open")
        await rig.provider.release(upstream)
        answers = await asyncio.gather(*running)
        assert Counter(answer.status for answer in answers) == {429: 7, 200: 3}
        await rig.settled(ada)


async def test_the_tightest_limit_decides_and_the_headers_tell_of_it(rig: Rig) -> None:
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    rig.desk.limits.set(key=ada.key_id, unit="requests", quota=100, window_s=3600)
    limit(rig, account=ada.email, unit="requests", quota=2, window_s=3600)
    answers = [await rig.chat(ada, alias) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-limit-requests"] for answer in answers] == ["2"] * 3
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]


async def test_two_keys_of_an_account_share_its_limit_and_not_each_others(rig: Rig) -> None:
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    issued = rig.desk.keys.issue(ada.email, name="second", models=[alias])
    second = Customer(ada.email, issued.id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})
    rig.desk.limits.set(key=ada.key_id, unit="requests", quota=2, window_s=3600)
    limit(rig, account=ada.email, unit="requests", quota=5, window_s=3600)
    assert [(await rig.chat(ada, alias)).status for _ in range(3)] == [200, 200, 429]
    assert [(await rig.chat(second, alias)).status for _ in range(4)] == [200, 200, 200, 429]


async def test_a_limit_of_one_unit_leaves_the_default_of_another_in_force(rig: Rig) -> None:
    """Whoever bounds how many run at once must not lift the default bound on requests by that."""
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    try:
        rig.desk.limits.set(default="key", unit="requests", quota=2, window_s=3600)
        limit(rig, key=ada.key_id, unit="concurrent", quota=10)
        assert [(await rig.chat(ada, alias)).status for _ in range(3)] == [200, 200, 429]
        bob = rig.customer(models=[alias])
        limit(rig, key=bob.key_id, unit="requests", quota=3, window_s=3600)
        assert [(await rig.chat(bob, alias)).status for _ in range(4)] == [200, 200, 200, 429]
    finally:
        limit(rig, default="key", unit="requests", quota=None)


async def test_a_limit_comes_into_force_and_goes_without_a_restart(rig: Rig) -> None:
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    assert (await rig.chat(ada, alias)).status == 200
    limit(rig, key=ada.key_id, unit="requests", quota=1, window_s=3600)
    assert [(await rig.chat(ada, alias)).status for _ in range(2)] == [200, 429]
    limit(rig, key=ada.key_id, unit="requests", quota=None)
    assert (await rig.chat(ada, alias)).status == 200


# ── routes: passed over when limited ──────────────────────────────────────────────────────────────────────────────


async def test_a_limited_route_is_passed_over_and_all_limited_is_429(rig: Rig) -> None:
    upstreams = ["sim:words=1,tag=over-a", "sim:words=1,tag=over-b"]
    alias = rig.alias(*upstreams)
    ada = rig.customer(models=[alias])
    for position, quota in ((1, 2), (2, 3)):
        limit(rig, route=route_id(rig, alias, position), unit="requests", quota=quota, window_s=3600)
    answers = [await rig.chat(ada, alias, stream=i % 2 == 0) for i in range(7)]
    assert [answer.status for answer in answers] == [200] * 5 + [429] * 2
    assert [len(await rig.provider.calls(upstream)) for upstream in upstreams] == [2, 3]
    check_refusal(answers[-1])
    await rig.settled(ada, records=5)
    assert len(rig.records(ada)) == 5, "a refusal leaves no record"


async def test_a_route_that_failed_beside_a_limited_one_is_502(rig: Rig) -> None:
    alias = rig.alias("sim:words=1", "sim:status=500,tag=beside")
    ada = rig.customer(models=[alias])
    limit(rig, route=route_id(rig, alias), unit="requests", quota=1, window_s=3600)
    assert [(await rig.chat(ada, alias)).status for _ in range(2)] == [200, 502]


# ── a refusal gives back what it took ─────────────────────────────────────────────────────────────────────────────


async def test_every_refusal_and_failure_gives_places_and_tokens_back(rig: Rig) -> None:
    """One place, and tokens for one estimate: whatever keeps any of it makes the next request a 429.

    Over one connection, to one worker: another one hears of a free place a moment after the answer.
    """
    good, broken, rejecting = (
        rig.alias(x, settled=False) for x in ("sim:words=1,prompt=1,completion=1", "sim:status=500", "sim:status=400")
    )
    cut = rig.alias("sim:words=5,cut=3", settled=False)
    ada = rig.customer(models=[good, broken, rejecting, cut])
    rig.desk.limits.set(key=ada.key_id, unit="concurrent", quota=1)
    rig.desk.limits.set(route=route_id(rig, broken), unit="concurrent", quota=1)
    rig.desk.limits.set(account=ada.email, unit="tokens", quota=60, window_s=3600)
    limit(rig, account=ada.email, unit="concurrent", quota=1)
    async with client() as session:
        for stream in (False, True):
            assert (await rig.chat(ada, broken, stream=stream, **FIFTY, over=session)).status == 502
            assert (await rig.chat(ada, rejecting, stream=stream, **FIFTY, over=session)).status == 400
            assert (await rig.chat(ada, "nothing", stream=stream, **FIFTY, over=session)).status == 403
            assert (await rig.chat(ada, good, stream=stream, n=0, **FIFTY, over=session)).status == 400
        assert not (await rig.chat(ada, cut, stream=True, **FIFTY, over=session)).is_done
        answer = await rig.chat(ada, good, **FIFTY, over=session)
        assert answer.status == 200
        assert answer.headers["x-ratelimit-limit-tokens"] == "60"
        assert (await rig.chat(ada, good, **FIFTY, over=session)).status == 200, "50 were estimated and 2 used"


async def test_a_refusal_for_want_of_credit_gives_places_and_tokens_back(rig: Rig) -> None:
    alias = rig.alias("sim:words=1,prompt=1,completion=1")
    ada = rig.customer(credits="0", models=[alias])
    rig.desk.limits.set(route=route_id(rig, alias), unit="tokens", quota=60, window_s=3600)
    rig.desk.limits.set(key=ada.key_id, unit="concurrent", quota=1)
    limit(rig, key=ada.key_id, unit="tokens", quota=60, window_s=3600)
    async with client() as session:
        assert [(await rig.chat(ada, alias, **FIFTY, over=session)).status for _ in range(5)] == [402] * 5
        rig.desk.credits.grant(ada.email, credits="1", reason="test", grant_key=f"late-{ada.email}")
        assert (await rig.chat(ada, alias, **FIFTY, over=session)).status == 200


async def test_a_limited_route_gives_the_keys_tokens_and_the_money_back(rig: Rig) -> None:
    alias = rig.alias("sim:words=1,prompt=1,completion=1")
    ada = rig.customer(models=[alias])
    rig.desk.limits.set(route=route_id(rig, alias), unit="requests", quota=1, window_s=3600)
    rig.desk.limits.set(key=ada.key_id, unit="concurrent", quota=1)
    limit(rig, key=ada.key_id, unit="tokens", quota=60, window_s=3600)
    async with client() as session:
        assert [(await rig.chat(ada, alias, **FIFTY, over=session)).status for _ in range(6)] == [200] + [429] * 5
        assert "for this route" in (await rig.chat(ada, alias, **FIFTY, over=session)).error["message"]
    await rig.settled(ada)


async def test_a_client_that_leaves_gives_its_place_back(rig: Rig) -> None:
    """Its estimate stays counted when nothing came; the place does not."""
    upstream = "sim:words=2,first_ms=5000,tag=leaves"
    waiting, quick = rig.alias(upstream, settled=False), rig.alias("sim:words=1", settled=False)
    ada = rig.customer(models=[waiting, quick])
    limit(rig, key=ada.key_id, unit="concurrent", quota=1)
    for stream in (False, True):
        leaving = asyncio.create_task(rig.chat(ada, waiting, stream=stream))
        await rig.provider.wait(upstream, count=1 + stream)
        assert (await rig.chat(ada, quick)).status == 429
        leaving.cancel()
        await rig.provider.wait(upstream, count=1 + stream, state="left")
        assert (await rig.chat(ada, quick)).status == 200


# ── the arithmetic ────────────────────────────────────────────────────────────────────────────────────────────────

STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.001, 0.3, 1.0, 7.0, 61.0]), st.integers(1, 60), st.sampled_from(["use", "refuse"])
    ),
    max_size=60,
)


@given(steps=STEPS, quota=st.integers(1, 50), window_s=st.sampled_from([1, 7, 60, 3600]))
def test_in_any_t_seconds_at_most_quota_times_one_plus_t_over_window(
    steps: list[tuple[float, int, str]], quota: int, window_s: int
) -> None:
    """Whatever comes when; what was refunded at once counts for nothing."""
    now = 1000.0
    limiter = LocalLimiter(clock=lambda: now)
    limits = (Limit("key", 1, "tokens", quota, window_s),)
    admitted: list[tuple[float, int]] = []
    for wait_s, tokens, then in steps:
        now += wait_s
        try:
            admission = _admit(limiter, limits, tokens)
        except LimitExceeded:
            continue
        if then == "refuse":
            limiter.refund(admission)
        else:
            admitted.append((now, min(tokens, quota)))
    for i, (began, _) in enumerate(admitted):
        total = 0
        for at, tokens in admitted[i:]:
            total += tokens
            assert total <= quota * (1 + (at - began) / window_s) + 1e-3


@given(quota=st.integers(1, 1000), window_s=st.integers(1, 3600), tokens=st.integers(1, 2000))
def test_who_waits_as_long_as_he_was_told_is_admitted(quota: int, window_s: int, tokens: int) -> None:
    now = 5.0
    limiter = LocalLimiter(clock=lambda: now)
    limits = (Limit("key", 1, "tokens", quota, window_s),)
    _admit(limiter, limits, quota)
    with pytest.raises(LimitExceeded) as refused:
        _admit(limiter, limits, tokens)
    now += refused.value.retry_after_s + 1e-6
    _admit(limiter, limits, tokens)


@given(
    places=st.integers(1, 5), steps=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.booleans()), max_size=80)
)
def test_places_are_counted_exactly(places: int, steps: list[tuple[bool, int, bool]]) -> None:
    """However often a place is given back, and by whichever way, it is one place."""
    limiter = LocalLimiter(clock=lambda: 0.0)
    limits = (Limit("key", 1, "concurrent", places, 0), Limit("account", 1, "concurrent", places + 1, 0))
    taken: list[Any] = []
    given_back: list[Any] = []
    for enters, which, twice in steps:
        if enters:
            if len(taken) < places:
                taken.append(_admit(limiter, limits, 1))
            else:
                with pytest.raises(LimitExceeded):
                    _admit(limiter, limits, 1)
        elif taken:
            given_back.append(taken.pop(which % len(taken)))
            limiter.leave(given_back[-1])
        if twice and given_back:
            limiter.leave(given_back[which % len(given_back)])
            limiter.refund(given_back[which % len(given_back)])


def _admit(limiter: LocalLimiter, limits: tuple[Limit, ...], tokens: int) -> Any:
    """Nothing in it awaits, which is what makes a check and its take one step."""
    running = limiter.admit(limits, tokens)
    with pytest.raises(StopIteration) as done:
        running.send(None)
    return done.value.value
