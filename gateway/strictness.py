"""Owns what a request must look like before it is read: whatever two servers could read in two ways is refused here.

Sanic takes a space before a colon, folded lines and bare line feeds as they come. A proxy in front of us may read another
length of the body in them, and would then take a part of one customer's body for a request of the next.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from sanic import Request, Sanic
from sanic.compat import Header
from sanic.exceptions import BadRequest, RequestTimeout
from sanic.models.protocol_types import TransportProtocol

_HEAD = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.[01](?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*)*")


# Sanic waits for a body as long as something of it comes; a body that comes byte by byte would be kept for days.
BODY_WITHIN_S = 120


class StrictRequest(Request):
    """Raises BadRequest, which closes the connection, for a head that is not exactly a request line and header lines."""

    def __init__(
        self,
        url_bytes: bytes,
        headers: Header,
        version: str,
        method: str,
        transport: TransportProtocol,
        app: Sanic[Any, Any],
        head: bytes = b"",
        stream_id: int = 0,
    ) -> None:
        # Sanic makes a request without a head for errors that come before one was read.
        if head and _HEAD.fullmatch(head) is None:
            raise BadRequest("The request's head is malformed.")
        super().__init__(url_bytes, headers, version, method, transport, app, head, stream_id)

    async def receive_body(self) -> None:
        """Raises RequestTimeout for a body that takes for ever."""
        stream: Any = self.stream
        if 0 < stream.request_bytes_left <= len(stream.recv_buffer):
            # It is here already, as nearly all are.
            await super().receive_body()  # type: ignore[no-untyped-call]
            return
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                await super().receive_body()  # type: ignore[no-untyped-call]
        except TimeoutError:
            # The rest of it is not waited for.
            stream.keep_alive = False
            stream.request_body = None
            raise RequestTimeout("The request's body did not arrive in time; send it again.") from None
