"""What HTTP itself is abused for: headers that travel on, credentials that travel back, bodies without end, smuggling."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Iterator

import pytest

from tests.faults.wire import MIB, chat_body, chat_request, connect, talk
from tests.rig import Customer, Rig, client, start_rig

CREDENTIAL = "canary-provider-credential"


@pytest.fixture(scope="module")
def strict_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Bodies of one MiB at most; its logs are searched for secrets when the module is over."""
    folder = tmp_path_factory.mktemp("strict")
    with start_rig(folder, GATEWAY_BODY_MAX_MIB="1", GATEWAY_COOLDOWN_AFTER="1000000") as running:
        yield running
        running.reconcile()
    logs = running.server.log.read_text()
    for secret in (CREDENTIAL, "canary-header", *SECRETS):
        assert secret not in logs


SECRETS: list[str] = []


@pytest.fixture
def shelf(strict_rig: Rig) -> tuple[Rig, Customer, str, str]:
    """The rig, a customer, an alias and its upstream model."""
    upstream = f"sim:words=2,tag={len(SECRETS)}"
    alias = strict_rig.alias(upstream)
    ada = strict_rig.customer(models=[alias])
    SECRETS.append(ada.key)
    return strict_rig, ada, alias, upstream


Shelf = tuple[Rig, Customer, str, str]


def head_and_body(said: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = said.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


# ── what travels on, and what travels back ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
async def test_no_header_of_the_client_reaches_the_provider(shelf: Shelf, stream: bool) -> None:
    rig, ada, alias, upstream = shelf
    sent = {
        "Cookie": "session=canary-header",
        "Proxy-Authorization": "Basic canary-header",
        "TE": "trailers",
        "Upgrade": "canary-header",
        "Keep-Alive": "timeout=77",
        "X-Forwarded-For": "203.0.113.7",
        "Forwarded": "for=203.0.113.7",
        "X-Api-Key": "canary-header",
        "Api-Key": "canary-header",
        "OpenAI-Organization": "org-canary-header",
        "OpenAI-Project": "canary-header",
        "X-Request-ID": "canary-header",
        "Idempotency-Key": "canary-header",
        "traceparent": "00-canary-header",
        "User-Agent": "canary-header/1.0",
        "Accept": "text/canary-header",
        "Origin": "https://canary-header.test",
        "Referer": "https://canary-header.test/",
        "X-Anything": "canary-header",
    }
    answer = await rig.post({**ada.headers, **sent}, chat_body(alias, stream=stream))
    assert answer.status == 200
    (call,) = await rig.provider.calls(upstream)
    assert call["headers"]["authorization"] == f"Bearer {CREDENTIAL}"
    assert set(call["headers"]) == {"host", "authorization", "content-type", "content-length", "user-agent"}
    assert "canary-header" not in json.dumps(call)
    assert ada.key not in json.dumps(call)


async def test_no_header_or_cookie_of_the_provider_reaches_the_client(shelf: Shelf) -> None:
    """And none of them comes back with the next call: the gateway keeps no cookies."""
    rig, ada, _, _ = shelf
    choice = {"index": 0, "message": {"role": "assistant", "content": "Yes"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    upstream = await rig.provider.script(
        "cookies",
        headers={"Set-Cookie": "a=canary-header", "X-Canary": "canary-header", "Access-Control-Allow-Origin": "x"},
        chunks=[json.dumps({"id": "1", "choices": [choice], "usage": usage})],
    )
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    for _ in range(2):
        answer = await rig.chat(ada, alias)
        assert answer.status == 200
        assert "canary-header" not in str(answer.headers)
        assert "set-cookie" not in answer.headers
    assert all("cookie" not in call["headers"] for call in await rig.provider.calls(upstream))


@pytest.mark.parametrize("stream", [False, True])
async def test_our_credential_is_in_no_answer(strict_rig: Rig, stream: bool) -> None:
    """A provider that quotes it in its error: in a 4xx that is passed on, and in all that is not. Logs: see above."""
    rig = strict_rig
    wrong = [f"status={status}" for status in (400, 401, 403, 413, 422, 429, 500)]
    odd = [f"status=400,body={body}" for body in ("html", "json", "string", "empty")]
    aliases = {case: rig.alias(f"sim:{case},echo_key,tag={stream}", settled=False) for case in [*wrong, *odd]}
    rig.settle_feed()
    ada = rig.customer(models=list(aliases.values()))
    for case, alias in aliases.items():
        answer = await rig.chat(ada, alias, stream=stream)
        assert answer.status in (400, 413, 422, 502), case
        assert CREDENTIAL.encode() not in answer.body, case
        assert CREDENTIAL not in str(answer.headers), case
        assert answer.error["message"], case


async def test_a_client_cannot_choose_the_request_id(shelf: Shelf) -> None:
    """Faults 40b: ids are ours alone, or a repeated one would swallow the second charge."""
    rig, ada, alias, _ = shelf
    ids = []
    for headers in ({"X-Request-ID": "mine"}, {"X-Request-ID": "mine"}, {"x-request-id": "mine, too"}):
        answer = await rig.post({**ada.headers, **headers}, chat_body(alias))
        assert answer.status == 200
        ids.append(answer.headers["x-request-id"])
    await rig.settled(ada, records=3)
    assert {record["request_id"] for record in rig.records(ada)} == set(ids)
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", id_) for id_ in ids)
    refused = await rig.post({"X-Request-ID": "mine"}, chat_body(alias))
    assert refused.headers["x-request-id"] not in (*ids, "mine")


async def test_metrics_are_not_for_whoever_comes_through_a_proxy(rig: Rig) -> None:
    async with client() as session:
        async with session.get(rig.url + "/metrics") as response:
            assert response.status == 200
            assert b"gateway_heartbeat_timestamp_seconds" in await response.read()
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Host", "Via", "X-Forwarded-Proto"):
            async with session.get(rig.url + "/metrics", headers={name: "127.0.0.1"}) as response:
                assert response.status == 404, name
                assert b"gateway_requests" not in await response.read()


# ── bodies without end ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_body_announced_too_large_is_refused_before_it_is_read(shelf: Shelf) -> None:
    rig, ada, _, _ = shelf
    head = chat_request(ada, b"", f"Content-Length: {64 * MIB}", length=False)
    status, headers, body = head_and_body(await talk(rig.url, head))
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
    assert headers["connection"] == "close"
    assert "x-request-id" in headers


async def test_a_chunked_body_is_refused_when_it_grows_too_large(shelf: Shelf) -> None:
    """Without memory for what comes after: the client would send 256 MiB."""
    rig, ada, _, upstream = shelf
    before = rig.workers.rss_mib
    reader, writer = await connect(rig.url)
    writer.write(chat_request(ada, b"", "Transfer-Encoding: chunked", length=False))
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"

    async def send() -> None:
        for _ in range(4096):
            writer.write(chunk)
            await writer.drain()

    sending = asyncio.create_task(send())
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        body = await reader.readexactly(int(head_and_body(head)[1]["content-length"]))
        assert json.loads(body)["error"]["code"] == "request_too_large"
        with pytest.raises(ConnectionError):
            await sending
    writer.transport.abort()
    assert rig.workers.rss_mib - before < 16
    assert not await rig.provider.calls(upstream)


async def test_a_body_just_small_enough_passes(shelf: Shelf) -> None:
    rig, ada, alias, _ = shelf
    free = MIB - len(chat_body(alias, max_tokens=1, padding=""))
    assert (await rig.post(ada.headers, chat_body(alias, max_tokens=1, padding="x" * free))).status == 200
    answer = await rig.post(ada.headers, chat_body(alias, max_tokens=1, padding="x" * (free + 1)))
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")


async def test_a_compressed_body_is_refused_and_never_unpacked(shelf: Shelf) -> None:
    rig, ada, alias, upstream = shelf
    before = rig.workers.rss_mib
    bomb = gzip.compress(b" " * (256 * MIB // 2))
    assert len(bomb) < MIB
    for body in (gzip.compress(chat_body(alias)), bomb):
        answer = await rig.post({**ada.headers, "Content-Encoding": "gzip"}, body)
        assert answer.status in (400, 415)
        assert answer.error["message"]
    assert rig.workers.rss_mib - before < 16
    assert not await rig.provider.calls(upstream)


@pytest.mark.parametrize("where", ["the body", "a message", "a content", "tools", "an unknown field"])
async def test_json_that_is_nested_too_deeply_is_a_bad_request(shelf: Shelf, where: str) -> None:
    rig, ada, alias, upstream = shelf
    deep = "[" * 100_000 + "]" * 100_000
    objects = '{"a":' * 100_000 + "1" + "}" * 100_000
    says = '"messages":[{"role":"user","content":"Hello"}]'
    for nested in (deep, objects):
        body = {
            "the body": nested,
            "a message": f'{{"model":"{alias}","messages":[{nested}]}}',
            "a content": f'{{"model":"{alias}","messages":[{{"role":"user","content":{nested}}}]}}',
            "tools": f'{{"model":"{alias}",{says},"tools":{nested}}}',
            "an unknown field": f'{{"model":"{alias}",{says},"metadata":{nested}}}',
        }[where]
        answer = await rig.post(ada.headers, body.encode())
        assert answer.status == 400, answer.body[:200]
        assert answer.error["type"] == "invalid_request_error"
    assert not await rig.provider.calls(upstream)


# ── smuggling ─────────────────────────────────────────────────────────────────────────────────────────────────────

HIDDEN = b"GET /healthz?smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
AMBIGUOUS = {
    "length and chunked": ["Content-Length: 6", "Transfer-Encoding: chunked"],
    "chunked and length": ["Transfer-Encoding: chunked", "Content-Length: 6"],
    "two lengths": ["Content-Length: 0", "Content-Length: 60"],
    "two equal lengths": ["Content-Length: 60", "Content-Length: 60"],
    "a list of lengths": ["Content-Length: 0, 60"],
    "a signed length": ["Content-Length: +60"],
    "a negative length": ["Content-Length: -1"],
    "a length in hex": ["Content-Length: 0x3c"],
    "a length with an underscore": ["Content-Length: 6_0"],
    "chunked twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
    "an unknown coding": ["Transfer-Encoding: xchunked"],
    "chunked behind another coding": ["Transfer-Encoding: gzip, chunked"],
    "a space before the colon": ["Transfer-Encoding : chunked"],
    "a space before the colon of the length": ["Content-Length : 60"],
    "a folded line": ["X-Folded: a", " Transfer-Encoding: chunked"],
    "a bare LF in a value": ["X-Odd: a\nTransfer-Encoding: chunked"],
    "a bare CR in a value": ["X-Odd: a\rTransfer-Encoding: chunked"],
    "a NUL in a value": ["X-Odd: a\0b"],
    "a header without a name": [": chunked"],
    "a line without a colon": ["Transfer-Encoding chunked"],
}


@pytest.mark.parametrize("way", AMBIGUOUS)
async def test_a_request_that_could_be_read_in_two_ways_is_refused_and_its_connection_closed(
    shelf: Shelf, way: str
) -> None:
    """What follows in the same connection is never read as a request: a proxy in front may have meant otherwise."""
    rig, ada, _, upstream = shelf
    request = chat_request(ada, b"0\r\n\r\n" + HIDDEN, *AMBIGUOUS[way], length=False)
    said = await talk(rig.url, request)
    assert said.count(b"HTTP/1.1 ") == 1, said
    status, headers, body = head_and_body(said)
    assert status == 400
    assert headers["connection"] == "close"
    assert set(json.loads(body)) == {"error"}
    assert not await rig.provider.calls(upstream)


BAD_CHUNKS = {
    "a negative size": b"-1\r\n",
    "a signed size": b"+5\r\nHello\r\n",
    "no size": b"\r\n\r\n",
    "not a number": b"zz\r\n",
    "an endless size": b"1" * 4096,
    "a trailer": b"0\r\nX-Trailer: 1\r\n\r\n",
    "a longer chunk than it says": b"2\r\n{}{}{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("way", BAD_CHUNKS)
async def test_bad_chunks_are_refused_and_their_connection_closed(shelf: Shelf, way: str) -> None:
    rig, ada, _, upstream = shelf
    request = chat_request(ada, BAD_CHUNKS[way] + HIDDEN, "Transfer-Encoding: chunked", length=False)
    said = await talk(rig.url, request, eof=True)
    assert said.count(b"HTTP/1.1 ") == 1, said
    assert head_and_body(said)[0] == 400
    assert not await rig.provider.calls(upstream)


@pytest.mark.parametrize(
    "line",
    [
        b"POST /v1/chat/completions\r\n\r\n",
        b"POST  /v1/chat/completions HTTP/1.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/0.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1 x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_its_connection_closed(strict_rig: Rig, line: bytes) -> None:
    said = await talk(strict_rig.url, line)
    if not said and len(line) > 65_536:
        # Closed with the rest of an endless head unread, which resets the connection: the refusal may be lost on its way.
        return
    status, _, body = head_and_body(said)
    assert status in (400, 413, 414, 431)
    assert set(json.loads(body)) == {"error"}


async def test_a_request_behind_another_is_answered_in_its_turn(shelf: Shelf) -> None:
    """Pipelining is honest: two requests, two answers, two charges."""
    rig, ada, alias, _ = shelf
    body = chat_body(alias)
    said = await talk(rig.url, chat_request(ada, body) + chat_request(ada, body, "Connection: close"))
    assert said.count(b"HTTP/1.1 200 OK") == 2
    await rig.settled(ada, records=2)


async def test_names_and_values_with_line_breaks_split_no_answer(shelf: Shelf) -> None:
    """CRLF in what the gateway repeats (a model's name, a path) ends up in JSON and never in a header."""
    rig, ada, _, _ = shelf
    answer = await rig.chat(ada, "x\r\nX-Injected: yes")
    assert answer.status == 403
    assert "x-injected" not in answer.headers
    for path in ("/v1/models/x%0d%0aX-Injected:%20yes", "/%0d%0aX-Injected:%20yes"):
        said = await talk(rig.url, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert b"x-injected" not in said.lower().partition(b"\r\n\r\n")[0]


async def test_a_body_that_never_comes_holds_nothing(shelf: Shelf) -> None:
    """A thousand slow senders are a thousand sockets, not a thousand holds."""
    rig, ada, alias, upstream = shelf
    request = chat_request(ada, chat_body(alias))[:-1]
    connections = [await connect(rig.url) for _ in range(100)]
    for _, writer in connections:
        writer.write(request)
    assert (await rig.chat(ada, alias)).status == 200
    await rig.settled(ada, records=1)
    assert len(await rig.provider.calls(upstream)) == 1
    for _, writer in connections:
        writer.transport.abort()
    assert (await rig.chat(ada, alias)).status == 200
