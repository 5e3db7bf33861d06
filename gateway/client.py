"""Owns the client's side of a streamed answer: headers early, comments while the provider thinks, errors in band."""

from __future__ import annotations

import asyncio
import time

import msgspec
from sanic import Request
from sanic.response import BaseHTTPResponse

from gateway import sse
from gateway.errors import error_object
from gateway.reply import Reply
from models.errors import DomainError


class ClientStream:
    def __init__(self, request: Request, headers: dict[str, str], write_timeout_s: float) -> None:
        self._request = request
        self._headers = headers
        self._write_timeout_s = write_timeout_s
        self._response: BaseHTTPResponse | None = None
        self._closed = False
        self.sent_at = time.monotonic()
        # The task that answers this request; shutting down interrupts it.
        self.task = asyncio.current_task()
        self.interrupted = False
        # The charge is on its way: from here the answer is brought to its end whatever happens.
        self.settling = False

    @property
    def opened(self) -> bool:
        return self._response is not None

    async def open(self) -> None:
        """Send the headers, before there is anything to say: clients and proxies wait for them."""
        if self._response is None:
            headers = {**self._headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
            reply = Reply(None, 200, headers, "text/event-stream; charset=utf-8")
            self._response = await self._request.respond(reply)
            await self._send(b"")

    async def send(self, data: bytes) -> None:
        """Waits while the client reads slowly. Raises CancelledError when it is gone."""
        self.sent_at = time.monotonic()
        await self._send(data)

    async def finish(self, data: bytes) -> None:
        """The last bytes and the end of the response, in one write."""
        await self.open()
        self._closed = True
        await self._send(data, end=True)

    async def fail(self, error: DomainError) -> None:
        """An error in band: the status is long gone. No `[DONE]`, no finish reason: nobody may take this for an answer."""
        await self.finish(sse.event(msgspec.json.encode({"error": error_object(error)})))

    async def keep_alive(self, silent_s: float) -> None:
        """A comment, if nothing was sent for `silent_s`."""
        if self._closed or time.monotonic() - self.sent_at < silent_s:
            return
        self.sent_at = time.monotonic()
        await self.open()
        transport = self._request.transport
        if transport is not None and not self._closed and transport.get_write_buffer_size() == 0:
            await self._send(sse.KEEP_ALIVE)

    async def _send(self, data: bytes, *, end: bool = False) -> None:
        response = self._response
        assert response is not None
        transport = self._request.transport
        if transport is None or transport.get_write_buffer_size() == 0:
            await response.send(data, end)
            return
        # The client is behind. It may take its time, but not for ever: what waits for it is kept in memory.
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await response.send(data, end)
        except TimeoutError:
            transport.abort()
            raise asyncio.CancelledError("the client stopped reading") from None
