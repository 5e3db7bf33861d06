"""Owns the response of an answered completion: Sanic's, but with its header lines made in one go.

Sanic checks and encodes every header of every response by itself, which is a tenth of an answer's cost with the dozen
headers that ours have. Their values are all our own (ids, counts, amounts), so nothing in them needs checking.
"""

from __future__ import annotations

from sanic.response import HTTPResponse

# Browsers may read these; anybody may ask, for the key is what decides.
ALLOW_ORIGIN = ("access-control-allow-origin", "*")
EXPOSE = (
    "access-control-expose-headers",
    "x-request-id, x-credits-charged, retry-after, retry-after-ms, x-should-retry, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
)


class Reply(HTTPResponse):
    """`own` are header lines of ours; what Sanic adds (length, connection, type) it adds as ever."""

    __slots__ = ("_own",)

    def __init__(self, body: bytes | None, status: int, own: dict[str, str], content_type: str) -> None:
        super().__init__(body, status, None, content_type)
        self._own = own

    @property
    def processed_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        text = ""
        for name, value in self._own.items():
            text += f"{name}: {value}\r\n"
        for name, value in self.headers.items():
            text += f"{name}: {value}\r\n"
        # One pair for all of them: a first name, and its value with the lines that follow it.
        return [(b"content-type", f"{self.content_type}\r\n{text}"[:-2].encode("ascii"))]
