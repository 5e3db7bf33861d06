"""The API page and its document: complete, well formed, true of the running server, and loading nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from schemathesis import openapi

from gateway.errors import HTTP_CODES, TABLE
from gateway.openapi import openapi_document
from tests.rig import Rig, client

DOCUMENT = openapi_document("http://gateway.test", "Brand & Co")
CHAT = DOCUMENT["paths"]["/v1/chat/completions"]["post"]


def operations() -> Iterator[dict[str, Any]]:
    for methods in DOCUMENT["paths"].values():
        yield from methods.values()


def resolve(pointer: str) -> Any:
    found: Any = DOCUMENT
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def validator(name: str) -> Any:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


def test_every_reference_resolves_and_every_schema_is_one() -> None:
    for pointer in references(DOCUMENT):
        assert resolve(pointer)
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def test_a_fuzzer_can_read_it_and_finds_every_endpoint() -> None:
    found = {one.ok().label for one in openapi.from_dict(DOCUMENT).get_all_operations()}
    assert found == {
        "POST /v1/chat/completions",
        "GET /v1/models",
        "GET /v1/models/{alias}",
        "GET /healthz",
        "GET /readyz",
    }


@pytest.mark.parametrize("status", sorted({row.status for row in TABLE.values()} | set(HTTP_CODES) | {422}))
def test_every_error_is_documented_with_its_status_and_code(status: int) -> None:
    documented = [one["responses"][str(status)] for one in operations() if str(status) in one["responses"]]
    assert documented
    answer = resolve(documented[0]["$ref"])
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
    assert "x-request-id" in answer["headers"]
    codes = {row.code for row in TABLE.values() if row.status == status}
    assert all(f"`{code}`" in answer["description"] for code in codes)


def test_the_completion_has_both_its_forms_and_its_headers() -> None:
    answer = CHAT["responses"]["200"]
    assert set(answer["content"]) == {"application/json", "text/event-stream"}
    assert {"x-request-id", "x-credits-charged", "x-ratelimit-remaining-tokens"} <= set(answer["headers"])
    limited = resolve(CHAT["responses"]["429"]["$ref"])["headers"]
    assert {"retry-after", "x-ratelimit-reset-requests"} <= set(limited)


def test_examples_are_what_their_schemas_say() -> None:
    validator("ChatCompletionRequest").validate(CHAT["requestBody"]["content"]["application/json"]["example"])
    validator("ChatCompletion").validate(CHAT["responses"]["200"]["content"]["application/json"]["example"])


@pytest.mark.parametrize(
    "fields",
    [
        {"model": ""},
        {"messages": []},
        {"messages": "Hello"},
        {"max_tokens": 0},
        {"max_tokens": 2**31},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"n": -1},
        {"stream": "yes"},
        {"stream_options": []},
        {"service_tier": "flex"},
    ],
)
async def test_what_the_schema_calls_wrong_is_refused_by_the_server(rig: Rig, fields: dict[str, Any]) -> None:
    ada = rig.customer(models=[rig.alias("sim")])
    body = {"messages": [{"role": "user", "content": "Hello"}], **fields}
    assert not validator("ChatCompletionRequest").is_valid({"model": "any", **body})
    answer = await rig.chat(ada, fields.get("model", "any"), **{k: v for k, v in fields.items() if k != "model"})
    assert answer.status == 400
    validator("Error").validate(answer.json)


async def test_real_answers_are_what_the_document_says(rig: Rig) -> None:
    alias = rig.alias("sim")
    ada = rig.customer(models=[alias])
    answer = await rig.chat(ada, alias)
    validator("ChatCompletion").validate(answer.json)
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)?", answer.headers["x-credits-charged"])
    validator("Error").validate((await rig.chat(ada, "no-such-model")).json)
    async with client() as session:
        for path, schema in (
            ("/v1/models", "ModelList"),
            (f"/v1/models/{alias}", "Model"),
            ("/v1/models/none", "Error"),
            ("/healthz", "Health"),
            ("/readyz", "Health"),
        ):
            async with session.get(rig.url + path, headers=ada.headers) as response:
                validator(schema).validate(await response.json())
                assert response.headers["x-request-id"]


async def test_the_page_loads_everything_from_this_server(rig: Rig) -> None:
    async with client() as session:
        async with session.get(f"{rig.url}/docs/api") as response:
            page = await response.text()
            policy = response.headers["content-security-policy"]
        assert response.status == 200
        assert "default-src 'self'" in policy
        assert "script-src" not in policy
        assert "//" not in page.replace("<!doctype html>", "")
        assert not re.search(r"<script(?![^>]*\bsrc=)", page)
        linked = re.findall(r'(?:src|href)="(/[^"]+)"', page)
        assert len(linked) >= 3
        for path in linked:
            async with session.get(rig.url + path) as response:
                assert response.status == 200, path
                assert response.headers["x-request-id"]
                assert response.headers["x-content-type-options"] == "nosniff"
                assert await response.read()


async def test_the_document_names_the_host_that_it_was_asked_for(rig: Rig) -> None:
    async with client() as session:
        async with session.get(f"{rig.url}/docs/api/openapi.json") as response:
            document = await response.json()
        assert document["servers"] == [{"url": rig.url}]
        async with session.get(f"{rig.url}/docs/api/openapi.json", headers={"Host": "api.example.com"}) as response:
            assert (await response.json())["servers"] == [{"url": "http://api.example.com"}]


@pytest.mark.parametrize(
    "path", ["/static/", "/static/README.md", "/static/..%2fsettings.py", "/static/docs/../../cli.py"]
)
async def test_nothing_but_the_pages_files_is_served(rig: Rig, path: str) -> None:
    from yarl import URL

    async with client() as session, session.get(URL(rig.url + path, encoded=True)) as response:
        assert response.status == 404
        validator("Error").validate(await response.json())
