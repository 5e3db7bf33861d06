"""Owns what a browser sent, before anybody looks at it: the cookies, and the fields of forms and addresses, within bounds.

Sanic reads more than browsers send: forms in parts, each in an encoding of the sender's choice; and a cookie under other
names as well (`__Secure-__Host-a` for `__Host-a`), which a neighbouring host may set. Here only what is meant counts.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from sanic import Request
from sanic.cookies.request import parse_cookie
from sanic.exceptions import PayloadTooLarge

MOST_FORM_BYTES = 256 * 1024
# Reading a form keeps everybody else of this process waiting, so who has not signed in may send what a door needs: a
# password of a thousand letters, however they are written. The longest form of all has a box for each model.
MOST_STRANGERS_BYTES = 16 * 1024
MOST_FIELDS = 5_000
_FORM = "application/x-www-form-urlencoded"

Fields = dict[str, list[str]]


async def read_form(request: Request, most_bytes: int) -> str:
    """A form as it was sent; nothing of any other kind of body. Raises PayloadTooLarge, which closes the connection."""
    stream: Any = request.stream
    # The bodies of /v1 may be much larger.
    stream.request_max_size = min(stream.request_max_size, most_bytes)
    await request.receive_body()  # type: ignore[no-untyped-call]
    if request.headers.getone("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return ""
    return request.body.decode("utf-8", "replace")


def fields_of(text: str) -> Fields:
    """The fields of a form's body or of an address. No database stores a NUL, so none gets that far.

    Raises PayloadTooLarge for more of them than any form of ours has.
    """
    if text.count("&") >= MOST_FIELDS:
        raise PayloadTooLarge(f"more than {MOST_FIELDS} fields")
    return {
        _storable(name): [_storable(value) for value in values]
        for name, values in parse_qs(text, keep_blank_values=False, errors="replace").items()
    }


def cookie_of(request: Request, name: str) -> str:
    """The cookie of exactly this name, or nothing. Of several the first: browsers send the most specific one first."""
    for line in request.headers.getall("cookie", []):
        for value in parse_cookie(line).get(name, []):
            return value if value.isascii() else ""
    return ""


def _storable(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
