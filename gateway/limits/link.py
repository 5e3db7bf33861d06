"""Owns the connection to Redis: one question at a time, each bounded by the time for which the event loop was awake.

Redis counts as slow when it says nothing for 50 ms. A clock alone cannot tell: when this worker itself was busy for 50 ms, the
answer lies in the socket unread, or the question has not even left. So the bound is counted in ticks of 10 ms, and a tick
that comes late is one tick: between two of them the loop has looked at the socket at least once.

The connection is redis-py's own, without its pool and client: one connection needs neither, and a call costs half (32 µs
instead of 66, measured with uvloop). A call that is cancelled on its way closes the connection, so that no later question
gets its answer; redis-py does so on every exception. Nothing is retried here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, cast

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError

from gateway.limits.question import PART, SCRIPT, Question
from models.errors import SetupError

BOUND_S = 0.05
_TICKS = 5
# Nobody waits for a connection to be made, and over TLS or a long way it takes more than the bound of a question.
_CONNECT_S = 1.0
_CHECK_S = 2.0


class RedisAway(Exception):
    """Redis did not answer, not in time, or with an error."""


class Link:
    def __init__(self, url: str, script: str, bound_s: float = BOUND_S) -> None:
        """Raises SetupError when the URL is none."""
        try:
            pool = aioredis.ConnectionPool.from_url(
                url,
                protocol=2,
                decode_responses=False,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=None,  # `_tick` bounds every call; redis-py's own bound costs a task a call
                socket_connect_timeout=_CONNECT_S,
                driver_info=None,
            )
        except ValueError as error:
            raise SetupError(f"GATEWAY_REDIS_URL: {error}; write redis://host:port/number") from None
        make_connection: Callable[[], Any] = pool.make_connection
        self._connection = make_connection()  # redis-py leaves it untyped
        self._script = script
        self._sha = hashlib.sha1(script.encode()).hexdigest()
        self._tick_s = bound_s / _TICKS
        self._bound: asyncio.Timeout | None = None
        self._asked = self._seen = self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None

    async def connect(self) -> None:
        """A new connection, over which Redis has answered once. Raises RedisAway."""
        try:
            await self._connection.disconnect(nowait=True)
            async with asyncio.timeout(_CONNECT_S):
                await self._connection.connect()
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisAway(f"no connection: {error}") from error
        # A frozen Redis still accepts connections, and would carry out later whatever it was sent by them.
        await self._call("PING")

    async def ask(self, payload: bytes) -> bytes:
        """The script's answer to `payload`. Raises RedisAway within the bound, and the connection is closed then."""
        try:
            return cast(bytes, await self._call("EVALSHA", self._sha, 0, payload))
        except NoScriptError:
            # It was restarted or flushed; this teaches it the script, too.
            return cast(bytes, await self._call("EVAL", self._script, 0, payload))

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._connection.disconnect(nowait=True)

    async def _call(self, *command: Any) -> Any:
        if not self._connection.is_connected:
            raise RedisAway("not connected")
        connection = self._connection
        assert self._bound is None, "one question at a time"
        try:
            async with asyncio.timeout(None) as self._bound:
                self._asked += 1
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)
                await connection.send_packed_command(connection.pack_command(*command))
                return await connection.read_response()
        except NoScriptError:
            raise
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:
            # A RuntimeError is how uvloop refuses to write to a connection that was reset a moment ago.
            await connection.disconnect(nowait=True)
            raise RedisAway(str(error) or f"no answer within {self._tick_s * _TICKS * 1000:.0f} ms") from error
        finally:
            self._bound = None

    def _tick(self) -> None:
        """Runs while there is something to wait for, rather than once a call: it costs a busy worker 100 calls a second."""
        if self._bound is None:
            self._timer = None
            return
        loop = asyncio.get_running_loop()
        if self._seen != self._asked:
            self._seen, self._ticks = self._asked, 0
        else:
            self._ticks += 1
            if self._ticks == _TICKS:
                self._bound.reschedule(loop.time())
        self._timer = loop.call_later(self._tick_s, self._tick)


async def check_redis(url: str) -> None:
    """Raises SetupError with the remedy unless a Redis primary answers at `url` within 2 s."""
    link = Link(url, SCRIPT, bound_s=_CHECK_S)
    try:
        async with asyncio.timeout(_CHECK_S):
            await link.connect()
            # It tries to write, which a replica or a member of a cluster refuses, but there is nothing to write.
            await link.ask(Question().payload(PART, "nobody", 0, "gateway:", 0, ["nobody"]))
    except (RedisAway, TimeoutError) as error:
        raise SetupError(f"GATEWAY_REDIS_URL: {_without_password(url)}: {_remedy(error)}") from None
    finally:
        await link.close()


def _remedy(error: Exception) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, AuthenticationError):
        return f"{cause}; write user and password, as redis://user:password@host:port/0"
    if isinstance(cause, ResponseError):
        return f"{cause}; this must be a single Redis primary that may be written to"
    return "no Redis answers there; start it, or correct the address"


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
