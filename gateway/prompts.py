"""Owns how much a prompt holds: bytes of text, media parts, messages; and what is wrong with a message. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from models.errors import InvalidRequest

NULL = Raw(b"null")
_TEXT_PARTS = frozenset(["text", "refusal"])
_MEDIA_PARTS = frozenset(["image_url", "input_audio", "file", "video_url", "audio_url", "image", "input_image"])


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """What most messages are."""

    role: str
    content: str


_plain_messages = msgspec.json.Decoder(list[_Plain])
_objects = msgspec.json.Decoder(list[dict[str, Raw]])
_string = msgspec.json.Decoder(str)
_any = msgspec.json.Decoder()


def measure(raw: Raw) -> tuple[int, int, int]:
    """(bytes of text, media parts, messages). Base64 of media is never counted as text."""
    try:
        plain = _plain_messages.decode(raw)
        if plain:
            return sum([_utf8_length(message.content) for message in plain]), 0, len(plain)
    except (msgspec.DecodeError, RecursionError):
        # Something else is in it; the careful way finds out what, and names what is wrong.
        plain = []
    try:
        messages = _objects.decode(raw)
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
        parts = _objects.decode(raw)
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
        name = decode(kind)
        if name not in _MEDIA_PARTS:
            # Text, or something of a provider's own that may hold any amount of it.
            media += name not in _TEXT_PARTS
            text += sum(
                _text_length(value, f"messages[{i}].content[{j}]") for key, value in part.items() if key != "type"
            )
        else:
            media += 1
            if "text" in part:
                text += _text_length(part["text"], f"messages[{i}].content[{j}].text")
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


def texts_of(raw: Raw) -> list[str]:
    """All text in messages or tools, for an estimate."""
    found: list[str] = []
    try:
        _collect_text(_any.decode(raw), found)
    except (msgspec.DecodeError, RecursionError):
        # A number beyond every range, say. The provider took it, so it is too late to refuse.
        found.append(bytes(raw).decode())
    return found


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


def decode(raw: Raw) -> Any:
    try:
        return _any.decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise InvalidRequest("The body is not valid JSON.", code="invalid_json") from None
