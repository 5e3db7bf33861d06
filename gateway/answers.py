"""Owns a whole (not streamed) answer: whether it is one, what it used, and its bytes under the alias's name. Pure."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Raw

from gateway.loose_json import NotJson, read_fields
from gateway.metering import meters_from_usage
from models.prices import Meters

_decode_choices = msgspec.json.Decoder(list[dict[str, Any]]).decode
_encode = msgspec.json.Encoder().encode
_NULL = Raw(b"null")


class NotAnAnswer(Exception):
    """The provider's body is an error or no completion. `str()` is for our log and quotes nothing of it."""


class Answer(msgspec.Struct):
    body: bytes
    meters: Meters | None
    fields: dict[str, Raw]

    def text(self) -> str:
        """Everything the model wrote, for an estimate when nobody counted it."""
        parts: list[str] = []
        try:
            choices = _decode_choices(self.fields["choices"])
        except (msgspec.DecodeError, RecursionError):
            return bytes(self.fields["choices"]).decode("utf-8", "replace")
        for choice in choices:
            message = choice.get("message")
            if not isinstance(message, dict):
                continue
            for name in ("content", "reasoning_content", "reasoning", "refusal"):
                if isinstance(message.get(name), str):
                    parts.append(message[name])
            if message.get("tool_calls"):
                parts.append(json.dumps(message["tool_calls"]))
        return "\n".join(parts)


def read_answer(body: bytes, alias: str) -> Answer:
    """Raises NotAnAnswer."""
    try:
        fields = read_fields(body)
    except NotJson as error:
        raise NotAnAnswer(str(error)) from None
    if fields.get("error", _NULL) != _NULL:
        raise NotAnAnswer("an error with status 200")
    head = bytes(memoryview(fields.get("choices", _NULL))[:64])
    if head[:1] != b"[" or head[1:].lstrip()[:1] != b"{":
        raise NotAnAnswer("no choices")
    if b'"error"' in body and _has_failed_choice(fields["choices"]):
        raise NotAnAnswer("an error in a choice")
    usage = fields.get("usage", _NULL)
    meters = None if usage == _NULL else meters_from_usage(usage)
    if usage == _NULL:
        fields.pop("usage", None)
    fields["model"] = Raw(_encode(alias))
    fields.setdefault("object", Raw(b'"chat.completion"'))
    return Answer(_encode(fields), meters, fields)


def _has_failed_choice(choices: Raw) -> bool:
    """Some providers say inside a choice that they failed."""
    try:
        found = _decode_choices(choices)
    except (msgspec.DecodeError, RecursionError):
        return False
    return any(choice.get("error") is not None or choice.get("finish_reason") == "error" for choice in found)
