"""Owns the response of an answered completion: Sanic's, but with its header lines made in one go.

Sanic checks and encodes every header of every response by itself, which is a tenth of an answer's cost with the dozen
headers that ours have. Their values are all our own (ids, counts, amounts), so nothing in them needs checking.
"""

from __future__ import annotations

from sanic import Request
from sanic.response import HTTPResponse

# Browsers may read these; anybody may ask, for the key is what decides.
ALLOW_ORIGIN = ("access-control-allow-origin", "*")
EXPOSE = (
    "access-control-expose-headers",
    "x-request-id, x-credits-charged, retry-after, retry-after-ms, x-should-retry, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
)

_ALLOW_LINE = f"{ALLOW_ORIGIN[0]}: {ALLOW_ORIGIN[1]}\r\n"
_EXPOSE_LINE = f"{EXPOSE[0]}: {EXPOSE[1]}\r\n"


def cors_lines(request: Request) -> str:
    """What lets browsers read an answer; only they name their origin, and only they need to be told what to show."""
    return _ALLOW_LINE + _EXPOSE_LINE if "origin" in request.headers else _ALLOW_LINE


class Reply(HTTPResponse):
    """`lines` are header lines of ours, each ending with CRLF; Sanic adds its own (length, connection, type) as ever."""

    __slots__ = ("_lines",)

    def __init__(self, body: bytes | None, status: int, lines: str, content_type: str) -> None:
        super().__init__(body, status, None, content_type)
        self._lines = lines

    @property
    def processed_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        text = self._lines
        for name, value in self.headers.items():
            text += f"{name}: {value}\r\n"
        # One pair for all of them: a first name, and its value with the lines that follow it.
        return [(b"content-type", f"{self.content_type}\r\n{text}"[:-2].encode("ascii"))]
