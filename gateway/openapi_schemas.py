"""Owns the JSON schemas of the public API's bodies, and one example of each. Which endpoint uses which: `openapi.py`.

They say what a well-formed body is, so that a schema-driven fuzzer knows good from bad. Fields that are not named pass
through to the provider as they came.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.asks import MOST_CHOICES, MOST_TOKENS, READ
from gateway.errors import HTTP_CODES, TABLE


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: dict[str, Any], description: str = "") -> dict[str, Any]:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, "null"]} | ({"description": description} if description else {})


def _text(description: str = "") -> dict[str, Any]:
    return {"type": "string"} | ({"description": description} if description else {})


def _count(description: str = "", *, least: int = 0, most: int | None = None) -> dict[str, Any]:
    bound = {} if most is None else {"maximum": most}
    return {"type": "integer", "minimum": least, **bound} | ({"description": description} if description else {})


def _number(least: float, most: float) -> dict[str, Any]:
    return _or_null({"type": "number", "minimum": least, "maximum": most})


def _list_of(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def _object(required: list[str], properties: dict[str, Any], description: str = "") -> dict[str, Any]:
    """An object that may have further fields."""
    schema = {"type": "object", "required": required, "properties": properties, "additionalProperties": True}
    return schema | ({"description": description} if description else {})


def _in_another_case(names: Iterable[str]) -> str:
    """A pattern of these names with capitals, which are refused: some providers would read them, unseen by us."""
    found = ("".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in name) for name in sorted(names))
    return f"^(?=.*[A-Z])({'|'.join(found)})$"


def _codes_by_status() -> dict[int, tuple[str, ...]]:
    found: dict[int, set[str]] = {}
    for row in TABLE.values():
        found.setdefault(row.status, set()).add(row.code)
    for status, (_, code) in HTTP_CODES.items():
        found.setdefault(status, set()).add(code)
    return {status: tuple(sorted(codes)) for status, codes in found.items()}


ERROR_CODES = _codes_by_status()

_PART = {
    "oneOf": [
        _object(["type", "text"], {"type": {"const": "text"}, "text": _text()}),
        _object(
            ["type", "image_url"],
            {"type": {"const": "image_url"}, "image_url": _object(["url"], {"url": _text("http(s) or data URL")})},
        ),
        _object(["type"], {"type": {"enum": ["input_audio", "file", "refusal"]}}),
    ]
}
_MESSAGE = _object(
    ["role"],
    {
        "role": {"type": "string", "enum": ["developer", "system", "user", "assistant", "tool", "function"]},
        "content": {"oneOf": [_text(), _list_of(_PART), {"type": "null"}]},
        "name": _text(),
        "tool_call_id": _text(),
        "tool_calls": _list_of(_object(["id", "type"], {"id": _text(), "type": _text()})),
    },
)
_TOOL = _object(
    ["type", "function"],
    {
        "type": {"const": "function"},
        "function": _object(
            ["name"],
            {"name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}, "parameters": {"type": "object"}},
        ),
    },
)
_REQUEST = _object(
    ["model", "messages"],
    {
        "model": {"type": "string", "minLength": 1, "description": "A model alias, as `GET /v1/models` lists it."},
        "messages": _list_of(ref("Message"), minItems=1, description="The conversation so far, oldest first."),
        "max_tokens": _or_null(
            _count(least=1, most=MOST_TOKENS), "The most output tokens; above the model's own bound that one holds."
        ),
        "max_completion_tokens": _or_null(_count(least=1, most=MOST_TOKENS), "The newer name of `max_tokens`."),
        "n": _or_null(_count(least=1, most=MOST_CHOICES), "How many answers; each is charged."),
        "stream": _or_null({"type": "boolean"}, "True sends the answer as server-sent events."),
        "stream_options": _or_null(
            _object(
                [],
                {"include_usage": _or_null({"type": "boolean"}, "True adds a last chunk with the usage and its cost.")},
            )
        ),
        "temperature": _number(0, 2),
        "top_p": _number(0, 1),
        "presence_penalty": _number(-2, 2),
        "frequency_penalty": _number(-2, 2),
        "seed": _or_null({"type": "integer"}),
        "stop": {"oneOf": [_text(), _list_of(_text(), maxItems=4), {"type": "null"}]},
        "logprobs": _or_null({"type": "boolean"}),
        "top_logprobs": _or_null(_count(most=20)),
        "user": _or_null(_text()),
        "tools": _or_null(_list_of(ref("Tool"))),
        "tool_choice": {"type": ["string", "object", "null"]},
        "parallel_tool_calls": _or_null({"type": "boolean"}),
        "response_format": _or_null(_object(["type"], {"type": _text()})),
        "reasoning_effort": _or_null(_text()),
        "service_tier": {"enum": ["auto", "default", None], "description": "Other tiers have other prices: refused."},
        "modalities": {"oneOf": [{"const": ["text"]}, {"type": "null"}]},
    },
    "Fields that are not listed here pass through to the model's provider. Refused is what would change the model, the "
    "provider or the cost behind the price: `models`, `provider`, `route`, `fallbacks`, `plugins`, `api_base`, "
    "`base_url`, `api_key`, `extra_headers`, `web_search_options`, `audio`, and tools that a provider hosts.",
)
_USAGE = _object(
    ["prompt_tokens", "completion_tokens", "total_tokens"],
    {
        "prompt_tokens": _count(),
        "completion_tokens": _count(),
        "total_tokens": _count(),
        "cost_credits": _text("Streams only: the credits charged, as an exact decimal."),
    },
)
_COMPLETION = _object(
    ["id", "object", "created", "model", "choices"],
    {
        "id": _text(),
        "object": {"const": "chat.completion"},
        "created": _count("Seconds since 1970."),
        "model": _text("The alias that was asked for."),
        "choices": _list_of(
            _object(
                ["index", "message", "finish_reason"],
                {"index": _count(), "message": {"type": "object"}, "finish_reason": {"type": ["string", "null"]}},
            )
        ),
        "usage": ref("Usage"),
    },
)
_EVENTS = _text(
    "`data:` lines, each with a `chat.completion.chunk` as JSON, then `data: [DONE]`. Comments (lines beginning with a "
    "colon) keep the connection alive. If the answer breaks off there is an event with an `error` object and no "
    "`[DONE]`; it costs nothing."
)
_MODEL = _object(
    ["id", "object", "created", "owned_by", "context_length", "max_output_tokens", "pricing"],
    {
        "id": _text("The alias to send as `model`."),
        "object": {"const": "model"},
        "created": _count("Seconds since 1970."),
        "owned_by": _text(),
        "context_length": _count("Input and output tokens together.", least=1),
        "max_output_tokens": _count(least=1),
        "pricing": {
            "type": "object",
            "required": ["prompt", "completion"],
            "description": "USD per token, as exact decimals.",
            "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
        },
    },
)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _text("What went wrong and what to do about it."),
                "type": _text(),
                "param": {"type": ["string", "null"], "description": "The field of the request that is meant."},
                "code": {"type": ["string", "null"], "description": "For programs."},
            },
        }
    },
}
SCHEMAS: dict[str, Any] = {
    "ChatCompletionRequest": _REQUEST | {"propertyNames": {"not": {"pattern": _in_another_case(READ)}}},
    "Message": _MESSAGE,
    "Tool": _TOOL,
    "ChatCompletion": _COMPLETION,
    "ChatCompletionEvents": _EVENTS,
    "Usage": _USAGE,
    "Model": _MODEL,
    "ModelList": _object(["object", "data"], {"object": {"const": "list"}, "data": _list_of(ref("Model"))}),
    "Health": _object(["status"], {"status": _text(), "limiter": _text()}),
    "Error": _ERROR,
}

REQUEST_EXAMPLE = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 160}
COMPLETION_EXAMPLE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_790_000_000,
    "model": "deepseek-chat",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10},
}
STREAM_EXAMPLE = (
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"deepseek-chat",'
    '"choices":[{"index":0,"delta":{"role":"assistant","content":"Hello!"},"finish_reason":null}]}\n\n'
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"deepseek-chat",'
    '"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
