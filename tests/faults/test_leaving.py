"""Clients that leave: at once, in mid-stream, at every moment. Who pays is decided once, and nothing stays held."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator

import pytest

from models.prices import credits_text
from tests.faults.books import PRICE, aliases, bill_nano, leave, leave_after, line_of, metric
from tests.rig import Rig, start_rig
from tests.watching.numbers import numbers, wait_for


@pytest.fixture(scope="module", autouse=True)
def _the_books_are_right_afterwards(rig: Rig) -> Iterator[None]:
    yield
    rig.reconcile()


async def left(rig: Rig, email: str, when: str) -> float:
    balances = rig.desk.accounts.balances()
    account_id = int(balances[balances["email"] == email].iloc[0]["account_id"])
    return await metric(rig, "gateway_client_left_total", account=str(account_id), when=when)


async def test_leaving_in_mid_stream_is_charged_what_the_provider_counted_once(rig: Rig) -> None:
    """Faults 1: drained in the background, then the actual usage."""
    upstream = "sim:words=40,gap_ms=10,tag=mid"
    [alias] = aliases(rig, upstream)
    ada = rig.customer(models=[alias])
    await asyncio.gather(*(leave(rig, ada, alias, events=k) for k in (1, 2, 5, 20)))
    calls = await rig.provider.wait(upstream, count=4, state="served")
    await rig.settled(ada, records=4)
    bills = [bill_nano(call["usage"]) for call in calls]
    assert [record["charge_nano"] for record in rig.records(ada)] == bills
    assert {(record["outcome"], record["estimated"]) for record in rig.records(ada)} == {("left", False)}
    assert rig.spent_nano(ada) == sum(bills)
    assert await left(rig, ada.email, "after output") == 4


async def test_leaving_before_the_first_token_is_free_and_ends_the_call(rig: Rig) -> None:
    """Faults 2."""
    models = ["sim:words=5,think_ms=60000", "sim:words=5,first_ms=60000,tag=stream"]
    names = aliases(rig, *models)
    ada = rig.customer(models=names)
    thinking, silent = names
    # The one has sent its headers, so ours are there too; the other has not.
    await asyncio.gather(leave(rig, ada, thinking, events=0), leave_after(rig, ada, silent, 0.15, stream=True))
    for model in models:
        await rig.provider.wait(model, state="left")
    await rig.settled(ada, records=2)
    assert {(record["outcome"], record["charge_nano"]) for record in rig.records(ada)} == {("left", 0)}
    assert rig.spent_nano(ada) == 0
    assert await left(rig, ada.email, "before output") == 2


async def test_leaving_a_whole_answer_is_free_but_its_tokens_stay_counted(rig: Rig) -> None:
    """Faults 3: nothing for the client to pay, no way around its limits, and a number for us to look at."""
    slow, quick = aliases(rig, "sim:words=5,first_ms=60000,tag=whole", "sim:words=5,tag=quick")
    ada = rig.customer(models=[slow, quick])
    rig.desk.limits.set(key=ada.key_id, unit="tokens", quota=10_000, window_s=86_400)
    rig.desk.limits.set(key=ada.key_id, unit="concurrent", quota=1)
    rig.settle_feed()
    await leave_after(rig, ada, slow, 0.05, max_tokens=6_000)
    await rig.provider.wait("sim:words=5,first_ms=60000,tag=whole", state="left")
    await rig.settled(ada, records=1)
    assert rig.records(ada)[0]["outcome"] == "left"
    assert rig.spent_nano(ada) == 0
    assert await left(rig, ada.email, "before output") == 1
    # Its place is free again, its estimate is not.
    refused = await rig.chat(ada, quick, max_tokens=6_000)
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    served = await rig.chat(ada, quick, max_tokens=1_000)
    assert served.status == 200
    assert 3_900 <= int(served.headers["x-ratelimit-remaining-tokens"]) <= 4_000


async def test_leaving_at_any_moment_leaves_nothing_held(rig: Rig) -> None:
    """Faults 4: a sweep over time and over every event, streamed and not, with and without usage, failing and not."""
    whole, streamed = "sim:words=8,first_ms=8,tag=sweep", "sim:words=8,first_ms=4,gap_ms=2,tag=sweep"
    counted, cut, flaky = (
        "sim:words=8,gap_ms=2,usage=none,tag=sweep",
        "sim:words=8,gap_ms=2,cut=6",
        "sim:flap=1,first_ms=3",
    )
    names = aliases(rig, whole, streamed, counted, cut, flaky)
    ada = rig.customer(models=names)
    for ms in range(0, 50, 2):
        await asyncio.gather(
            leave_after(rig, ada, names[0], ms / 1000),
            *(leave_after(rig, ada, name, ms / 1000, stream=True) for name in names[1:]),
        )
    await asyncio.gather(*(leave(rig, ada, name, events=k) for name in names[1:4] for k in range(12)))
    # And one that stays, lest no answer was whole in time.
    assert (await rig.chat(ada, names[0])).status == 200
    await rig.settled(ada)
    records = rig.records(ada)
    outcomes = Counter(record["outcome"] for record in records)
    assert set(outcomes) == {"served", "failed", "left"}
    assert rig.spent_nano(ada) == sum(record["charge_nano"] for record in records)
    assert rig.held_nano(ada) == 0
    # Nobody was charged for what the provider broke, and nobody who saw the whole of it got it for nothing.
    assert {record["charge_nano"] for record in records if record["model"] == names[3]} == {0}
    exact = {r["charge_nano"] for r in records if r["model"] == names[0] and r["outcome"] == "served"}
    assert exact == {bill_nano(call["usage"]) for call in await rig.provider.calls(whole) if call["state"] == "served"}
    assert await metric(rig, "gateway_streams_draining") == 0
    assert await metric(rig, "gateway_requests_running") == 0


async def test_the_provider_failing_after_the_client_left_is_free(rig: Rig) -> None:
    names = aliases(rig, *(f"sim:words=30,gap_ms=5,{fault}" for fault in ("cut=20", "error_event=20", "no_finish")))
    ada = rig.customer(models=names)
    await asyncio.gather(*(leave(rig, ada, name, events=2) for name in names))
    await rig.settled(ada, records=3)
    assert [(record["outcome"], record["charge_nano"]) for record in rig.records(ada)] == [("failed", 0)] * 3
    assert rig.spent_nano(ada) == 0


# ── past the bound of the drain ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A gateway that reads on for a moment only, and for two streams at once in its one worker."""
    settings = {"GATEWAY_DRAIN_S": "0.4", "GATEWAY_DRAIN_MAX": "2", "GATEWAY_WORKERS": "1"}
    with start_rig(tmp_path_factory.mktemp("hasty"), **settings) as running:
        yield running
        running.reconcile()


async def test_past_the_bound_the_part_that_came_is_estimated_and_flagged(hasty: Rig) -> None:
    rig, upstream = hasty, "sim:words=1000,gap_ms=50"
    [alias] = aliases(rig, upstream)
    ada = rig.customer(models=[alias])
    rig.desk.limits.set(key=ada.key_id, unit="concurrent", quota=1)
    rig.settle_feed()
    await leave(rig, ada, alias, events=3)
    # While it is drained it keeps its place.
    assert (await rig.chat(ada, alias)).status == 429
    calls = await rig.provider.wait(upstream, state="left")
    await rig.settled(ada, records=1)
    [record] = rig.records(ada)
    assert (record["outcome"], record["estimated"]) == ("left", True)
    sent = calls[0]["usage"]["completion"]
    assert 3 <= sent < 30
    assert 3 <= record["output_tokens"] <= 2 * sent
    tokens = {"fresh": record["fresh_tokens"], "output": record["output_tokens"]}
    assert rig.spent_nano(ada) == record["charge_nano"] == PRICE.charge_nano(**tokens)


async def test_only_so_many_are_drained_at_once_and_the_others_are_cut(hasty: Rig) -> None:
    rig, upstream = hasty, "sim:words=20,gap_ms=10,gate,tag=crowd"
    [alias] = aliases(rig, upstream)
    ada = rig.customer(models=[alias])
    await asyncio.gather(*(leave(rig, ada, alias, events=1) for _ in range(5)))
    # Three are cancelled at once; two go on to their end, for the gate opens within the bound.
    await rig.provider.wait(upstream, count=3, state="left")
    await rig.provider.release(upstream)
    await rig.provider.wait(upstream, count=2, state="served")
    await rig.settled(ada, records=5)
    assert Counter(record["estimated"] for record in rig.records(ada)) == {True: 3, False: 2}
    assert {record["outcome"] for record in rig.records(ada)} == {"left"}


@pytest.mark.only("sqlite")
async def test_a_client_that_leaves_while_it_is_charged_is_told_as_it_was_charged(hasty: Rig) -> None:
    rig, upstream = hasty, "sim:words=3,gate,tag=charging"
    model = rig.alias(upstream)
    ada = rig.customer(models=[model])
    await numbers(rig)
    others = rig.workers.connections()
    calls = [asyncio.create_task(rig.chat(ada, model, stream=stream)) for stream in (False, True)]
    await rig.provider.wait(upstream, count=2)
    with contextlib.closing(sqlite3.connect(rig.database_url.removeprefix("sqlite://"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await rig.provider.release(upstream)
        await rig.provider.wait(upstream, count=2, state="served")
        async with asyncio.timeout(10):
            while not (await numbers(rig))("gateway_settlement_lag_seconds"):
                await asyncio.sleep(0.02)
        for call in calls:
            call.cancel()
        async with asyncio.timeout(10):
            while rig.workers.connections() > others:
                await asyncio.sleep(0.02)
        assert (await numbers(rig))("gateway_requests_running") == 2
        other.execute("ROLLBACK")
    await rig.settled(ada, records=2)
    now = await wait_for(rig, "gateway_requests_total", 2, model=model, status="499")
    records = rig.records(ada)
    assert {record["outcome"] for record in records} == {"served"}
    assert rig.spent_nano(ada) == sum(record["charge_nano"] for record in records) > 0
    assert round(now("gateway_charged_credits_total", model=model) * 1e9) == rig.spent_nano(ada)
    for record in records:
        line = await line_of(rig, record["request_id"])
        assert "status=499" in line
        assert "outcome=served" in line
        assert f"credits={credits_text(record['charge_nano'])} " in line
