"""Lines 1 to 9 of the client list: how refusals and failures look to programs and to the people behind them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.shelf import HELLO, Shelf
from tests.rig import Answer, Customer, Rig

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def shelf(rig: Rig) -> Iterator[Shelf]:
    models = {
        "plain": "sim:words=3",
        "broken": "sim:status=500,error_code=secret_sauce",
        "unpaid": "sim:status=402",
        "forbidden": "sim:status=403",
        "locked": "sim:status=401,echo_key",
        "echo": "sim:status=400,echo_key,error_code=bad_thing",
        "too_long": "sim:status=400,error_code=context_length_exceeded",
        "html_400": "sim:status=400,body=html",
        "empty_400": "sim:status=400,body=empty",
        "string_422": "sim:status=422,body=string",
        "json_413": "sim:status=413,body=json",
        "html_500": "sim:status=500,body=html",
        "html_200": "sim:body=html",
        "empty_200": "sim:body=empty",
        "error_200": "sim:error_body",
        "error_first": "sim:error_event=0",
        "json_for_sse": "sim:json_for_sse",
        "cut": "sim:cut=2",
        "cut_at_once": "sim:cut=0",
    }
    yield Shelf(rig, models)
    rig.reconcile()


@pytest.fixture(scope="module")
def poor(rig: Rig, shelf: Shelf) -> Customer:
    return rig.customer(credits="0", models=[shelf.alias["plain"]])


@pytest.fixture(scope="module")
def limited(rig: Rig, shelf: Shelf) -> Customer:
    """A key with one request and 10,000 tokens in six minutes."""
    customer = rig.customer(models=[shelf.alias["plain"]])
    rig.desk.limits.set(key=customer.key_id, unit="requests", quota=1, window_s=360)
    rig.desk.limits.set(key=customer.key_id, unit="tokens", quota=10_000, window_s=360)
    rig.settle_feed()
    return customer


def assert_refused(answer: Answer, status: int, code: str | None) -> dict[str, Any]:
    """The one shape of errors: JSON, an object, a code that programs read, a message that people read."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    assert re.fullmatch("[0-9a-f-]{36}", answer.headers["x-request-id"])
    error = answer.error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert error["code"] == code
    return error


# ── 1: keys ───────────────────────────────────────────────────────────────────────────────────────────────────────

BAD_KEYS = {
    "missing": None,
    "empty": "",
    "no key": "Bearer",
    "blank key": "Bearer   ",
    "wrong key": "Bearer sk-canary-0123456789abcdef0123456789",
    "short key": "Bearer x",
    "endless key": "Bearer sk-canary-" + "x" * 4_000,
    "without scheme": "sk-canary-0123456789abcdef0123456789",
    "basic": "Basic c2stY2FuYXJ5OnNrLWNhbmFyeQ==",
    "not ascii": "Bearer sk-canary-ÿé漢字-0123456789",
    "two keys": "Bearer sk-canary-0123456789 sk-canary-0123456789",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", BAD_KEYS)
async def test_1_a_key_that_is_none_gets_401_as_json_and_is_never_echoed(shelf: Shelf, name: str, stream: bool) -> None:
    authorization = BAD_KEYS[name]
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = await shelf.rig.post(headers, shelf.body("plain", stream=stream))
    error = assert_refused(answer, 401, "invalid_api_key")
    assert error["type"] == "authentication_error"
    assert "Authorization: Bearer" in error["message"]
    assert b"canary" not in answer.body
    assert not any("canary" in value for value in answer.headers.values())


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer", "bEaReR"])
async def test_1_the_word_bearer_is_read_in_any_case(shelf: Shelf, scheme: str) -> None:
    answer = await shelf.rig.post({"Authorization": f"{scheme} {shelf.customer.key}"}, shelf.body("plain"))
    assert answer.status == 200


# ── 2, 5: the shape, and whether to try again ─────────────────────────────────────────────────────────────────────


async def refusals(shelf: Shelf, poor: Customer, limited: Customer) -> dict[int, Answer]:
    """One of every kind, by status."""
    rig, plain = shelf.rig, shelf.alias["plain"]
    await rig.chat(limited, plain)
    return {
        400: await rig.post(shelf.customer.headers, b"{"),
        401: await rig.post({"Authorization": "Bearer sk-0123456789abcdef0123"}, shelf.body("plain")),
        402: await rig.chat(poor, plain, max_tokens=10),
        403: await rig.chat(poor, "no-such-model"),
        404: await rig.post(shelf.customer.headers, b"{}", "/v1/responses"),
        405: await rig.post(shelf.customer.headers, b"{}", "/v1/models"),
        429: await rig.chat(limited, plain),
        502: await shelf.chat("broken"),
    }


async def test_2_every_error_is_an_object_whose_message_alone_says_what_to_do(
    shelf: Shelf, poor: Customer, limited: Customer
) -> None:
    answers = await refusals(shelf, poor, limited)
    codes = {
        400: ("invalid_json", "Send the fields"),
        401: ("invalid_api_key", "created in the dashboard"),
        402: ("insufficient_credits", "Top up"),
        403: ("model_not_allowed", "GET /v1/models lists"),
        404: ("not_found", "chat completions"),
        405: ("method_not_allowed", "method"),
        429: ("rate_limit_exceeded", "Try again in"),
        502: ("upstream_unavailable", "try again"),
    }
    for status, (code, advice) in codes.items():
        error = assert_refused(answers[status], status, code)
        assert advice in error["message"], error
    assert "not charged" in answers[502].error["message"]


async def test_5_what_waiting_cannot_mend_says_so_and_what_it_can_does_not(
    shelf: Shelf, poor: Customer, limited: Customer
) -> None:
    answers = await refusals(shelf, poor, limited)
    told = {status: answer.headers.get("x-should-retry") for status, answer in answers.items()}
    assert told == dict.fromkeys([400, 401, 402, 403, 404, 405], "false") | {429: None, 502: None}


async def test_5_a_refused_request_is_cheap_no_provider_no_hold_no_record(
    shelf: Shelf, poor: Customer, limited: Customer
) -> None:
    await shelf.rig.chat(limited, shelf.alias["plain"])
    calls, records = len(await shelf.calls("plain")), len(shelf.rig.records(limited))
    for _ in range(12):
        assert (await shelf.rig.chat(limited, shelf.alias["plain"])).status == 429
        assert (await shelf.rig.chat(poor, shelf.alias["plain"])).status == 402
        assert (await shelf.rig.chat(poor, shelf.alias["broken"])).status == 403
    assert len(await shelf.calls("plain")) == calls
    assert len(shelf.rig.records(limited)) == records
    assert not shelf.rig.records(poor)
    assert shelf.rig.held_nano(limited) == shelf.rig.held_nano(poor) == 0


# ── 3: no money ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
async def test_3_without_credits_402_says_how_to_top_up_before_any_upstream_call(
    shelf: Shelf, poor: Customer, stream: bool
) -> None:
    calls = len(await shelf.calls("plain"))
    answer = await shelf.rig.chat(poor, shelf.alias["plain"], stream=stream)
    error = assert_refused(answer, 402, "insufficient_credits")
    assert "Top up in the dashboard under Billing" in error["message"]
    assert "0 are available" in error["message"]
    assert len(await shelf.calls("plain")) == calls


# ── 4: limits ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_4_a_429_says_when_to_come_back_in_every_dialect(shelf: Shelf, limited: Customer) -> None:
    await shelf.rig.chat(limited, shelf.alias["plain"])
    answer = await shelf.rig.chat(limited, shelf.alias["plain"])
    assert_refused(answer, 429, "rate_limit_exceeded")
    seconds = answer.headers["retry-after"]
    assert re.fullmatch("[0-9]+", seconds)
    # The wait is six minutes; some clients ignore what is above one.
    assert int(seconds) == 60
    assert answer.headers["retry-after-ms"] == "60000"
    assert answer.headers["x-ratelimit-limit-requests"] == "1"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch(r"5m\d{1,2}s|6m0s", answer.headers["x-ratelimit-reset-requests"])
    assert answer.headers["x-ratelimit-limit-tokens"] == "10000"
    assert 0 < int(answer.headers["x-ratelimit-remaining-tokens"]) <= 10_000  # a few tokens are back in no time
    assert re.fullmatch(r"(\dm)?\d{1,2}s|\d{1,3}ms", answer.headers["x-ratelimit-reset-tokens"])


async def test_4_answers_that_were_served_carry_the_limits_too(rig: Rig, shelf: Shelf) -> None:
    customer = rig.customer(models=[shelf.alias["plain"]])
    rig.desk.limits.set(account=customer.email, unit="requests", quota=100, window_s=60)
    rig.settle_feed()
    for stream in (False, True):
        answer = await rig.chat(customer, shelf.alias["plain"], stream=stream)
        assert answer.status == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "100"
        assert int(answer.headers["x-ratelimit-remaining-requests"]) in (98, 99)
        assert re.fullmatch(r"\d+ms|[12]s", answer.headers["x-ratelimit-reset-requests"])


# ── 6: bodies ─────────────────────────────────────────────────────────────────────────────────────────────────────

M = '"model":"MODEL"'
OK = '"messages":[{"role":"user","content":"Hello"}]'
BAD_BODIES = {
    "": None, "{": None, "[]": None, '"text"': None, "null": None, "12": None, "[{}]": None, "{}": "model",
    "{'model': 1}": None, f"{{{M},{OK}}} trailing": None, f"{{{M},{OK},}}": None, f"{{{M},{OK}": None,
    f"{{{OK}}}": "model", f'{{"model":"",{OK}}}': "model", f'{{"model":7,{OK}}}': "model",
    f'{{"model":null,{OK}}}': "model", f'{{"model":["MODEL"],{OK}}}': "model", f"{{{M}}}": "messages",
    f'{{{M},"messages":null}}': "messages", f'{{{M},"messages":[]}}': "messages", f'{{{M},"messages":{{}}}}': "messages",
    f'{{{M},"messages":"Hello"}}': "messages", f'{{{M},"messages":["Hello"]}}': "messages",
    f'{{{M},"messages":[{{}}]}}': "messages[0].role", f'{{{M},"messages":[{{"role":1}}]}}': "messages[0].role",
    f'{{{M},"messages":[{{"role":"user","content":5}}]}}': "messages[0].content",
    f'{{{M},"messages":[{{"role":"user","content":[{{"text":"x"}}]}}]}}': "messages[0].content[0].type",
    f'{{{M},{OK},"stream":"yes"}}': "stream", f'{{{M},{OK},"stream":1}}': "stream",
    f'{{{M},{OK},"stream_options":true}}': "stream_options", f'{{{M},{OK},"tools":{{}}}}': "tools",
    f'{{{M},{OK},"stream":true,"stream_options":{{"include_usage":"yes"}}}}': "stream_options.include_usage",
}  # fmt: skip


@pytest.mark.parametrize("body", BAD_BODIES)
async def test_6_a_body_that_is_no_request_gets_400_naming_the_field(shelf: Shelf, body: str) -> None:
    calls = len(await shelf.calls("plain"))
    answer = await shelf.rig.post(shelf.customer.headers, body.replace("MODEL", shelf.alias["plain"]).encode())
    param = BAD_BODIES[body]
    error = assert_refused(answer, 400, "invalid_json" if param is None else "invalid_request")
    assert error["param"] == param
    assert param is None or f"`{param}`" in error["message"]
    assert len(await shelf.calls("plain")) == calls


async def test_6_bytes_that_are_no_utf_8_get_400(shelf: Shelf) -> None:
    body = shelf.body("plain").replace(b"Hello", b"Hel\xff\xfelo")
    assert_refused(await shelf.rig.post(shelf.customer.headers, body), 400, "invalid_json")


async def test_6_a_body_of_the_responses_api_is_told_so_in_a_sentence(shelf: Shelf) -> None:
    body = json.dumps({"model": shelf.alias["plain"], "input": HELLO, "stream": True}).encode()
    error = assert_refused(await shelf.rig.post(shelf.customer.headers, body), 400, "responses_body")
    assert "Responses API" in error["message"]
    assert "use chat completions" in error["message"]


# ── 7, 8: what providers say ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
async def test_7_a_context_that_is_too_long_keeps_its_code(shelf: Shelf, stream: bool) -> None:
    error = assert_refused(await shelf.chat("too_long", stream=stream), 400, "context_length_exceeded")
    assert "Simulated failure" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["locked", "unpaid", "forbidden", "broken", "html_500"])
async def test_7_what_is_between_us_and_the_provider_stays_there(shelf: Shelf, name: str, stream: bool) -> None:
    answer = await shelf.chat(name, stream=stream)
    assert_refused(answer, 502, "upstream_unavailable")
    for word in (b"Simulated", b"canary", b"secret_sauce", b"html", b"sim:"):
        assert word not in answer.body


async def test_7_our_credential_is_struck_out_of_a_providers_words(shelf: Shelf) -> None:
    answer = await shelf.chat("echo")
    error = assert_refused(answer, 400, "bad_thing")
    assert error["message"].endswith("Incorrect credential: Bearer [removed]")
    assert b"canary" not in answer.body


@pytest.mark.parametrize(
    ("name", "status"), [("html_400", 400), ("empty_400", 400), ("string_422", 422), ("json_413", 413)]
)
async def test_7_error_bodies_of_any_kind_become_json(shelf: Shelf, name: str, status: int) -> None:
    answer = await shelf.chat(name)
    assert_refused(answer, status, "invalid_request")
    assert b"<html" not in answer.body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["error_200", "html_200", "empty_200", "error_first", "cut_at_once"])
async def test_8_a_200_that_is_no_answer_is_a_failure_and_costs_nothing(shelf: Shelf, name: str, stream: bool) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    answer = await shelf.chat(name, stream=stream)
    if stream and answer.status == 200:
        # The provider had begun an event stream, so our status was out; the error stands in it, alone.
        (event,) = answer.events
        assert event["error"]["code"] == "upstream_unavailable"
        assert not answer.is_done
    else:
        assert_refused(answer, 502, "upstream_unavailable")
    assert shelf.rig.spent_nano(shelf.customer) == before


async def test_8_json_where_events_were_asked_for_is_never_silence(shelf: Shelf) -> None:
    assert_refused(await shelf.chat("json_for_sse", stream=True), 502, "upstream_unavailable")
    assert (await shelf.chat("json_for_sse")).status == 200


@pytest.mark.parametrize(
    "body", ["null", "[]", "{}", '{"error":"no"}', '{"choices":null}', '{"choices":[]}', '{"choices":"x"}', '{"choices":[{',
             '{"choices":[1]}', '{"choices":[ ]}', '{"choices":[[]]}'],
)  # fmt: skip
async def test_8_json_that_is_no_completion_is_a_502(shelf: Shelf, body: str) -> None:
    await shelf.script(body)
    assert_refused(await shelf.chat("scripted"), 502, "upstream_unavailable")


async def test_8_an_odd_answer_that_nobody_counted_is_served_and_estimated(shelf: Shelf) -> None:
    for message in ('"text"', "null", '{"content":["x"]}', '{"content":"x","logprob":-1e999}', '{"tool_calls":7}'):
        await shelf.script(f'{{"choices":[{{"index":0,"message":{message},"finish_reason":"stop"}}]}}')
        answer = await shelf.chat("scripted", response_format={"schema": {"maximum": 1}})
        assert answer.status == 200, answer.body
        assert float(answer.headers["x-credits-charged"]) > 0


async def test_8_a_whole_answer_cut_short_is_a_502_and_costs_nothing(shelf: Shelf) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    assert_refused(await shelf.chat("cut"), 502, "upstream_unavailable")
    assert shelf.rig.spent_nano(shelf.customer) == before


# ── 9: paths, methods, request ids ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    ["/v1/responses", "/v1/completions", "/v1/embeddings", "/v1", "/v2/chat/completions", "/chat/completions",
     "/v1/chat/completions/extra", "/v1/messages?beta=true", "/v1/chat%2Fcompletions", "//v1/chat/completions"],
)  # fmt: skip
async def test_9_an_unknown_path_is_a_404_in_json(shelf: Shelf, path: str) -> None:
    calls = len(await shelf.calls("plain"))
    answer = await shelf.rig.post(shelf.customer.headers, shelf.body("plain"), path)
    assert_refused(answer, 404, "not_found")
    assert len(await shelf.calls("plain")) == calls


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", CHAT, "POST"), ("PUT", CHAT, "POST"), ("DELETE", CHAT, "POST"), ("POST", "/v1/models", "GET"),
     ("DELETE", "/v1/models/x", "GET")],
)  # fmt: skip
async def test_9_a_wrong_method_is_a_405_in_json(shelf: Shelf, method: str, path: str, allowed: str) -> None:
    from tests.rig import client

    async with client() as session, session.request(method, shelf.rig.url + path, headers=shelf.customer.headers) as r:
        answer = Answer(r.status, {k.lower(): v for k, v in r.headers.items()}, await r.read())
    assert_refused(answer, 405, "method_not_allowed")
    assert allowed in answer.headers["allow"]


async def test_9_every_answer_has_a_request_id_of_ours_and_never_the_clients(shelf: Shelf) -> None:
    ids = set()
    headers = {**shelf.customer.headers, "X-Request-ID": "chosen-by-the-client"}
    for name in ("plain", "plain", "broken", "too_long"):
        for stream in (False, True):
            answer = await shelf.rig.post(headers, shelf.body(name, stream=stream))
            ids.add(answer.headers["x-request-id"])
    for path in ("/v1/models", "/v1/models/x", "/v1/nothing", "/", "/healthz"):
        ids.add((await shelf.rig.post(headers, b"{}", path)).headers["x-request-id"])
    assert len(ids) == 13
    assert all(re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}", one) for one in ids)
