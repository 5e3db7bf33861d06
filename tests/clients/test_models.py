"""Lines 22 and 23 of the client list: the list of models, as clients read it and as some verify a key by it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.rig import Answer, Customer, Price, Rig, client, quoted

FIELDS = {"id", "object", "created", "owned_by", "context_length", "max_output_tokens", "pricing"}


@pytest.fixture(scope="module")
def stock(rig: Rig) -> Iterator[dict[str, str]]:
    """Aliases of several sorts, by what is special about them."""
    names = {
        "plain": rig.alias(
            "sim:words=2", price=Price("0.27", "1.10", cached="0.07"), context_tokens=65_536, settled=False
        ),
        "free": rig.alias("sim:words=2", price=Price("0", "0"), settled=False),
        "hidden": rig.alias("sim:words=2", published=False, settled=False),
        "unpriced": rig.alias("sim:words=2", price=None, settled=False),
        "routeless": rig.alias(settled=False),
        "foreign": rig.alias("sim:words=2", settled=False),
    }
    names["slashed"] = "org/sub/é+" + names["plain"]
    rig.desk.catalog.add_model(names["slashed"], context_tokens=1_000, max_output_tokens=100, published=True)
    rig.desk.catalog.add_route(names["slashed"], provider="fp", upstream_model="sim", position=1, weight=1)
    rig.desk.catalog.propose_price(names["slashed"], input_usd="1", output_usd="2").publish(reason="test")
    rig.settle_feed()
    yield names
    rig.reconcile()


@pytest.fixture(scope="module")
def ada(rig: Rig, stock: dict[str, str]) -> Customer:
    """All but one are in her key's scope; her balance is zero."""
    return rig.customer(credits="0", models=[name for what, name in stock.items() if what != "foreign"])


async def get(rig: Rig, path: str, customer: Customer | None, method: str = "GET") -> Answer:
    headers = customer.headers if customer else {}
    async with client() as session, session.request(method, rig.url + path, headers=headers) as response:
        return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read())


async def test_22_the_list_has_what_clients_read_and_no_more_than_the_key_may_call(
    rig: Rig, stock: dict[str, str], ada: Customer
) -> None:
    answer = await get(rig, "/v1/models", ada)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    document = answer.json
    assert document["object"] == "list"
    assert sorted(model["id"] for model in document["data"]) == sorted(
        stock[name] for name in ("plain", "free", "slashed")
    )
    for model in document["data"]:
        assert set(model) == FIELDS
        assert None not in model.values()
        assert model["object"] == "model"
        assert type(model["created"]) is int
        assert abs(model["created"] - time.time()) < 3_600
        assert isinstance(model["owned_by"], str)
        assert model["owned_by"]


async def test_22_prices_are_decimal_strings_of_usd_per_token(rig: Rig, stock: dict[str, str], ada: Customer) -> None:
    models = {model["id"]: model for model in (await get(rig, "/v1/models", ada)).json["data"]}
    plain = models[stock["plain"]]
    assert plain["pricing"] == {
        "prompt": "0.00000027",
        "completion": "0.0000011",
        "input_cache_read": "0.00000007",
        "input_cache_write": "0.00000027",
    }
    assert (plain["context_length"], plain["max_output_tokens"]) == (65_536, 8_192)
    assert models[stock["free"]]["pricing"]["prompt"] == "0"


async def test_22_the_query_string_is_ignored(rig: Rig, ada: Customer) -> None:
    plain = await get(rig, "/v1/models", ada)
    for query in (
        "?",
        "?limit=1",
        "?after=x&order=desc",
        "?api-version=2024-10-21",
        "?return_wildcard_routes=true&a[]=%ff",
    ):
        assert (await get(rig, "/v1/models" + query, ada)).body == plain.body


async def test_22_the_list_comes_within_100_ms(rig: Rig, ada: Customer) -> None:
    async def took_s(session: aiohttp.ClientSession) -> float:
        started = time.perf_counter()
        async with session.get(rig.url + "/v1/models", headers=ada.headers) as response:
            await response.read()
        return time.perf_counter() - started

    async with client() as session:
        assert sorted([await took_s(session) for _ in range(11)])[5] < 0.1


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/x"])
async def test_22_a_key_is_verified_here(rig: Rig, ada: Customer, path: str) -> None:
    assert (await get(rig, path, None)).status == 401
    wrong = Customer("", 0, "", {"Authorization": f"Bearer {ada.key}x"})
    answer = await get(rig, path, wrong)
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"


@pytest.mark.parametrize("what", ["plain", "free", "slashed"])
async def test_23_one_model_by_its_name_however_it_is_written(
    rig: Rig, stock: dict[str, str], ada: Customer, what: str
) -> None:
    listed = {model["id"]: model for model in (await get(rig, "/v1/models", ada)).json["data"]}
    name = stock[what]
    for path in (
        quoted(name),
        quoted(name) + "/",
        name.replace("é", "%C3%A9"),
        quoted(name).lower(),
        quoted(name) + "?x=1",
    ):
        answer = await get_raw(rig, f"/v1/models/{path}", ada)
        assert answer.status == 200, path
        assert answer.json == listed[name]


@pytest.mark.parametrize("what", ["hidden", "unpriced", "routeless", "foreign", "unknown"])
async def test_23_a_model_that_cannot_be_called_is_404(
    rig: Rig, stock: dict[str, str], ada: Customer, what: str
) -> None:
    name = stock.get(what, "no/such <model>")
    answer = await get(rig, "/v1/models/" + quoted(name), ada)
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"
    assert name in answer.error["message"]


async def test_23_head_and_a_trailing_slash(rig: Rig, stock: dict[str, str], ada: Customer) -> None:
    for path in ("/v1/models", "/v1/models/", "/v1/models/" + stock["plain"], "/v1/models/" + stock["plain"] + "/"):
        whole = await get(rig, path, ada)
        head = await get(rig, path, ada, "HEAD")
        assert (whole.status, head.status) == (200, 200), path
        assert head.body == b""
        assert head.headers["content-length"] == str(len(whole.body))
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert json.loads((await get(rig, "/v1/models/", ada)).body) == (await get(rig, "/v1/models", ada)).json


async def get_raw(rig: Rig, path: str, customer: Customer) -> Answer:
    """As `get`, with the path exactly as it is written."""
    from yarl import URL

    url: Any = URL(rig.url + path, encoded=True)
    async with client() as session, session.get(url, headers=customer.headers) as response:
        return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read())
