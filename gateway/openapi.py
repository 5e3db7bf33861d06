"""Owns the OpenAPI 3.1 document of the public API: its endpoints, answers and headers. Bodies: `openapi_schemas.py`."""

from __future__ import annotations

from typing import Any

from gateway.errors import HTTP_CODES, TABLE
from gateway.openapi_schemas import COMPLETION_EXAMPLE, ERROR_CODES, REQUEST_EXAMPLE, SCHEMAS, STREAM_EXAMPLE, ref

VERSION = "1"
# Why an endpoint answers with a status, in the order of the status. The documentation's table of errors is made of it, too.
REASONS = {
    400: "The body cannot be parsed or billed; `param` names the field. Not charged.",
    401: "The API key is missing, malformed, unknown, disabled, expired or revoked.",
    402: "The balance does not cover what this request can cost, or, without `max_tokens`, its input. No model was called.",
    403: "The model is outside the scope of this key, or cannot be called by anybody at present.",
    404: "There is no such model for this key, or no such endpoint.",
    405: "The endpoint does not answer to this method.",
    408: "The request did not arrive in time.",
    413: "The body is larger than this service takes.",
    415: "The body is in an encoding or of a type that is not understood.",
    417: "The Expect header asks for something that is not offered.",
    422: "The provider says that the request itself cannot be processed. Not charged.",
    429: "A limit of the key, the account or the model's routes is used up. Wait, then try again.",
    500: "Something went wrong on our side. Not charged.",
    502: "Every route to the model failed, or its answer was broken. Not charged.",
    503: "The service is starting, stopping or without its database. Not charged.",
}
# A provider's own refusal of a request passes through with its status.
_PASSED_THROUGH = {413, 422}
_EVERYWHERE = (405, 408, 500, 503)

HEADERS: dict[str, Any] = {
    "x-request-id": {
        "description": "Names this request to support. Always made by the service.",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    },
    "x-credits-charged": {
        "description": "Credits that this answer cost, as an exact decimal.",
        "schema": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
    },
    "retry-after": {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 60},
    },
    "retry-after-ms": {"description": "The same in milliseconds.", "schema": {"type": "integer", "minimum": 1}},
    "x-should-retry": {
        "description": "`false` when the same request cannot succeed.",
        "schema": {"type": "string", "enum": ["false"]},
    },
}
for _unit in ("requests", "tokens"):
    for _name, _text, _schema in (
        ("limit", "Quota of the tightest limit of", {"type": "integer", "minimum": 0}),
        ("remaining", "What is left of it, in", {"type": "integer", "minimum": 0}),
        ("reset", "How long until all of it is back, such as `6m0s`, in", {"type": "string"}),
    ):
        HEADERS[f"x-ratelimit-{_name}-{_unit}"] = {"description": f"{_text} {_unit}.", "schema": _schema}
RATE_HEADERS = tuple(name for name in HEADERS if name.startswith("x-ratelimit-"))


def openapi_document(base_url: str, brand: str) -> dict[str, Any]:
    """The document as clients of `base_url` (scheme and host) see the API."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{brand} API",
            "version": VERSION,
            "description": f"One OpenAI-compatible API for many models. Set your client's base URL to `{base_url}/v1`, "
            "its API key to one from the dashboard, and the model to an alias that `GET /v1/models` lists. Successful "
            "requests are charged by their tokens; failed ones are not charged.",
        },
        "servers": [{"url": base_url}],
        "security": [{"key": []}],
        "tags": [
            {"name": "Chat", "description": "Completions, whole or streamed."},
            {"name": "Models", "description": "What the key may call, and at which price."},
            {"name": "Health", "description": "For load balancers; no key needed."},
        ],
        "paths": {
            "/v1/chat/completions": {"post": _complete_chat()},
            "/v1/models": {"get": _list_models()},
            "/v1/models/{alias}": {"get": _show_model()},
            "/healthz": {"get": _health("tellHealth", "The process is up.", 200)},
            "/readyz": {"get": _health("tellReadiness", "New requests are admitted.", 200, 503)},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key (`sk-…`)."}},
            "schemas": SCHEMAS,
            "headers": HEADERS,
            "responses": {f"Error{status}": _error(status) for status in REASONS},
        },
    }


def _complete_chat() -> dict[str, Any]:
    stream = {"schema": ref("ChatCompletionEvents"), "example": STREAM_EXAMPLE}
    return {
        "tags": ["Chat"],
        "operationId": "createChatCompletion",
        "summary": "Complete a chat",
        "description": "With `stream` true the answer comes as server-sent events. An answer that arrived whole is "
        "charged once; a failed one costs nothing.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ref("ChatCompletionRequest"), "example": REQUEST_EXAMPLE}},
        },
        "responses": {
            "200": {
                "description": "The model's answer: JSON, or events when `stream` is true (then without "
                "`x-credits-charged`; the last chunk's usage has `cost_credits` when usage was asked for).",
                "headers": _headers("x-request-id", "x-credits-charged", *RATE_HEADERS),
                "content": {
                    "application/json": {"schema": ref("ChatCompletion"), "example": COMPLETION_EXAMPLE},
                    "text/event-stream": stream,
                },
            },
            **_errors(400, 401, 402, 403, 413, 415, 417, 422, 429, 502),
        },
    }


def _list_models() -> dict[str, Any]:
    return {
        "tags": ["Models"],
        "operationId": "listModels",
        "summary": "List the models that the key may call",
        "responses": {"200": _answer("The models, with their prices.", "ModelList"), **_errors(400, 401)},
    }


def _show_model() -> dict[str, Any]:
    alias = {
        "name": "alias",
        "in": "path",
        "required": True,
        "description": "A model alias; a `/` in it may be written as `%2F`.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 200},
        "example": "deepseek-chat",
    }
    return {
        "tags": ["Models"],
        "operationId": "showModel",
        "summary": "Show one model",
        "parameters": [alias],
        "responses": {"200": _answer("The model.", "Model"), **_errors(400, 401, 404)},
    }


def _health(operation: str, summary: str, *statuses: int) -> dict[str, Any]:
    answers = {str(status): _answer(summary if status == 200 else "Not now.", "Health") for status in statuses}
    return {
        "tags": ["Health"],
        "operationId": operation,
        "summary": summary,
        "security": [],
        "responses": {**_errors(400), **answers},
    }


def _answer(description: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": _headers("x-request-id"),
        "content": {"application/json": {"schema": ref(schema)}},
    }


def _errors(*statuses: int) -> dict[str, Any]:
    return {
        str(status): {"$ref": f"#/components/responses/Error{status}"} for status in sorted({*statuses, *_EVERYWHERE})
    }


def _error(status: int) -> dict[str, Any]:
    names = ["x-request-id", "x-should-retry"]
    if status == 429:
        names += ["retry-after", "retry-after-ms", *RATE_HEADERS]
    codes = ERROR_CODES.get(status, ())
    known = f" Codes: {', '.join(f'`{code}`' for code in codes)}." if codes else ""
    return {
        "description": REASONS[status] + known,
        "headers": _headers(*names),
        "content": {"application/json": {"schema": ref("Error")}},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


assert {row.status for row in TABLE.values()} | set(HTTP_CODES) | _PASSED_THROUGH == set(REASONS)
