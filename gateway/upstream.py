"""Owns calling a provider: one tuned client session a worker, every timeout set on purpose, failures told apart."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractCookieJar

from gateway.catalog import Route
from gateway.settings import Settings
from gateway.transport import Connector, Protocol, Request, reused
from models.errors import UpstreamRejected

# The client's own mistakes: passed on, never retried elsewhere. Everything else is between us and the provider.
CLIENT_MISTAKES = frozenset([400, 413, 422])
_MOST_ERROR_BYTES = 64 * 1024
_MOST_ANSWER_BYTES = 32 * 1024 * 1024
_MOST_MESSAGE_CHARS = 2_000
_LONGEST_REST_S = 300.0


class AttemptFailed(Exception):
    """One route did not answer. `status` is the provider's, or 0; `dead` says that a kept-alive connection had died."""

    def __init__(self, reason: str, *, status: int = 0, dead: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.dead = dead
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> str:
        """One of few, for those who count: the provider's status, or what our reason begins with."""
        return str(self.status) if self.status not in (0, 200) else str(self).partition(":")[0].replace(" ", "_")


class Upstream:
    def __init__(self, settings: Settings) -> None:
        self._idle_s = settings.upstream_idle_timeout_s
        jar: AbstractCookieJar = aiohttp.DummyCookieJar()
        self._session = aiohttp.ClientSession(
            connector=Connector(limit=0, ttl_dns_cache=60, keepalive_timeout=30),
            request_class=Request,
            cookie_jar=jar,
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=settings.upstream_connect_timeout_s,
                sock_read=settings.upstream_first_byte_timeout_s,
            ),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def open(self, route: Route, body: bytes, *, stream: bool) -> aiohttp.ClientResponse:
        """Send, and wait for a 200 whose body is ready to be read.

        Raises AttemptFailed, or UpstreamRejected when the provider says that the request itself is wrong.
        """
        try:
            response = await self._session.post(route.url, data=body, headers=route.headers, allow_redirects=False)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            dead = reused.get() and not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ServerTimeoutError)
            raise AttemptFailed(fault_text(error), dead=dead) from None
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise AttemptFailed(fault_text(error)) from None
        if response.status != 200:
            await self._refuse(route, response)
        if stream and response.content_type != "text/event-stream":
            response.close()
            raise AttemptFailed("no event stream, which was asked for", status=200)
        if response.connection is not None and isinstance(response.connection.protocol, Protocol):
            response.connection.protocol.allow_silence(self._idle_s)
        return response

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole body of a JSON answer. Raises AttemptFailed when it is cut, stalls or is too large."""
        try:
            length = response.content_length
            if length is not None and length <= _MOST_ANSWER_BYTES and "Content-Encoding" not in response.headers:
                return await response.read()
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _MOST_ANSWER_BYTES:
                    raise AttemptFailed("the answer is too large", status=200)
            return bytes(body)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise AttemptFailed(f"cut: {fault_text(error)}", status=200) from None
        finally:
            response.release()

    async def _refuse(self, route: Route, response: aiohttp.ClientResponse) -> None:
        status = response.status
        text = b""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(self._idle_s):
                text = await response.content.read(_MOST_ERROR_BYTES)
        response.close()
        if status in CLIENT_MISTAKES:
            raise _rejection(status, text, route.credential)
        raise AttemptFailed(f"status {status}", status=status, retry_after_s=_retry_after_s(response))


def fault_text(error: Exception) -> str:
    """For our log. The system's words about a connection are harmless; others may quote what the provider sent."""
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, OSError) and str(error) else kind


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    try:
        return min(_LONGEST_REST_S, max(0.0, float(response.headers.get("Retry-After", "0"))))
    except ValueError:
        return 0.0


def _rejection(status: int, text: bytes, credential: str) -> UpstreamRejected:
    """The provider's own words about the client's request, in our shape and without our credential."""
    error: Any = None
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = msgspec.json.decode(text)
        error = document.get("error", document) if isinstance(document, dict) else None
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        error = {}
    message, param, code, type_ = (_word(error.get(name), credential) for name in ("message", "param", "code", "type"))
    return UpstreamRejected(
        message or f"The model's provider refused this request with status {status}; check its parameters.",
        status=status,
        param=param,
        code=code,
        type=type_,
    )


def _word(value: Any, credential: str) -> str | None:
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        return None
    text = str(value)
    return (text.replace(credential, "[removed]") if credential else text)[:_MOST_MESSAGE_CHARS]
