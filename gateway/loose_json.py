"""Owns reading what providers send as JSON and what is not quite that: NaN, and halves of characters. Pure."""

from __future__ import annotations

import json
import re

import msgspec
from msgspec import Raw

_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
# Every escape of a JSON string; the group is half of a character beyond U+FFFF, without its other half.
_ESCAPES = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)


class NotJson(ValueError):
    """Not an object in JSON, however generously read."""


def read_fields(data: bytes) -> dict[str, Raw]:
    """The fields of an object with their own bytes. Raises NotJson.

    Providers that cut text between UTF-16 halves send each half as an escape; neither means anything alone. Others write
    NaN; what goes on to the client is null, for nobody but Python reads it.
    """
    try:
        return _decode_fields(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        mended = _ESCAPES.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)
    try:
        value = json.loads(mended.decode("utf-8", "replace"), parse_constant=lambda _name: None)
        if isinstance(value, dict):
            return {name: Raw(_encode(item)) for name, item in value.items()}
    except (ValueError, RecursionError):
        raise NotJson("not JSON") from None
    raise NotJson("not a JSON object")
