"""Owns the client's side of a streamed answer: headers early, comments while the provider thinks, errors in band."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine
from typing import Any

import msgspec
from sanic import Request
from sanic.response import BaseHTTPResponse

from gateway import sse
from gateway.errors import error_object
from gateway.reply import Reply
from models.errors import DomainError

# Clients and proxies wait for headers; a provider that thinks first must not keep them waiting. But most begin at once,
# and then headers and first words share a packet.
HEADERS_AFTER_S = 0.02
_UNBUFFERED = "cache-control: no-cache\r\nx-accel-buffering: no\r\n"


class ClientStream:
    def __init__(self, request: Request, lines: str, write_timeout_s: float) -> None:
        self._request = request
        self._http: Any = request.stream
        self._lines = lines
        self._write_timeout_s = write_timeout_s
        self._response: BaseHTTPResponse | None = None
        self._closed = False
        self._opening: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent_at = time.monotonic()
        # The task that answers this request; shutting down interrupts it.
        protocol: Any = request.protocol
        self._loop: asyncio.AbstractEventLoop = protocol.loop
        self.task = asyncio.current_task(self._loop)
        self.interrupted = False
        # The charge is on its way: from here the answer is brought to its end whatever happens.
        self.settling = False

    @property
    def opened(self) -> bool:
        return self._response is not None

    def open_soon(self) -> None:
        """The provider has answered with its headers: send ours, unless its first words come within a moment."""
        if self._response is None and self._opening is None:
            self._opening = self._loop.call_later(HEADERS_AFTER_S, self._open_now)

    def _open_now(self) -> None:
        self._opening = None
        self._start(self.open())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def open_later(self) -> None:
        """The route failed before it said anything: its headers do not count."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None

    def close(self) -> None:
        """The request is over, however it ended."""
        self._closed = True
        self.open_later()

    async def open(self) -> None:
        """Send the headers, if they are not sent yet."""
        if not self._closed and self._respond():
            await self._send(b"")

    def _respond(self) -> bool:
        """Begin the response; its headers go out with the first bytes. False when it has begun already."""
        if self._response is not None:
            return False
        self.open_later()
        reply = Reply(None, 200, self._lines + _UNBUFFERED, "text/event-stream; charset=utf-8")
        # What `Request.respond` does, without its response middleware, of which there is none here.
        self._response = self._http.respond(reply)
        return True

    def send(self, data: bytes) -> Awaitable[None]:
        """Waits while the client reads slowly. Raises CancelledError when it is gone."""
        self.sent_at = time.monotonic()
        self._respond()
        return self._send(data)

    async def finish(self, data: bytes) -> None:
        """The last bytes and the end of the response, in one write."""
        self._respond()
        self._closed = True
        await self._send(data, end=True)

    async def fail(self, error: DomainError) -> None:
        """An error in band: the status is long gone. No `[DONE]`, no finish reason: nobody may take this for an answer."""
        await self.finish(sse.event(msgspec.json.encode({"error": error_object(error)})))

    def keep_alive(self, silent_s: float) -> None:
        """A comment, if nothing was sent for `silent_s`; in a task of its own, for this client may not be reading."""
        if self._closed or time.monotonic() - self.sent_at < silent_s:
            return
        self.sent_at = time.monotonic()
        self._start(self._comment())

    async def _comment(self) -> None:
        await self.open()
        transport: Any = self._request.transport
        if transport is not None and not self._closed and transport.get_write_buffer_size() == 0:
            await self._send(sse.KEEP_ALIVE)

    def _send(self, data: bytes, *, end: bool = False) -> Awaitable[None]:
        # What the response's own `send` does, and no coroutine around it: a stream has hundreds of these.
        sending: Awaitable[None] = self._http.send(data, end)
        transport: Any = self._request.transport
        return self._patiently(sending, transport) if transport and transport.get_write_buffer_size() else sending

    async def _patiently(self, sending: Awaitable[None], transport: Any) -> None:
        """The client is behind. It may take its time, but not for ever: what waits for it is kept in memory."""
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await sending
        except TimeoutError:
            transport.abort()
            raise asyncio.CancelledError("the client stopped reading") from None
