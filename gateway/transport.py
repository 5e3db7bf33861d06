"""Owns how the client library is bent to calling providers: what it does for everybody, and a stream of events need not pay.

It sets a timer for every packet, parses no bytes after every event, and starts a task for every body. What is overridden
here belongs to the pinned version of the library.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_writer import StreamWriter

reused: ContextVar[bool] = ContextVar("reused", default=False)
"""Whether the request of this task got a connection that had served before: only such a one can have died unnoticed."""
# A body up to this size never waits for the provider to read: the system's buffers and the connection's take it.
_AT_ONCE_BYTES = 32 * 1024


async def read_some(content: aiohttp.StreamReader) -> bytes:
    """What has come of a body, or what comes next; empty at its end.

    Raises what broke the connection, but only when all that came before was read: the library would keep that to itself.
    """
    try:
        return await content.readany()
    except (aiohttp.ClientError, TimeoutError):
        pieces: Any = getattr(content, "_buffer", None)
        left = b"".join(pieces or ())
        if not left:
            raise
        pieces.clear()
        return left


class Protocol(ResponseHandler):
    _was_paused = False  # since the last request was sent

    def _reschedule_timeout(self) -> None:
        # The clock is looked at when the timer fires; a new timer for every packet would be dearer.
        self._heard_at = self._loop.time()
        if self._read_timeout_handle is None and self._read_timeout:
            self._read_timeout_handle = self._loop.call_later(self._read_timeout, self._on_read_timeout)

    def _on_read_timeout(self) -> None:
        self._read_timeout_handle = None
        left_s = self._heard_at + (self._read_timeout or 0.0) - self._loop.time()
        if left_s <= 0:
            super()._on_read_timeout()
        elif self._read_timeout:
            self._read_timeout_handle = self._loop.call_later(left_s, self._on_read_timeout)

    def data_received(self, data: bytes) -> None:
        payload = self._payload
        before = len(getattr(payload, "_buffer", ()))
        super().data_received(data)
        # The events of a packet are read one by one unless they are one.
        pieces: Any = getattr(self._payload, "_buffer", ())
        added = len(pieces) - before if payload is self._payload else len(pieces)
        if added > 1:
            latest = [pieces.pop() for _ in range(added)]
            pieces.append(b"".join(reversed(latest)))

    def pause_reading(self) -> None:
        self._was_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        # Asked after every piece of a body; without a pause there is nothing to resume. After one there may be even later:
        # the parser stops once more where it was paused at the very end of a packet.
        if self._was_paused:
            super().resume_reading(resume_parser)

    def begin_anew(self) -> None:
        """Wait for nothing until the next request is sent."""
        self._was_paused = False
        self._drop_timeout()

    def allow_silence(self, seconds: float) -> None:
        """From now on; a body that is whole already waits for nothing."""
        waits = self._read_timeout_handle is not None
        self._drop_timeout()
        self.read_timeout = seconds
        if waits:
            self._reschedule_timeout()


class Connector(aiohttp.TCPConnector):
    """Remembers in `reused` what kind of connection a request got."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        factory: Any = functools.partial(Protocol, loop=self._loop)
        self._factory = factory

    async def connect(self, *args: Any, **options: Any) -> Any:
        while True:
            connection = await super().connect(*args, **options)
            protocol: Any = connection.protocol
            is_reused = getattr(protocol, "served_before", False)
            # A large answer is read on after its end, and the library then waits for more, with nobody there: what ran out
            # among the idle connections would be the next request's failure, and so would what is about to.
            if is_reused and protocol.exception() is not None:
                connection.close()
                continue
            if is_reused:
                protocol.begin_anew()
            reused.set(is_reused)
            protocol.served_before = True
            return connection


class Request(aiohttp.ClientRequest):
    """A POST with a body of bytes and all of its headers given. A small one goes out at once, in no task of its own."""

    _at_once = b""

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        """None. Compressed answers are understood, but not asked for: they would cost more than the bytes they save."""

    def update_body_from_data(self, body: Any, _stacklevel: int = 3) -> None:
        if len(body) > _AT_ONCE_BYTES:
            super().update_body_from_data(body)
            return
        self._at_once = body
        self.headers["Content-Length"] = str(len(body))

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        if not self._at_once or protocol.writing_paused:
            # The library's way needs the body as it makes it; its length is in the headers already.
            if self._at_once:
                super().update_body_from_data(self._at_once)
            return await super().send(conn)
        writer = StreamWriter(protocol, self.loop)
        try:
            await writer.write_headers(f"{self.method} {self.url.raw_path_qs} HTTP/1.1", self.headers)
            await writer.write(self._at_once, drain=False)
            writer.set_eof()
        except OSError as error:
            raise aiohttp.ClientOSError(error.errno, "cannot write the request") from error
        protocol.start_timeout()
        return self.response_class(
            self.method,
            self.original_url,
            writer=None,
            continue100=None,
            timer=self._timer,
            request_info=self.request_info,
            traces=self._traces,
            loop=self.loop,
            session=self._session,
            stream_writer=writer,
        )
