"""Lines 24 and 25 of the client list: connections, odd requests, and browsers; byte by byte, and with curl."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from collections.abc import Iterator

import pytest

from tests.clients.shelf import Shelf, Wire, post
from tests.rig import Answer, Rig, client, quoted
from tests.servers import missing

CORS_READABLE = {
    "x-request-id", "x-credits-charged", "retry-after", "retry-after-ms", "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
}  # fmt: skip


@pytest.fixture(scope="module")
def shelf(rig: Rig) -> Iterator[Shelf]:
    yield Shelf(rig, {"plain": "sim:words=3", "broken": "sim:status=500"})
    rig.reconcile()


@pytest.fixture(scope="module")
def curl() -> str:
    found = shutil.which("curl")
    if found is None:
        missing("no curl on this machine")
    return str(found)


async def run_curl(program: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, what curl printed, and what it told of the exchange."""
    process = await asyncio.create_subprocess_exec(
        program, "--silent", "--verbose", "--max-time", "20", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


# ── 24: connections ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_24_keep_alive_survives_a_401_with_an_unread_2_mb_body(shelf: Shelf) -> None:
    large = shelf.body("plain", user="x" * 2_000_000)
    async with Wire(shelf.rig.url) as wire:
        for _ in range(2):
            await wire.send(post(large, {"Authorization": "Bearer sk-wrong-0123456789abcdef"}))
            refused = await wire.response()
            assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
            assert refused.headers.get("connection", "keep-alive") == "keep-alive"
            await wire.send(post(shelf.body("plain"), shelf.customer.headers))
            assert (await wire.response()).status == 200


async def test_24_keep_alive_survives_a_stream_and_an_error_within_one(shelf: Shelf) -> None:
    async with Wire(shelf.rig.url) as wire:
        for name in ("plain", "broken", "plain"):
            await wire.send(post(shelf.body(name, stream=True), shelf.customer.headers))
            answer = await wire.response()
            assert (answer.status, answer.is_done if answer.status == 200 else None) in [(200, True), (502, None)]
        await wire.send(post(shelf.body("plain"), shelf.customer.headers))
        assert (await wire.response()).status == 200


async def test_24_requests_may_be_sent_before_the_answers_came(shelf: Shelf) -> None:
    async with Wire(shelf.rig.url) as wire:
        one = post(shelf.body("plain"), shelf.customer.headers)
        await wire.send(one + post(b"{", shelf.customer.headers) + one)
        assert [(await wire.response()).status for _ in range(3)] == [200, 400, 200]


async def test_24_expect_100_continue_is_answered_before_the_body(shelf: Shelf) -> None:
    body = shelf.body("plain")
    whole = post(body, {**shelf.customer.headers, "Expect": "100-continue"})
    async with Wire(shelf.rig.url) as wire:
        await wire.send(whole[: -len(body)])
        assert (await wire.head())[0] == 100
        await wire.send(body)
        assert (await wire.response()).status == 200


async def test_24_expectations_that_nobody_knows_are_refused_in_json(shelf: Shelf) -> None:
    async with Wire(shelf.rig.url) as wire:
        await wire.send(post(shelf.body("plain"), {**shelf.customer.headers, "Expect": "{miracles}"}))
        answer = await wire.response()
        assert answer.status == 417
        assert answer.error["code"] == "expectation_failed"
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("size", [1, 10, 100_000])
async def test_24_a_body_may_come_in_chunks(shelf: Shelf, size: int) -> None:
    body = shelf.body("plain")
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    head = post(b"", {**shelf.customer.headers, "Transfer-Encoding": "chunked"})
    async with Wire(shelf.rig.url) as wire:
        for _ in range(2):
            await wire.send(head + chunks)
            assert (await wire.response()).status == 200


@pytest.mark.parametrize(
    "kind",
    ["application/json; charset=utf-8", "application/json;charset=UTF-8", "application/x-www-form-urlencoded",
     "text/plain", "", "application/json, application/json", "multipart/form-data; boundary=x", "nonsense"],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_24_json_is_read_whatever_the_content_type_says(shelf: Shelf, kind: str, stream: bool) -> None:
    headers = {**shelf.customer.headers, "Content-Type": kind}
    answer = await shelf.rig.post(headers, shelf.body("plain", stream=stream))
    assert answer.status == 200
    assert answer.is_done if stream else answer.json["choices"]


async def test_24_a_body_in_an_encoding_is_refused_by_name(shelf: Shelf) -> None:
    calls = len(await shelf.calls("plain"))
    headers = {**shelf.customer.headers, "Content-Encoding": "gzip"}
    answer = await shelf.rig.post(headers, gzip.compress(shelf.body("plain")))
    assert answer.status == 415
    assert answer.error["code"] == "unsupported_media_type"
    assert "Content-Encoding" in answer.error["message"]
    assert len(await shelf.calls("plain")) == calls


async def test_24_an_upgrade_to_h2c_is_ignored(shelf: Shelf) -> None:
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    for stream in (False, True):
        async with Wire(shelf.rig.url) as wire:
            await wire.send(post(shelf.body("plain", stream=stream), {**shelf.customer.headers, **upgrade}))
            answer = await wire.response()
            assert answer.status == 200
            assert "upgrade" not in answer.headers


async def test_24_an_old_client_gets_its_answer_and_the_connection_ends(shelf: Shelf) -> None:
    async with Wire(shelf.rig.url) as wire:
        request = post(shelf.body("plain"), {**shelf.customer.headers, "Connection": "close"})
        await wire.send(request)
        assert (await wire.response()).status == 200
        assert await wire.read() == b""


@pytest.mark.parametrize(
    "request_",
    [b"GET /v1/models\r\n\r\n", b"nonsense\r\n\r\n", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
     b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
     b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"],
)  # fmt: skip
async def test_24_what_is_no_http_gets_a_json_400_and_the_connection_ends(shelf: Shelf, request_: bytes) -> None:
    async with Wire(shelf.rig.url) as wire:
        await wire.send(request_)
        answer = await wire.response()
        assert answer.status == 400, answer
        assert answer.error["message"]
        assert answer.headers["x-request-id"]
        assert await wire.read() == b""


async def test_24_a_body_above_the_bound_is_refused_before_it_is_sent_or_read_whole(shelf: Shelf) -> None:
    """32 MiB, announced or chunked."""
    head = post(b"", {**shelf.customer.headers, "Transfer-Encoding": "chunked"})
    announced = post(b"", {**shelf.customer.headers}).replace(b"Content-Length: 0", b"Content-Length: 33554433")
    async with Wire(shelf.rig.url) as wire:
        await wire.send(announced)
        answer = await wire.response()
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert "32 MiB" in answer.error["message"]
    async with Wire(shelf.rig.url) as wire:
        await wire.send(head)
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(33):
            await wire.send(piece)
        answer = await wire.response()
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")


# ── 24, with curl ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_24_curl_as_people_type_it(shelf: Shelf, curl: str) -> None:
    """No content type given: curl says that it is a form."""
    url, key = shelf.rig.url + "/v1/chat/completions", f"Authorization: Bearer {shelf.customer.key}"
    code, out, told = await run_curl(curl, url, "-H", key, "-d", shelf.body("plain").decode())
    assert code == 0
    assert "Content-Type: application/x-www-form-urlencoded" in told
    assert json.loads(out)["choices"][0]["message"]["content"]


async def test_24_curl_with_expect_with_chunks_and_with_an_upgrade(shelf: Shelf, curl: str) -> None:
    url, key = shelf.rig.url + "/v1/chat/completions", f"Authorization: Bearer {shelf.customer.key}"
    body = shelf.body("plain", user="x" * 1_100_000).decode()
    (shelf.rig.folder / "body.json").write_text(body)
    data = ("--data-binary", f"@{shelf.rig.folder / 'body.json'}")
    code, out, told = await run_curl(curl, url, "-H", key, *data, "-H", "Expect: 100-continue")
    assert (code, "100 Continue" in told, "choices" in out) == (0, True, True)
    code, out, told = await run_curl(curl, url, "-H", key, *data, "-H", "Transfer-Encoding: chunked")
    assert (code, "choices" in out) == (0, True)
    code, out, told = await run_curl(curl, url, "-H", key, "--http2", "-d", shelf.body("plain").decode())
    assert (code, "Upgrade: h2c" in told, "choices" in out) == (0, True, True)


async def test_24_curl_keeps_one_connection_over_a_401_and_a_stream(shelf: Shelf, curl: str) -> None:
    url = shelf.rig.url + "/v1/chat/completions"
    stream, one = (
        shelf.body("plain", stream=True).decode(),
        shelf.rig.url + "/v1/models/" + quoted(shelf.alias["plain"]),
    )
    key = f"Authorization: Bearer {shelf.customer.key}"
    code, out, told = await run_curl(
        curl, url, "-d", stream, "-H", "Authorization: Bearer wrong", "--next", "--silent", "--verbose", "--no-buffer",
        url, "-d", stream, "-H", key, "--next", "--silent", "--verbose", "--head", one, "-H", key,
    )  # fmt: skip
    assert code == 0
    assert "invalid_api_key" in out
    assert "data: [DONE]\n\n" in out
    assert told.count("Re-using existing connection") == 2
    assert told.count("Connected to") == 1


# ── 25: browsers ──────────────────────────────────────────────────────────────────────────────────────────────────


async def ask(rig: Rig, method: str, path: str, headers: dict[str, str]) -> Answer:
    async with client() as session, session.request(method, rig.url + path, headers=headers) as response:
        return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/models/x%2Fy", "/v1/responses"])
async def test_25_a_preflight_is_answered_without_a_key(rig: Rig, path: str) -> None:
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    answer = await ask(rig, "OPTIONS", path, asked)
    assert answer.status == 204
    assert answer.body == b""
    assert answer.headers["access-control-allow-origin"] == "*"
    assert {"GET", "POST"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    # A star does not cover this header; it has to be named.
    assert {"*", "authorization"} <= set(answer.headers["access-control-allow-headers"].split(", "))
    assert answer.headers["x-request-id"]


async def test_25_answers_and_errors_may_be_read_by_scripts_of_any_page(shelf: Shelf) -> None:
    rig, origin = shelf.rig, {"Origin": "https://app.example"}
    answers = [
        await rig.post(shelf.customer.headers | origin, shelf.body("plain")),
        await rig.post(shelf.customer.headers | origin, shelf.body("plain", stream=True)),
        await rig.post(shelf.customer.headers | origin, shelf.body("broken")),
        await rig.post(shelf.customer.headers | origin, b"{"),
        await rig.post(origin, shelf.body("plain")),
        await ask(rig, "GET", "/v1/models", shelf.customer.headers | origin),
        await ask(rig, "GET", "/v1/models/none", shelf.customer.headers | origin),
        await ask(rig, "GET", "/v1/none", origin),
        await ask(rig, "DELETE", "/v1/models", origin),
    ]
    assert [answer.status for answer in answers] == [200, 200, 502, 400, 401, 200, 404, 404, 405]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "*"
        assert set(answer.headers["access-control-expose-headers"].split(", ")) >= CORS_READABLE
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/docs/api", "/login", "/keys"])
async def test_25_nothing_outside_v1_may_be_read_by_other_pages(rig: Rig, path: str) -> None:
    for method in ("GET", "OPTIONS", "POST"):
        answer = await ask(rig, method, path, {"Origin": "https://app.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")], (method, answer)
