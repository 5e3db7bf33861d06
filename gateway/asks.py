"""Owns reading a chat completion's body: what the gateway needs of it, what it refuses, and the body it sends upstream.

Everything else passes through with its very bytes: the body is taken apart into raw fields, a few are replaced, and it is
put together again, so numbers keep their digits and unknown fields their meaning.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from models.errors import InvalidRequest, UnreadableBody

NULL, TRUE, FALSE = Raw(b"null"), Raw(b"true"), Raw(b"false")
MOST_TOKENS = 2**31 - 1
MOST_CHOICES = 128
TOKENS_PER_MESSAGE = 16

# Each would change model, provider or cost behind the price.
_UNBILLABLE = frozenset(
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
        "audio",
    ]
)
_CHECKED = frozenset(["modalities", "service_tier", "tools"]) | _UNBILLABLE
_PROMPT_FIELDS = ("tools", "functions", "response_format", "prediction")
_TEXT_PARTS = frozenset(["text", "refusal"])

_Fields = dict[str, Raw]
_fields = msgspec.json.Decoder(_Fields)
_messages = msgspec.json.Decoder(list[_Fields])
_parts = msgspec.json.Decoder(list[_Fields])


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """What most messages are."""

    role: str
    content: str


_plain_messages = msgspec.json.Decoder(list[_Plain])
_string = msgspec.json.Decoder(str)
_any = msgspec.json.Decoder()
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
                raw = self.fields[name]
                try:
                    _collect_text(_any.decode(raw), found)
                except (msgspec.DecodeError, RecursionError):
                    # A number beyond every range, say. The provider took it, so it is too late to refuse.
                    found.append(bytes(raw).decode())
        return "\n".join(found)

    def body_for(self, upstream_model: str, *, bound: int | None, max_tokens_field: str) -> bytes:
        """The body that goes to a provider. `bound` is the most output tokens that the hold covers."""
        fields = dict(self.fields)
        fields["model"] = Raw(_encode(upstream_model))
        if bound is not None:
            fields[self.max_tokens_field or max_tokens_field] = Raw(b"%d" % bound)
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
    text_bytes, media_parts, count = _measure(messages)
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
        text = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(
            f"The body is not a JSON object: {text}. Send the fields `model` and `messages` as JSON.",
            code="invalid_json",
        ) from None
    # null is absent, for every field; the provider is not bothered with it either where we read it.
    if b"null" in body:
        for name in [name for name, raw in fields.items() if name in _READ and raw == NULL]:
            del fields[name]
    return fields


_READ = _CHECKED | {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"}


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
    value = _decode(raw)
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
    options = _decode(raw)
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
    for name in _UNBILLABLE.intersection(fields):
        raise InvalidRequest(
            f"`{name}` is not supported: it would change the model, the provider or the cost behind its price. "
            "Remove it from the request.",
            param=name,
            code="unsupported_parameter",
        )
    if "modalities" in fields and _decode(fields["modalities"]) != ["text"]:
        raise InvalidRequest('`modalities` may only be ["text"].', param="modalities", code="unsupported_parameter")
    if "service_tier" in fields and _decode(fields["service_tier"]) not in ("auto", "default"):
        raise InvalidRequest(
            '`service_tier` may only be "auto" or "default": other tiers have other prices.',
            param="service_tier",
            code="unsupported_parameter",
        )
    if "tools" in fields:
        _check_tools(_decode(fields["tools"]))


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


# ── messages: how much text, how many images ──────────────────────────────────────────────────────────────────────


def _measure(raw: Raw) -> tuple[int, int, int]:
    """(bytes of text, media parts, messages). Base64 of media is never counted as text."""
    try:
        plain = _plain_messages.decode(raw)
        if plain:
            return sum([_utf8_length(message.content) for message in plain]), 0, len(plain)
    except (msgspec.DecodeError, RecursionError):
        # Something else is in it; the careful way finds out what, and names what is wrong.
        plain = []
    try:
        messages = _messages.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest("`messages` must be a list of message objects.", param="messages") from None
    if not messages:
        raise InvalidRequest("`messages` must have at least one message.", param="messages")
    text_bytes = media_parts = 0
    for i, message in enumerate(messages):
        role = message.get("role")
        if role is None or _head(role) != b'"':
            raise InvalidRequest(
                f"`messages[{i}].role` must be a string such as system, user, assistant or tool.",
                param=f"messages[{i}].role",
            )
        for name, value in message.items():
            if name == "content":
                more_text, more_media = _measure_content(value, i)
                text_bytes += more_text
                media_parts += more_media
            elif name != "role" and value != NULL:
                text_bytes += _text_length(value, f"messages[{i}].{name}")
    return text_bytes, media_parts, len(messages)


def _measure_content(raw: Raw, i: int) -> tuple[int, int]:
    start = _head(raw)
    if start == b'"':
        return _text_length(raw, f"messages[{i}].content"), 0
    if start == b"n":
        return 0, 0
    try:
        parts = _parts.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest(
            f"`messages[{i}].content` must be a string, null or a list of parts.", param=f"messages[{i}].content"
        ) from None
    text = media = 0
    for j, part in enumerate(parts):
        kind = part.get("type")
        if kind is None or _head(kind) != b'"':
            raise InvalidRequest(
                f"`messages[{i}].content[{j}].type` must be a string such as text or image_url.",
                param=f"messages[{i}].content[{j}].type",
            )
        name = _decode(kind)
        if name in _TEXT_PARTS:
            text += sum(
                _text_length(value, f"messages[{i}].content[{j}]") for key, value in part.items() if key != "type"
            )
        else:
            media += 1
    return text, media


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _text_length(raw: Raw, param: str) -> int:
    """UTF-8 bytes of a JSON string; of anything else the bytes as they stand."""
    if _head(raw) != b'"':
        return len(raw)
    if b"\\" not in bytes(raw):
        return len(raw) - 2
    try:
        return len(_string.decode(raw).encode())
    except (msgspec.DecodeError, ValueError):
        raise InvalidRequest(f"`{param}` is not valid text.", param=param) from None


def _collect_text(value: Any, found: list[str]) -> None:
    if isinstance(value, str):
        # Media comes as data URLs and base64; it is counted by the part, not by its letters.
        if not value.startswith("data:"):
            found.append(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in ("image_url", "input_audio", "file", "role", "type"):
                _collect_text(item, found)
    elif isinstance(value, list):
        for item in value:
            _collect_text(item, found)


def _head(raw: Raw) -> bytes:
    return bytes(memoryview(raw)[:1])


def _decode(raw: Raw) -> Any:
    try:
        return _any.decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise InvalidRequest("The body is not valid JSON.", code="invalid_json") from None
