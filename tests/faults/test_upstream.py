"""Faults 45 to 49: how often a provider is called, what falls back and what is passed on, and which routes rest."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proxy import Proxy
from tests.rig import Answer, Customer, Rig, client, start_rig
from tests.servers import free_port

GOOD = "sim:words=3,tag="


@pytest.fixture(scope="module", autouse=True)
def _the_books_are_right_afterwards(rig: Rig) -> Any:
    yield
    rig.reconcile()


async def calls(rig: Rig, *upstream_models: str) -> list[int]:
    return [len(await rig.provider.calls(model)) for model in upstream_models]


async def attempts(rig: Rig, customer: Customer) -> list[int]:
    """The statuses of the attempts in the customer's one usage record."""
    await rig.settled(customer, records=1)
    (record,) = rig.records(customer)
    return [attempt["status"] for attempt in json.loads(record["attempts"])]


async def each(
    rig: Rig, check: Callable[[str, Customer, str], Awaitable[None]], cases: dict[str, tuple[str, ...]]
) -> None:
    """Check every case at once, with a customer and an alias of its own over these upstream models."""
    aliases = {case: rig.alias(*upstreams, settled=False) for case, upstreams in cases.items()}
    rig.settle_feed()
    customers = {case: rig.customer(models=[alias]) for case, alias in aliases.items()}
    results = await asyncio.gather(
        *[check(case, customers[case], alias) for case, alias in aliases.items()], return_exceptions=True
    )
    assert not {case: fault for case, fault in zip(cases, results, strict=True) if fault is not None}


async def failed_free(rig: Rig, customer: Customer, answer: Answer) -> None:
    assert (answer.status, answer.error["code"]) == (502, "upstream_unavailable")
    assert "x-credits-charged" not in answer.headers
    await rig.settled(customer)
    assert rig.spent_nano(customer) == 0


# ── faults 45, 46: one budget of attempts, and no replay ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
async def test_at_most_four_attempts_are_made_however_many_routes_there_are(rig: Rig, stream: bool) -> None:
    """Faults 45."""
    upstreams = [f"sim:status=500,tag=budget-{stream}-{i}" for i in range(6)]
    alias = rig.alias(*upstreams)
    ada = rig.customer(models=[alias])
    await failed_free(rig, ada, await rig.chat(ada, alias, stream=stream))
    assert await calls(rig, *upstreams) == [1, 1, 1, 1, 0, 0]
    await rig.settled(ada)
    assert [record["outcome"] for record in rig.records(ada)] == ["failed"]


async def test_a_fallback_that_answers_is_charged_once(rig: Rig) -> None:
    """Faults 45."""
    upstreams = ["sim:status=503,tag=once", "sim:cut=0,tag=once", GOOD + "once"]
    alias = rig.alias(*upstreams)
    ada = rig.customer(models=[alias])
    answer = await rig.chat(ada, alias)
    assert (answer.status, answer.json["model"]) == (200, alias)
    assert await calls(rig, *upstreams) == [1, 1, 1]
    assert await attempts(rig, ada) == [503, 200, 200]
    assert rig.spent_nano(ada) == rig.records(ada)[0]["charge_nano"] > 0


async def test_nothing_is_replayed_once_the_client_has_seen_a_word(rig: Rig) -> None:
    """Faults 46: the client must not read two beginnings, nor pay for one."""

    async def check(fault: str, ada: Customer, alias: str) -> None:
        answer = await rig.chat(ada, alias, stream=True)
        assert answer.status == 200
        assert not answer.is_done
        assert answer.events[-1]["error"]["code"] == "upstream_unavailable"
        assert await calls(rig, f"{GOOD}{fault}") == [0]
        await rig.settled(ada)
        assert rig.spent_nano(ada) == 0

    faults = ["cut=2", "stall=2", "error_event=2"]
    await each(rig, check, {fault: (f"sim:words=5,gap_ms=100,{fault}", f"{GOOD}{fault}") for fault in faults})


async def test_a_stream_that_says_nothing_useful_falls_back_unseen(rig: Rig) -> None:
    async def check(_fault: str, ada: Customer, alias: str) -> None:
        answer = await rig.chat(ada, alias, stream=True)
        assert answer.is_done
        assert len([event for event in answer.events if event["choices"][0]["delta"].get("role")]) == 1
        assert await attempts(rig, ada) == [200, 200]

    faults = ["cut=0", "stall=0", "error_event=0", "json_for_sse", "body=html", "body=empty"]
    await each(rig, check, {fault: (f"sim:{fault}", f"{GOOD}before-{fault}") for fault in faults})


async def test_a_whole_answer_that_is_none_falls_back(rig: Rig) -> None:
    async def check(_fault: str, ada: Customer, alias: str) -> None:
        answer = await rig.chat(ada, alias)
        assert (answer.status, answer.json["choices"][0]["finish_reason"]) == (200, "stop")
        assert await attempts(rig, ada) == [200, 200]

    faults = ["cut=0", "stall=0", "error_body", "body=html", "body=empty", "body=json", "body=string"]
    await each(rig, check, {fault: (f"sim:{fault},tag=whole", f"{GOOD}whole-{fault}") for fault in faults})


# ── faults 47: silence ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
async def test_a_silent_provider_is_given_up_for_the_next_route(rig: Rig, stream: bool) -> None:
    """Faults 47: it accepts the connection and says nothing; the rig waits 2 s for a first byte."""
    silent = f"sim:silent,tag={stream}"
    alias = rig.alias(silent, f"{GOOD}after-silence-{stream}")
    ada = rig.customer(models=[alias])
    began = time.monotonic()
    answer = await rig.chat(ada, alias, stream=stream)
    assert answer.status == 200
    assert 1.9 < time.monotonic() - began < 4
    assert await attempts(rig, ada) == [0, 200]
    await rig.provider.wait(silent, state="left")


async def test_an_address_where_nobody_listens_falls_back_at_once(rig: Rig) -> None:
    alias = rig.alias()
    rig.desk.catalog.add_provider("nobody", base_url=f"http://127.0.0.1:{free_port()}/v1", api_key="canary-nobody")
    rig.desk.catalog.add_route(alias, provider="nobody", upstream_model="gone", position=1, weight=1)
    rig.desk.catalog.add_route(alias, provider="fp", upstream_model=GOOD + "listens", position=2, weight=1)
    rig.settle_feed()
    ada = rig.customer(models=[alias])
    began = time.monotonic()
    assert (await rig.chat(ada, alias)).status == 200
    assert time.monotonic() - began < 1.5
    assert await attempts(rig, ada) == [0, 200]


async def test_a_provider_behind_a_broken_network_is_given_up_and_free(rig: Rig) -> None:
    """Faults 47, on a kept-alive connection: nothing comes any more, or it is reset; and then the network is back."""
    with Proxy(rig.provider.root) as door:
        alias = rig.alias()
        rig.desk.catalog.add_provider("far", base_url=f"{door.url}/v1", api_key="canary-far")
        rig.desk.catalog.add_route(alias, provider="far", upstream_model=GOOD + "far", position=1, weight=1)
        rig.desk.catalog.add_route(alias, provider="fp", upstream_model=GOOD + "near", position=2, weight=1)
        rig.settle_feed()
        ada = rig.customer(models=[alias])
        async with client() as session:
            for break_it in (door.freeze, door.freeze_answers, door.cut):
                assert (await rig.chat(ada, alias, over=session)).status == 200
                break_it()
                for stream in (False, True):
                    answer = await rig.chat(ada, alias, over=session, stream=stream)
                    assert answer.is_done if stream else answer.status == 200
                door.pass_on()
    await rig.settled(ada, records=9)
    tried = [[a["status"] for a in json.loads(record["attempts"])] for record in rig.records(ada)]
    assert [statuses[-1] for statuses in tried] == [200] * 9
    assert tried[0::3] == [[200]] * 3
    assert all(set(statuses[:-1]) == {0} for i, statuses in enumerate(tried) if i % 3)
    assert len({record["charge_nano"] for record in rig.records(ada)}) == 1
    assert rig.spent_nano(ada) == 9 * rig.records(ada)[0]["charge_nano"]


# ── faults 48: whose mistake a status is ──────────────────────────────────────────────────────────────────────────


async def test_the_clients_own_mistakes_are_passed_on_and_not_retried(rig: Rig) -> None:
    """Faults 48."""

    async def check(case: str, ada: Customer, alias: str) -> None:
        answer = await rig.chat(ada, alias, stream="stream" in case)
        status = int(case[:3])
        assert (answer.status, answer.error["code"]) == (status, "too_odd")
        assert f"status {status}" in answer.error["message"]
        assert b"canary-provider-credential" not in answer.body
        assert await calls(rig, f"{GOOD}{case}") == [0]
        assert await attempts(rig, ada) == [status]
        assert rig.spent_nano(ada) == 0

    cases = [f"{status} {kind}" for status in (400, 413, 422) for kind in ("stream", "json")]
    await each(rig, check, {c: (f"sim:status={c[:3]},error_code=too_odd,echo_key", f"{GOOD}{c}") for c in cases})


async def test_every_other_status_is_between_us_and_the_provider(rig: Rig) -> None:
    """Faults 48: our credential, our account there, our name for its model: the next route may know better."""

    async def check(status: str, ada: Customer, alias: str) -> None:
        answer = await rig.chat(ada, alias)
        assert answer.status == 200
        assert await attempts(rig, ada) == [int(status), 200]

    statuses = [204, 401, 402, 403, 404, 405, 408, 409, 418, 429, 451, 500, 501, 502, 503, 504, 529]
    await each(rig, check, {str(s): (f"sim:status={s},echo_key,tag=ours", f"{GOOD}ours-{s}") for s in statuses})


@pytest.mark.parametrize("stream", [False, True])
async def test_redirects_are_not_followed(rig: Rig, stream: bool) -> None:
    """A redirect would carry our credential to wherever it points."""
    alias = rig.alias(f"sim:redirect,tag={stream}")
    ada = rig.customer(models=[alias])
    await failed_free(rig, ada, await rig.chat(ada, alias, stream=stream))
    assert await calls(rig, "redirected") == [0]


# ── a dead kept-alive connection ──────────────────────────────────────────────────────────────────────────────────


class ForgetfulProvider:
    """A provider that drops kept-alive connections in the moment of the next request, as restarts and proxies do."""

    def __init__(self, *, drops_fresh_ones: bool = False) -> None:
        self.requests = 0
        self._drops_fresh_ones = drops_fresh_ones

    async def __aenter__(self) -> ForgetfulProvider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._read_request(reader)
        if not self._drops_fresh_ones or self.requests == 1:
            usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
            message = {"role": "assistant", "content": "Yes"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            await self._read_request(reader)
        writer.close()

    async def _read_request(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        self.requests += 1


async def test_a_dead_kept_alive_connection_is_retried_once_on_the_same_route(rig: Rig) -> None:
    # One connection to the gateway, so that the same worker, with the same connections to the provider, has all of them.
    async with ForgetfulProvider() as provider, client() as session:
        alias, ada = _alias_of(rig, provider, "forgetful")
        for _ in range(3):
            assert (await rig.chat(ada, alias, over=session)).status == 200
        # Each call but the first found its connection dead, and got a new one.
        assert provider.requests == 5
    await rig.settled(ada, records=3)
    tried = [[a["status"] for a in json.loads(record["attempts"])] for record in rig.records(ada)]
    assert tried == [[200], [0, 200], [0, 200]]
    assert len(rig.records(ada, "served")) == 3


async def test_a_fresh_connection_that_dies_is_not_retried(rig: Rig) -> None:
    """Faults 45: what was a dead connection once is a failing provider the second time."""
    async with ForgetfulProvider(drops_fresh_ones=True) as provider, client() as session:
        alias, ada = _alias_of(rig, provider, "dying")
        assert (await rig.chat(ada, alias, over=session)).status == 200
        assert (await rig.chat(ada, alias, over=session)).status == 502
        assert provider.requests == 3


def _alias_of(rig: Rig, provider: ForgetfulProvider, name: str) -> tuple[str, Customer]:
    alias = rig.alias()
    rig.desk.catalog.add_provider(name, base_url=provider.base_url, api_key="canary-" + name)
    rig.desk.catalog.add_route(alias, provider=name, upstream_model="any", position=1, weight=1)
    rig.settle_feed()
    return alias, rig.customer(models=[alias])


# ── faults 49: all routes fail, and a route that flaps ────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def resting_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Three failures in a row, and a route rests for half a second. One worker, for each finds out by itself."""
    settings = {"GATEWAY_COOLDOWN_AFTER": "3", "GATEWAY_COOLDOWN_S": "0.5", "GATEWAY_WORKERS": "1"}
    with start_rig(tmp_path_factory.mktemp("resting"), **settings) as running:
        yield running
        running.reconcile()


async def test_a_failing_route_rests_and_one_probe_brings_it_back(resting_rig: Rig) -> None:
    """Faults 49."""
    rig = resting_rig
    flaky, spare = "sim:flaky=3,gate,words=1", "sim:words=1,tag=spare"
    alias = rig.alias(flaky, spare)
    ada = rig.customer(models=[alias])
    for _ in range(3):
        assert (await rig.chat(ada, alias)).status == 200
    rests = time.monotonic()
    assert await calls(rig, flaky, spare) == [3, 3]
    while time.monotonic() - rests < 0.3:
        assert (await rig.chat(ada, alias)).status == 200
    rested = (await calls(rig, spare))[0]
    assert await calls(rig, flaky) == [3]
    await asyncio.sleep(rests + 0.6 - time.monotonic())
    asked = [asyncio.create_task(rig.chat(ada, alias)) for _ in range(10)]
    # One probes it and is held there; the others do not wait for that.
    for answer in itertools.islice(asyncio.as_completed(asked), 9):
        assert (await answer).status == 200
    assert await calls(rig, flaky, spare) == [4, rested + 9]
    await rig.provider.release(flaky)
    assert {(await answer).status for answer in asked} == {200}
    last = asyncio.create_task(rig.chat(ada, alias))
    await rig.provider.wait(flaky, count=5)
    await rig.provider.release(flaky)
    assert (await last).status == 200
    assert await calls(rig, flaky, spare) == [5, rested + 9]


async def test_a_route_that_still_fails_its_probe_rests_twice_as_long(resting_rig: Rig) -> None:
    """Faults 49."""
    rig = resting_rig
    broken, spare = "sim:status=500,tag=still", "sim:words=1,tag=still-spare"
    alias = rig.alias(broken, spare)
    ada = rig.customer(models=[alias])
    for _ in range(3):
        await rig.chat(ada, alias)
    began = time.monotonic()
    while len(tried := await rig.provider.calls(broken)) < 5:
        assert (await rig.chat(ada, alias)).status == 200
        assert time.monotonic() - began < 10
    rests = [after["at"] - before["at"] for before, after in itertools.pairwise(tried[2:])]
    assert rests[0] == pytest.approx(0.5, abs=0.2)
    assert rests[1] == pytest.approx(1.0, abs=0.3)


async def test_a_provider_that_says_when_to_come_back_is_left_alone_until_then(resting_rig: Rig) -> None:
    rig = resting_rig
    limited, spare = "sim:status=429,retry_after=30", "sim:words=1,tag=429-spare"
    alias = rig.alias(limited, spare)
    ada = rig.customer(models=[alias])
    for _ in range(5):
        assert (await rig.chat(ada, alias)).status == 200
    assert await calls(rig, limited, spare) == [1, 5]


@pytest.mark.parametrize("stream", [False, True])
async def test_when_all_routes_rest_the_answer_is_502_and_free_and_the_model_stays_listed(
    resting_rig: Rig, stream: bool
) -> None:
    """Faults 49."""
    rig = resting_rig
    upstreams = [f"sim:status=500,tag=all-{stream}-{i}" for i in range(2)]
    alias = rig.alias(*upstreams)
    ada = rig.customer(models=[alias])
    for _ in range(6):
        await failed_free(rig, ada, await rig.chat(ada, alias, stream=stream))
    assert await calls(rig, *upstreams) == [3, 3]


async def test_the_clients_mistakes_do_not_make_a_route_rest(resting_rig: Rig) -> None:
    """Or one customer's bad requests would take a model from everybody else."""
    rig = resting_rig
    alias = rig.alias("sim:status=400,tag=innocent")
    ada = rig.customer(models=[alias])
    assert [(await rig.chat(ada, alias)).status for _ in range(6)] == [400] * 6


async def test_a_failing_route_rests_in_every_worker_and_each_has_one_budget(tmp_path: Path) -> None:
    """Faults 49: what a route costs before it rests grows with the workers, and no further."""
    with start_rig(tmp_path, GATEWAY_COOLDOWN_AFTER="3", GATEWAY_COOLDOWN_S="60") as rig:
        broken, spare = "sim:status=500,tag=each", "sim:words=1,tag=each-spare"
        alias = rig.alias(broken, spare)
        ada = rig.customer(models=[alias])
        for _ in range(5):
            assert {answer.status for answer in await rig.everywhere(ada, alias)} == {200}
        workers = len(rig.workers.pids)
        assert await calls(rig, broken, spare) == [3 * workers, 5 * workers]
        rig.reconcile()
