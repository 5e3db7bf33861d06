"""The shipped proxy before two servers: streams, bodies, addresses, and a server that stops or dies under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.dashboard.visitor import PASSWORD, form_of
from tests.deployment.front import Front, start_front
from tests.faults.books import chat_body
from tests.rig import Customer, Process, Rig, start_rig
from tests.servers import free_port
from tests.stores import CLUSTER, on

pytestmark = pytest.mark.drill
CHAT = "/v1/chat/completions"
CLIENTS = 16
SETTINGS = {"GATEWAY_TRUSTED_PROXIES": "127.0.0.1", "GATEWAY_SIGNUP": "open", "GATEWAY_COOLDOWN_AFTER": "1000000"}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with on(CLUSTER), start_rig(tmp_path_factory.mktemp("front"), **SETTINGS) as running:
        yield running
        running.reconcile()


@pytest.fixture(scope="module")
def second(rig: Rig) -> Iterator[Process]:
    with rig.second_server() as (server, _):
        yield server


@pytest.fixture(scope="module")
def front(rig: Rig, second: Process) -> Iterator[Front]:
    with start_front(rig.folder / "nginx", [rig.server.url, second.url]) as running:
        yield running


@pytest.fixture
async def session(front: Front) -> AsyncIterator[aiohttp.ClientSession]:
    async with front.session() as opened:
        yield opened


def sending(customer: Customer, alias: str, **fields: Any) -> dict[str, Any]:
    return {"data": chat_body(alias, **fields), "headers": {**customer.headers, "Content-Type": "application/json"}}


async def test_every_event_comes_through_while_the_provider_still_writes(
    rig: Rig, session: aiohttp.ClientSession
) -> None:
    upstream = "sim:words=3,gate,tag=front-stream"
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    async with session.post(CHAT, **sending(ada, alias, stream=True)) as response:
        assert response.status == 200
        # The provider waits at its gate: what is read now was not kept back by anybody.
        first = await response.content.readuntil(b"\n\n")
        assert b"data: " in first
        await rig.provider.release(upstream)
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
        charged_under = response.headers["x-request-id"]
    await rig.settled(ada, records=1)
    assert [record["request_id"] for record in rig.records(ada)] == [charged_under]


async def test_a_client_that_leaves_is_noticed_at_the_provider(rig: Rig, session: aiohttp.ClientSession) -> None:
    upstream = "sim:words=3,think_ms=60000,tag=front-left"
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    response = await session.post(CHAT, **sending(ada, alias, stream=True))
    await rig.provider.wait(upstream)
    # At once, as a program that ends; asyncio's own way of closing TLS first waits half a minute for an answer.
    assert response.connection is not None
    assert response.connection.transport is not None
    response.connection.transport.abort()
    await rig.provider.wait(upstream, state="left")
    await rig.settled(ada)
    assert rig.spent_nano(ada) == 0


async def test_large_bodies_are_refused_in_our_words(rig: Rig, session: aiohttp.ClientSession) -> None:
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    headers = {**ada.headers, "Content-Type": "application/json"}
    async with session.post(CHAT, data=b" " * (20 * 2**20) + chat_body(alias), headers=headers) as response:
        assert response.status == 200, await response.text()
    for mib, has_reached_us in ((33, True), (65, False)):
        async with session.post(CHAT, data=b" " * (mib * 2**20), headers=headers) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (413, "request_too_large")
            assert set(error) == {"message", "type", "param", "code"}
            assert ("x-request-id" in response.headers) == has_reached_us


async def test_links_that_open_an_account_once_are_in_no_log(front: Front, session: aiohttp.ClientSession) -> None:
    plain = f"http://127.0.0.1:{front.plain_port}"
    for secret in ("/reset/canary-link", "/signup?invite=canary-code"):
        for address in (secret, plain + secret):
            async with session.get(address, allow_redirects=False) as response:
                assert response.status < 500
    async with session.get("/signin") as response:
        assert response.status == 200
    log = (front.folder / "access.log").read_text()
    assert "GET /signin" in log
    assert "canary" not in log


async def test_nor_are_they_where_no_gateway_answers(tmp_path: Path) -> None:
    nobody = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    with start_front(tmp_path / "nginx-alone", nobody, status=503) as alone:
        async with alone.session() as session:
            for address in (
                "/reset/canary-link",
                f"{alone.url}//reset/canary-link",
                "/signup?invite=canary-code",
                "/signin",
            ):
                async with session.get(address) as response:
                    assert (response.status, response.headers["referrer-policy"]) == (503, "no-referrer")
            async with session.post("/reset/canary-link", data=b" " * (65 * 2**20)) as response:
                assert response.status == 413
        for name in ("access.log", "error.log"):
            log = (alone.folder / name).read_text()
            assert "GET /signin" in log
            assert "canary" not in log, name


async def test_what_a_client_says_of_its_address_is_not_believed(rig: Rig, session: aiohttp.ClientSession) -> None:
    lies = {"X-Forwarded-For": "203.0.113.66", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example",
            "Forwarded": "for=203.0.113.66;host=evil.example"}  # fmt: skip
    async with session.get("/signup", headers=lies) as response:
        page = await response.text()
        # Whatever it said, it came by https.
        assert all("; Secure" in line for line in response.headers.getall("set-cookie"))
        assert "evil.example" not in page
    fields = form_of(page, "/signup") | {"email": "front@example.com", "password": PASSWORD}
    async with session.post("/signup", data=fields, headers=lies) as response:
        assert (response.status, response.url.path) == (200, "/")
    async with session.get("/account", headers=lies) as response:
        account = await response.text()
    assert "127.0.0.1" in account
    assert "203.0.113.66" not in account


async def test_numbers_are_not_for_customers(session: aiohttp.ClientSession) -> None:
    async with session.get("/metrics") as response:
        assert response.status == 404


async def test_plain_http_is_sent_to_https_with_its_path(front: Front, session: aiohttp.ClientSession) -> None:
    plain = f"http://127.0.0.1:{front.plain_port}/v1/models?x=1"
    async with session.get(plain, allow_redirects=False) as response:
        assert (response.status, response.headers["location"]) == (308, "https://127.0.0.1/v1/models?x=1")


class Load:
    """Customers that ask again and again, JSON and streams, and how they fared."""

    def __init__(self, session: aiohttp.ClientSession, customer: Customer, alias: str) -> None:
        self.session, self.customer, self.alias = session, customer, alias
        self.fared: Counter[str] = Counter()
        self._whole = asyncio.Event()
        self._stopping = False

    async def run(self, act: Callable[[], Any]) -> None:
        """Under load before, meanwhile and afterwards."""
        clients = [asyncio.create_task(self._client(stream=bool(number % 2))) for number in range(CLIENTS)]
        await self._more()
        await asyncio.to_thread(act)
        await self._more()
        self._stopping = True
        await asyncio.gather(*clients)

    async def _more(self) -> None:
        wanted = self.fared["whole"] + 10 * CLIENTS
        async with asyncio.timeout(60):
            while self.fared["whole"] < wanted:
                self._whole.clear()
                await self._whole.wait()

    async def _client(self, *, stream: bool) -> None:
        while not self._stopping:
            self.fared[await self._call(stream=stream)] += 1
            self._whole.set()

    async def _call(self, *, stream: bool) -> str:
        try:
            async with self.session.post(CHAT, **sending(self.customer, self.alias, stream=stream)) as response:
                body = await response.read()
        except aiohttp.ClientError as error:
            return f"{type(error).__name__} ({'stream' if stream else 'json'})"
        if response.status != 200:
            return f"{response.status} {body[:80]!r}"
        if stream:
            return "whole" if body.endswith(b"data: [DONE]\n\n") else "cut"
        return "whole" if "choices" in json.loads(body) else "odd"


async def test_no_request_fails_while_a_server_stops_and_comes_back(
    rig: Rig, second: Process, session: aiohttp.ClientSession
) -> None:
    alias = rig.alias("sim:words=5,gap_ms=5", "sim:words=5,gap_ms=5,tag=other")
    ada = rig.customer(credits="100000", models=[alias])
    load = Load(session, ada, alias)

    def stop_and_start_again() -> None:
        address = rig.server.url
        rig.server.stop()
        rig.server = Process(
            ["serve", "--port", address.rsplit(":", 1)[1]], rig.environment, rig.folder / "gateway.log"
        )

    await load.run(stop_and_start_again)
    assert set(load.fared) == {"whole"}, load.fared
    rig.workers = type(rig.workers)(rig.server.popen.pid, rig.url)
    await rig.settled(ada, records=load.fared["whole"])
    records = rig.records(ada)
    assert len(records) == load.fared["whole"]
    assert all(record["charge_nano"] > 0 for record in records)


async def test_where_a_server_dies_only_streams_that_had_begun_are_cut(
    rig: Rig, front: Front, session: aiohttp.ClientSession
) -> None:
    """Last: the second server is killed. Its JSON answers come from the other one; nobody pays twice for one."""
    alias = rig.alias("sim:words=5,gap_ms=5")
    ada = rig.customer(credits="100000", models=[alias])
    load = Load(session, ada, alias)
    third = Process(["serve", "--port", "0"], rig.environment, rig.folder / "third.log")
    with contextlib.ExitStack() as closing:
        closing.callback(third.kill)
        with start_front(rig.folder / "nginx-third", [rig.server.url, third.url]) as beside:
            async with beside.session() as load.session:
                await load.run(third.kill)
    broken = {how for how in load.fared if how not in ("whole", "cut") and "(stream)" not in how}
    assert not broken, load.fared
