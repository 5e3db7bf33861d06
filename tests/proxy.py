"""Owns a TCP proxy that stands in front of a server and does to its connections what networks do: cut, freeze, delay.

It runs in a thread with an event loop of its own, so a test may command it from anywhere; a command has taken effect when
its call returns. It looks at no byte of what passes, so PostgreSQL, Redis and HTTP are all the same to it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import urllib.parse
from collections import deque
from collections.abc import Callable
from typing import Any

import uvloop

# Beyond this, one side is not read until the other has taken what is on its way.
_MOST_ON_ITS_WAY = 1024 * 1024
_RESET_WHEN_CLOSED = struct.pack("ii", 1, 0)


class Proxy:
    """A door of its own to the server of `url`; `url` of the proxy is the same with another port."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        default = {"postgres": 5432, "redis": 6379}.get(parts.scheme, 80)
        self._target = (parts.hostname or "127.0.0.1", parts.port or default)
        self._parts = parts
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        # Bound and never listening: it keeps the port ours while connections are refused.
        self._place = _bound(0)
        self.port = int(self._place.getsockname()[1])
        self.requests_pass, self.answers_pass, self.delay_s = True, True, 0.0

    @property
    def url(self) -> str:
        user = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{user[0]}{user[1]}127.0.0.1:{self.port}").geturl()

    # ── what can be done to it ────────────────────────────────────────────────────────────────────────────────────

    def pass_on(self) -> None:
        """As if it were not there. What was stuck goes on."""
        self._do(lambda: self._set(requests=True, answers=True))
        self._wait(self._listen())

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._do(self._close_listener)
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._do(lambda: [link.abort() for link in list(self._links)])

    def freeze(self) -> None:
        """Accept connections, and pass nothing either way, not even that somebody hung up."""
        self._do(lambda: self._set(requests=False, answers=False))

    def freeze_answers(self) -> None:
        """What clients send arrives; what the server says to it does not."""
        self._do(lambda: self._set(requests=True, answers=False))

    def slow_down(self, seconds: float) -> None:
        """Everything takes this much longer, each way, and stays in order; 0 is as quick as before."""
        self._do(lambda: setattr(self, "delay_s", seconds))

    @property
    def connections(self) -> int:
        return len(self._links)

    # ── its thread ────────────────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Proxy:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self._wait(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        # Connections that are being aborted end in the loop's next turn.
        self._wait(asyncio.sleep(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._place.close()

    def _wait(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _do(self, act: Callable[[], object]) -> None:
        async def acted() -> None:
            act()

        self._wait(acted())

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await self._loop.create_server(lambda: _Link(self), sock=_bound(self.port), backlog=1024)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _set(self, *, requests: bool, answers: bool) -> None:
        self.requests_pass, self.answers_pass = requests, answers
        # What was stuck may be the end of a connection, which then is no more among them.
        for link in list(self._links):
            link.look_again()


class _Link(asyncio.Protocol):
    """One client's connection and ours to the server; each side has a queue of what is on its way to the other."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy, self._loop = proxy, proxy._loop
        self.requests = _Way(self, lambda: proxy.requests_pass)
        self.answers = _Way(self, lambda: proxy.answers_pass)

    def connection_made(self, transport: Any) -> None:
        self._proxy._links.add(self)
        self.requests.source = self.answers.target = transport
        self._connecting = self._loop.create_task(self._connect())
        self.look_again()

    async def _connect(self) -> None:
        try:
            await self._loop.create_connection(lambda: _Server(self), *self._proxy._target)
        except OSError:
            self.abort()

    def look_again(self) -> None:
        self.requests.pump()
        self.answers.pump()

    def abort(self) -> None:
        """Reset both ends."""
        self._proxy._links.discard(self)
        self._connecting.cancel()
        for transport in (self.requests.source, self.answers.source):
            if transport is not None:
                _reset(transport)

    def ended(self) -> None:
        """Both have said all that they had to say, and it was passed on."""
        if self.requests.has_ended and self.answers.has_ended:
            self._proxy._links.discard(self)
            self.requests.source.close()
            self.answers.source.close()

    # What the client's transport tells; the server's goes through `_Server`.

    def data_received(self, data: bytes) -> None:
        self.requests.take(data)

    def eof_received(self) -> bool:
        self.requests.take(b"")
        return True

    def pause_writing(self) -> None:
        self.answers.is_full = True
        self.answers.pump()

    def resume_writing(self) -> None:
        self.answers.is_full = False
        self.answers.pump()

    def connection_lost(self, error: Exception | None) -> None:
        # One end was reset or could not be written to: so is the other.
        if self in self._proxy._links:
            self.abort()


class _Server(asyncio.Protocol):
    """The server's end of a link."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def connection_made(self, transport: Any) -> None:
        self._link.requests.target = self._link.answers.source = transport
        if self._link not in self._link._proxy._links:
            transport.abort()
        self._link.look_again()

    def data_received(self, data: bytes) -> None:
        self._link.answers.take(data)

    def eof_received(self) -> bool:
        self._link.answers.take(b"")
        return True

    def pause_writing(self) -> None:
        self._link.requests.is_full = True
        self._link.requests.pump()

    def resume_writing(self) -> None:
        self._link.requests.is_full = False
        self._link.requests.pump()

    def connection_lost(self, error: Exception | None) -> None:
        self._link.connection_lost(error)


class _Way:
    """One direction: read from `source`, kept while it must not pass or is not due, written to `target`."""

    def __init__(self, link: _Link, is_open: Callable[[], bool]) -> None:
        self.source: Any = None
        self.target: Any = None
        self.is_full = False
        self.has_ended = False
        self._link, self._is_open = link, is_open
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._is_read = True
        self._timer: asyncio.TimerHandle | None = None

    def take(self, data: bytes) -> None:
        """Bytes to pass on; none are the end."""
        self._queue.append((self._link._loop.time() + self._link._proxy.delay_s, data))
        self._queued += len(data)
        self.pump()

    def pump(self) -> None:
        while self._queue and self._may_write():
            due, data = self._queue[0]
            if due > self._link._loop.time():
                self._timer = self._timer or self._link._loop.call_at(due + 0.0005, self._on_time)
                break
            self._queue.popleft()
            self._queued -= len(data)
            self._write(data)
        self._read_on(self._is_open() and not self.is_full and self._queued < _MOST_ON_ITS_WAY)

    def _may_write(self) -> bool:
        return self.target is not None and not self.target.is_closing() and self._is_open() and not self.is_full

    def _on_time(self) -> None:
        self._timer = None
        self.pump()

    def _write(self, data: bytes) -> None:
        if data:
            self.target.write(data)
        else:
            self.target.write_eof()
            self.has_ended = True
            self._link.ended()

    def _read_on(self, wanted: bool) -> None:
        """A side that is not read tells nothing: its bytes, and its end, wait in the kernel."""
        if self.source is None or wanted == self._is_read or self.source.is_closing():
            return
        self._is_read = wanted
        if wanted:
            self.source.resume_reading()
        else:
            self.source.pause_reading()


def _bound(port: int) -> socket.socket:
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind(("127.0.0.1", port))
    return door


def _reset(transport: Any) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_WHEN_CLOSED)
    transport.abort()
