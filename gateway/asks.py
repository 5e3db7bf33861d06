"""Owns reading a chat completion's body: what the gateway needs of it, what it refuses, and the body it sends upstream.

Everything else passes through with its very bytes: the body is taken apart into raw fields, a few are replaced, and it is
put together again, so numbers keep their digits and unknown fields their meaning.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Raw

from gateway.prompts import NULL, decode, measure, texts_of
from models.errors import InvalidRequest, UnreadableBody

TRUE, FALSE = Raw(b"true"), Raw(b"false")
MOST_TOKENS = 2**31 - 1
AS_GIVEN = "as_given"
MOST_CHOICES = 128
TOKENS_PER_MESSAGE = 16

# Each would change model, provider or cost behind the price.
UNBILLABLE = frozenset(
    [
        "models",
        "provider",
        "route",
        "fallbacks",
        "plugins",
        "api_base",
        "base_url",
        "api_key",
        "extra_headers",
        "web_search_options",
        "search_parameters",
        "search_options",
        "enable_search",
        "preset",
        "audio",
    ]
)
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_CHECKED = frozenset(["modalities", "service_tier", "tools"]) | UNBILLABLE
_PROMPT_FIELDS = ("tools", "functions", "response_format", "prediction", "documents", "system", "chat_template")

_Fields = dict[str, Raw]
_fields = msgspec.json.Decoder(_Fields)
_string = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


class Ask(msgspec.Struct):
    """A request for a completion, as far as billing and routing must understand it."""

    fields: _Fields
    model: str
    stream: bool
    wants_usage: bool
    max_tokens: int | None
    max_tokens_field: str | None
    n: int
    text_bytes: int
    media_parts: int
    messages: int

    def input_ceiling(self, context_tokens: int, media_tokens: int) -> int:
        """No input can have more tokens: each is at least one byte of text, and templates add a few a message."""
        most = self.text_bytes + TOKENS_PER_MESSAGE * self.messages + media_tokens * self.media_parts
        return min(context_tokens, most)

    def input_estimate(self) -> int:
        """What the input will probably be, for token limits."""
        return self.text_bytes // 4 + 4 * self.messages + 1_000 * self.media_parts

    def prompt_text(self) -> str:
        """All text of the messages and tools, for an estimate."""
        found: list[str] = []
        for name in ("messages", *_PROMPT_FIELDS):
            if name in self.fields:
                found += texts_of(self.fields[name])
        return "\n".join(found)

    def body_for(self, upstream_model: str, *, bound: int | None, max_tokens_field: str) -> bytes:
        """The body that goes to a provider. `bound` is the most output tokens that the hold covers."""
        fields = dict(self.fields)
        fields["model"] = Raw(_encode(upstream_model))
        if bound is not None:
            # Under the provider's own name for it, where the operator has said which that is.
            given = self.max_tokens_field
            name = max_tokens_field if max_tokens_field != AS_GIVEN else given or "max_tokens"
            if given is not None and given != name:
                del fields[given]
            fields[name] = Raw(b"%d" % bound)
        if self.stream and not self.wants_usage:
            options = {}
            if "stream_options" in fields:
                options = _fields.decode(fields["stream_options"])
            options["include_usage"] = TRUE
            fields["stream_options"] = Raw(_encode(options))
        elif not self.stream:
            fields.pop("stream_options", None)
        return _encode(fields)


def check_encoding(encoding: str | None) -> None:
    """Raises UnreadableBody for a compressed body."""
    if encoding and encoding.lower() != "identity":
        raise UnreadableBody("This body has a Content-Encoding; send it as plain JSON.", code="unsupported_media_type")


def read_ask(body: bytes) -> Ask:
    """Raises InvalidRequest naming the field."""
    fields = _read_fields(body)
    model = _string_field(fields, "model")
    stream = _flag(fields, "stream")
    messages = fields.get("messages")
    if messages is None:
        raise _missing_messages(fields)
    if not _CHECKED.isdisjoint(fields):
        _refuse_unbillable(fields)
    text_bytes, media_parts, count = measure(messages)
    for name in _PROMPT_FIELDS:
        if name in fields:
            text_bytes += len(fields[name])
    name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    max_tokens = _bounded(fields, name, MOST_TOKENS)
    if name == "max_completion_tokens":
        _bounded(fields, "max_tokens", MOST_TOKENS)
        fields.pop("max_tokens", None)
    return Ask(
        fields=fields,
        model=model,
        stream=stream,
        wants_usage=_wants_usage(fields),
        max_tokens=max_tokens,
        max_tokens_field=None if max_tokens is None else name,
        n=_bounded(fields, "n", MOST_CHOICES) or 1,
        text_bytes=text_bytes,
        media_parts=media_parts,
        messages=count,
    )


def _read_fields(body: bytes) -> _Fields:
    try:
        if not body.isascii():
            body.decode()
        fields = _fields.decode(body)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not valid UTF-8.", code="invalid_json") from None
    except (msgspec.DecodeError, RecursionError) as error:
        text = "it is nested too deeply" if isinstance(error, RecursionError) else _what_is_wrong(body, error)
        raise InvalidRequest(
            f"The body is not a JSON object: {text}. Send the fields `model` and `messages` as JSON.",
            code="invalid_json",
        ) from None
    for name in fields:
        if name not in READ and not (name.isascii() and name.islower()) and name.casefold() in READ:
            # Some providers read names whatever their case, and the last one wins.
            raise InvalidRequest(
                f"`{name}` must be written `{name.casefold()}`.", param=name, code="unsupported_parameter"
            )
    # null is absent, for every field; the provider is not bothered with it either where we read it.
    if b"null" in body:
        for name in [name for name, raw in fields.items() if name in READ and raw == NULL]:
            del fields[name]
    return fields


def _what_is_wrong(body: bytes, error: msgspec.DecodeError) -> str:
    """The parser's own words, except where they mislead: it calls half of a surrogate pair a truncated body."""
    if "truncated" in str(error) and _HALF_PAIR.search(body):
        return "it holds half of a character (a \\uD800 to \\uDFFF escape alone); cut text between characters"
    return str(error)


# The fields that mean something here; all others pass through.
READ = _CHECKED | {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"}


def _string_field(fields: _Fields, name: str) -> str:
    if name not in fields:
        raise InvalidRequest(f"`{name}` is missing: give a model alias as GET /v1/models lists it.", param=name)
    try:
        value = _string.decode(fields[name])
    except (msgspec.DecodeError, ValueError):
        raise InvalidRequest(f"`{name}` must be a string.", param=name) from None
    if not value:
        raise InvalidRequest(f"`{name}` must not be empty.", param=name)
    return value


def _flag(fields: _Fields, name: str) -> bool:
    raw = fields.get(name)
    if raw is None or raw == FALSE:
        return False
    if raw == TRUE:
        return True
    raise InvalidRequest(f"`{name}` must be true or false.", param=name)


def _bounded(fields: _Fields, name: str, most: int) -> int | None:
    raw = fields.get(name)
    if raw is None:
        return None
    value = decode(raw)
    if type(value) is float and value.is_integer():
        # Some languages know no whole numbers: 160.0 is one. Providers get it written as such.
        value = int(value)
        fields[name] = Raw(b"%d" % value)
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidRequest(f"`{name}` must be a whole number from 1 to {most}.", param=name)
    return value


def _wants_usage(fields: _Fields) -> bool:
    raw = fields.get("stream_options")
    if raw is None:
        return False
    options = decode(raw)
    if not isinstance(options, dict):
        raise InvalidRequest("`stream_options` must be an object.", param="stream_options")
    wants = options.get("include_usage")
    if wants is not None and not isinstance(wants, bool):
        raise InvalidRequest(
            "`stream_options.include_usage` must be true or false.", param="stream_options.include_usage"
        )
    return bool(wants)


def _missing_messages(fields: _Fields) -> InvalidRequest:
    if "input" in fields:
        return InvalidRequest(
            "This body is for the Responses API (`input`). This endpoint is Chat Completions: send `messages`, or set "
            "your client to use chat completions.",
            param="messages",
            code="responses_body",
        )
    return InvalidRequest("`messages` is missing: give a list with at least one message.", param="messages")


def _refuse_unbillable(fields: _Fields) -> None:
    for name in UNBILLABLE.intersection(fields):
        if fields[name] == FALSE:
            continue
        raise InvalidRequest(
            f"`{name}` is not supported: it would change the model, the provider or the cost behind its price. "
            "Remove it from the request.",
            param=name,
            code="unsupported_parameter",
        )
    if "modalities" in fields and decode(fields["modalities"]) != ["text"]:
        raise InvalidRequest('`modalities` may only be ["text"].', param="modalities", code="unsupported_parameter")
    if "service_tier" in fields and decode(fields["service_tier"]) not in ("auto", "default"):
        raise InvalidRequest(
            '`service_tier` may only be "auto" or "default": other tiers have other prices.',
            param="service_tier",
            code="unsupported_parameter",
        )
    if "tools" in fields:
        _check_tools(decode(fields["tools"]))


def _check_tools(tools: Any) -> None:
    if not isinstance(tools, list):
        raise InvalidRequest("`tools` must be a list.", param="tools")
    for i, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in ("function", "custom"):
            raise InvalidRequest(
                f"`tools[{i}].type` must be function: tools hosted by a provider have a price of their own.",
                param=f"tools[{i}].type",
                code="unsupported_parameter",
            )
