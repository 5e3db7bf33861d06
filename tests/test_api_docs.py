"""Every sentence of the product's API documentation that an API can show, in the document's order."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from models.prices import CREDITS_PER_USD
from tests.clients.shelf import HELLO, Shelf
from tests.rig import Answer, Customer, Price, Rig, client
from tests.servers import missing

PUBLIC = "https://api.supertomorrow.cc/v1"
CURL = """curl https://api.supertomorrow.cc/v1/chat/completions \\
-H "Authorization: Bearer YOUR_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{
"model": "deepseek-chat",
"messages": [{"role": "user", "content": "Hello"}],
"max_tokens": 160
}'"""
CURL_MODELS = """curl https://api.supertomorrow.cc/v1/models \\
-H "Authorization: Bearer YOUR_API_KEY\""""
SDK = """from openai import OpenAI
client = OpenAI(
api_key="YOUR_API_KEY",
base_url="https://api.supertomorrow.cc/v1",
)
response = client.chat.completions.create(
model="deepseek-chat",
messages=[{"role": "user", "content": "Hello"}],
max_tokens=160,
)
print(response.choices[0].message.content)"""
ANSWER = "Thank you for telling me: Hello It"


@pytest.fixture(scope="module")
def shelf(rig: Rig) -> Iterator[Shelf]:
    """Aliases that work and that do not, and `deepseek-chat`, which the document's examples call."""
    models = {"good": "sim:words=7", "other": "sim:words=2", "failing": "sim:status=503", "cut": "sim:words=5,cut=3"}
    shelf = Shelf(rig, models)
    rig.desk.catalog.add_model("deepseek-chat", context_tokens=64_000, max_output_tokens=8_192, published=True)
    rig.desk.catalog.add_route(
        "deepseek-chat", provider="fp", upstream_model="sim:words=7,tag=docs", position=1, weight=1
    )
    rig.desk.catalog.propose_price("deepseek-chat", input_usd="0.27", output_usd="1.10").publish(reason="test")
    rig.settle_feed()
    yield shelf
    rig.reconcile()


@pytest.fixture(scope="module")
def ada(rig: Rig, shelf: Shelf) -> Customer:
    return rig.customer(models=["deepseek-chat"])


@pytest.fixture(scope="module")
def curl_shell() -> str:
    """A shell in which the document's lines can be typed as they stand."""
    if shutil.which("curl") is None:
        missing("no curl on this machine")
    return "sh"


def filled_in(example: str, rig: Rig, customer: Customer) -> str:
    """An example of the document, with nothing changed but the base URL and the key."""
    assert example.count(PUBLIC) == example.count("YOUR_API_KEY") == 1
    return example.replace(PUBLIC, rig.url + "/v1").replace("YOUR_API_KEY", customer.key)


async def run(*command: str) -> str:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


async def listed(rig: Rig, headers: dict[str, str]) -> list[str]:
    async with client() as session, session.get(rig.url + "/v1/models", headers=headers) as response:
        assert response.status == 200
        return sorted(model["id"] for model in (await response.json())["data"])


def refused(answer: Answer, status: int, code: str) -> str:
    """The message of an error with this status and code."""
    assert (answer.status, answer.error["code"]) == (status, code), answer.body
    return str(answer.error["message"])


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


# ── Quick start ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_full_key_is_shown_only_when_it_is_created_or_regenerated(rig: Rig, shelf: Shelf) -> None:
    owner = rig.customer(models=[shelf.alias["good"]])
    renewed = rig.desk.keys.regenerate(owner.key_id)
    assert renewed.secret != owner.key
    rig.settle_feed()
    body = shelf.body("good")
    assert (await rig.post(bearer(renewed.secret), body)).status == 200
    refused(await rig.post(owner.headers, body), 401, "invalid_api_key")
    # From here on nobody can read either: not from the desk's list, not from the database, not from the server's log.
    shown = rig.desk.keys.list(owner.email).to_csv()
    kept = b"".join(file.read_bytes() for file in Path(rig.folder).glob("gateway.*"))
    for secret in (owner.key, renewed.secret):
        assert secret not in shown
        assert secret.encode() not in kept


async def test_a_key_is_created_with_one_or_several_models_and_calls_only_those(rig: Rig, shelf: Shelf) -> None:
    good, other = shelf.alias["good"], shelf.alias["other"]
    owner = rig.customer(models=[good])
    two = bearer(rig.desk.keys.issue(owner.email, name="two", models=[good, other]).secret)
    assert await listed(rig, two) == sorted([good, other])
    for name in ("good", "other"):
        assert (await rig.post(two, shelf.body(name))).status == 200
    assert await listed(rig, owner.headers) == [good]
    assert (await rig.post(owner.headers, shelf.body("good"))).status == 200
    calls = len(await shelf.calls("other"))
    refused(await rig.post(owner.headers, shelf.body("other")), 403, "model_not_allowed")
    assert len(await shelf.calls("other")) == calls


async def test_the_curl_call_is_answered(rig: Rig, ada: Customer, curl_shell: str) -> None:
    answer = json.loads(await run(curl_shell, "-c", filled_in(CURL, rig, ada)))
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "deepseek-chat"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": ANSWER, "refusal": None}
    assert answer["usage"]["completion_tokens"] == 7


# ── Balance and billing ───────────────────────────────────────────────────────────────────────────────────────────


async def test_one_usd_is_a_hundred_credits(rig: Rig, shelf: Shelf) -> None:
    """A thousand input tokens at 1,000 USD a million, and an output that costs nothing: one USD."""
    assert CREDITS_PER_USD == 100
    alias = rig.alias("sim:words=1", price=Price("1000", "0"))
    owner = rig.customer(credits="1000", models=[alias])
    answer = await rig.chat(owner, alias, messages=[{"role": "user", "content": " ".join(["word"] * 997)}])
    assert answer.status == 200, answer.body
    assert answer.json["usage"]["prompt_tokens"] == 1_000
    assert answer.headers["x-credits-charged"] == "100"
    assert rig.spent_nano(owner) == 100 * 10**9


@pytest.mark.parametrize("stream", [False, True])
async def test_successful_requests_are_charged_by_actual_input_and_output_tokens(
    rig: Rig, shelf: Shelf, stream: bool
) -> None:
    alias = rig.alias("sim:prompt=1234,completion=567", price=Price("0.27", "1.10"))
    owner = rig.customer(models=[alias])
    answer = await rig.chat(owner, alias, stream=stream, max_tokens=8_000)
    assert answer.status == 200
    # Thrice as many could have been held; 1,234 and 567 were used: 0.27 × 1234 + 1.10 × 567 millionths of a USD.
    assert Decimal(rig.spent_nano(owner)) == Decimal("0.00095688") * 100 * 10**9
    (record,) = rig.records(owner)
    assert (record["fresh_tokens"], record["output_tokens"], record["outcome"]) == (1_234, 567, "served")


async def test_failed_requests_are_not_charged(rig: Rig, shelf: Shelf) -> None:
    owner = rig.customer(models=[shelf.alias["failing"], shelf.alias["cut"]])
    for name in ("failing", "cut"):
        for stream in (False, True):
            answer = await rig.post(owner.headers, shelf.body(name, stream=stream))
            assert answer.status == 502 or b'"error"' in answer.body
    await rig.settled(owner, records=4)
    assert rig.spent_nano(owner) == 0
    assert {record["outcome"] for record in rig.records(owner)} == {"failed"}


async def test_prices_come_from_the_catalog_and_operations_adjust_them(rig: Rig, shelf: Shelf) -> None:
    alias = rig.alias("sim:words=10", price=Price("1", "2"))
    owner = rig.customer(models=[alias])
    first = await rig.chat(owner, alias)
    rig.desk.catalog.propose_price(alias, input_usd="1.50", output_usd="2.50").publish(reason="spring list")
    rig.settle_feed()
    second = await rig.chat(owner, alias)
    assert [Decimal(answer.headers["x-credits-charged"]) * 10**9 for answer in (first, second)] == [
        Price("1", "2").charge_nano(4, 10),
        Price("1.50", "2.50").charge_nano(4, 10),
    ]
    async with client() as session, session.get(f"{rig.url}/v1/models/{alias}", headers=owner.headers) as response:
        assert (await response.json())["pricing"]["completion"] == "0.0000025"


@pytest.mark.parametrize("stream", [False, True])
async def test_without_balance_402_comes_before_any_model_is_called_and_a_recharge_mends_it(
    rig: Rig, shelf: Shelf, stream: bool
) -> None:
    owner = rig.customer(credits="0", models=[shelf.alias["good"]])
    calls = len(await shelf.calls("good"))
    message = refused(await rig.post(owner.headers, shelf.body("good", stream=stream)), 402, "insufficient_credits")
    assert "Top up" in message
    assert len(await shelf.calls("good")) == calls
    rig.desk.credits.grant(owner.email, credits="10", reason="recharge", grant_key=f"recharge-{owner.email}")
    assert (await rig.post(owner.headers, shelf.body("good", stream=stream))).status == 200
    assert len(await shelf.calls("good")) == calls + 1


# ── API reference ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("field", ["model", "messages"])
async def test_model_and_messages_are_required(rig: Rig, shelf: Shelf, field: str) -> None:
    body = json.loads(shelf.body("good"))
    del body[field]
    answer = await rig.post(shelf.customer.headers, json.dumps(body).encode())
    assert field in refused(answer, 400, "invalid_request")
    assert answer.error["param"] == field


async def test_max_tokens_is_optional_and_bounds_the_output(rig: Rig, shelf: Shelf) -> None:
    whole = (await shelf.chat("good")).json
    assert (whole["choices"][0]["finish_reason"], whole["usage"]["completion_tokens"]) == ("stop", 7)
    short = (await shelf.chat("good", max_tokens=3)).json
    assert (short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 3)


async def test_stream_is_optional_and_sends_the_same_answer_in_pieces(rig: Rig, shelf: Shelf) -> None:
    whole, off = await shelf.chat("good"), await shelf.chat("good", stream=False)
    streamed = await shelf.chat("good", stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.is_done
    assert len(streamed.events) > 7
    said = [answer.json["choices"][0]["message"]["content"] for answer in (whole, off)]
    assert said == [streamed.text] * 2 == [ANSWER] * 2


async def test_the_models_endpoint_lists_what_this_key_may_call(rig: Rig, ada: Customer, curl_shell: str) -> None:
    document = json.loads(await run(curl_shell, "-c", filled_in(CURL_MODELS, rig, ada)))
    assert document["object"] == "list"
    assert [model["id"] for model in document["data"]] == ["deepseek-chat"]


async def test_unscoped_unavailable_and_unpublished_models_are_not_returned_and_cannot_be_called(
    rig: Rig, shelf: Shelf
) -> None:
    """Unavailable: without a price, without a route, or with none that is enabled."""
    wanted = rig.alias("sim", settled=False)
    hidden = rig.alias("sim", published=False, settled=False)
    unpriced, routeless = rig.alias("sim", price=None, settled=False), rig.alias(settled=False)
    disabled, unscoped = rig.alias("sim:words=1", settled=False), rig.alias("sim", settled=False)
    (route,) = rig.desk.catalog.routes(disabled)["id"]
    rig.desk.catalog.disable_route(int(route))
    rig.settle_feed()
    owner = rig.customer(models=[wanted, hidden, unpriced, routeless, disabled])
    assert await listed(rig, owner.headers) == [wanted]
    for name in (hidden, unpriced, routeless, disabled, unscoped, "unknown"):
        refused(await rig.chat(owner, name), 403, "model_not_allowed")
    rig.desk.catalog.unpublish(wanted)
    rig.desk.catalog.publish(hidden)
    rig.settle_feed()
    assert await listed(rig, owner.headers) == [hidden]
    refused(await rig.chat(owner, wanted), 403, "model_not_allowed")
    assert (await rig.chat(owner, hidden)).status == 200


# ── Limits ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("subject", ["key", "account", "route"])
async def test_limits_of_key_account_and_route_answer_429_and_advise_to_back_off(
    rig: Rig, shelf: Shelf, subject: str
) -> None:
    alias = rig.alias("sim:words=2", settled=False)
    owner, neighbour = rig.customer(models=[alias]), rig.customer(models=[alias])
    sibling = bearer(rig.desk.keys.issue(owner.email, name="sibling", models=[alias]).secret)
    (route,) = rig.desk.catalog.routes(alias)["id"]
    subjects: dict[str, Any] = {"key": owner.key_id, "account": owner.email, "route": int(route)}
    rig.desk.limits.set(unit="requests", quota=2, window_s=600, **{subject: subjects[subject]})
    rig.settle_feed()
    for _ in range(2):
        assert (await rig.chat(owner, alias)).status == 200
    answer = await rig.chat(owner, alias)
    message = refused(answer, 429, "rate_limit_exceeded")
    assert f"for this {subject}" in message
    assert "exponential" in message
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    # Who else is stopped tells whose limit it is.
    body = json.dumps({"model": alias, "messages": HELLO}).encode()
    statuses = [(await rig.post(headers, body)).status for headers in (sibling, neighbour.headers)]
    assert statuses == {"key": [200, 200], "account": [429, 200], "route": [429, 429]}[subject]


# ── Error codes ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_401_for_a_key_that_is_invalid_disabled_or_malformed(rig: Rig, shelf: Shelf) -> None:
    owner = rig.customer(models=[shelf.alias["good"]])
    body = shelf.body("good")
    for headers in ({}, bearer("sk-nobody-has-this-key-0123456789"), bearer("malformed"), bearer(owner.key[:-1]),
                    bearer(owner.key + "0"), {"Authorization": owner.key}):  # fmt: skip
        refused(await rig.post(headers, body), 401, "invalid_api_key")
    assert (await rig.post(owner.headers, body)).status == 200
    rig.desk.keys.disable(owner.key_id)
    rig.settle_feed()
    refused(await rig.post(owner.headers, body), 401, "invalid_api_key")
    rig.desk.keys.enable(owner.key_id)
    rig.settle_feed()
    assert (await rig.post(owner.headers, body)).status == 200
    rig.desk.keys.revoke(owner.key_id)
    rig.settle_feed()
    refused(await rig.post(owner.headers, body), 401, "invalid_api_key")


async def test_502_when_the_provider_is_unavailable_or_all_fallback_routes_failed_and_no_charge(
    rig: Rig, shelf: Shelf
) -> None:
    rig.desk.catalog.add_provider(f"nobody-{shelf.customer.key_id}", base_url="http://127.0.0.1:9/v1", api_key="none")
    away = rig.alias(settled=False)
    rig.desk.catalog.add_route(
        away, provider=f"nobody-{shelf.customer.key_id}", upstream_model="sim", position=1, weight=1
    )
    failing = rig.alias("sim:status=500", "sim:status=429", "sim:reset", settled=False)
    mended = rig.alias("sim:status=500", "sim:words=7", settled=False)
    rig.settle_feed()
    owner = rig.customer(models=[away, failing, mended])
    for alias in (away, failing):
        for stream in (False, True):
            refused(await rig.chat(owner, alias, stream=stream), 502, "upstream_unavailable")
    await rig.settled(owner)
    assert rig.spent_nano(owner) == 0
    # One route that answers is enough.
    assert (await rig.chat(owner, mended)).json["choices"][0]["message"]["content"] == ANSWER
    assert rig.spent_nano(owner) == Price().charge_nano(4, 7)


# ── OpenAI SDK ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_sdk_example_runs_with_no_more_than_key_base_url_and_alias_changed(rig: Rig, ada: Customer) -> None:
    before = rig.spent_nano(ada)
    assert await run(sys.executable, "-c", filled_in(SDK, rig, ada)) == ANSWER + "\n"
    assert rig.spent_nano(ada) - before == Price("0.27", "1.10").charge_nano(4, 7)
