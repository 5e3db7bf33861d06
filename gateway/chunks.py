"""Owns what a usual event of a stream looks like: one choice, text or a finish, nothing else. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw


class Delta(msgspec.Struct, forbid_unknown_fields=True):
    role: str | None = None
    content: str | None = None
    refusal: None = None


class Choice(msgspec.Struct):
    index: int
    delta: Delta
    finish_reason: str | None
    error: None = None


class UsualChunk(msgspec.Struct):
    id: str
    object: Literal["chat.completion.chunk"]
    model: str
    choices: list[Choice]
    usage: Raw = Raw()
    error: None = None


_decode = msgspec.json.Decoder(UsualChunk).decode


def read_usual_chunk(data: bytes) -> UsualChunk | None:
    """None for an event that is more than this, or less."""
    try:
        chunk = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return chunk if len(chunk.choices) == 1 and chunk.id else None
