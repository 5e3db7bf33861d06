"""Owns what several fault tests need below an HTTP client: raw bytes to the server, streams held open, its memory."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.rig import Customer, Rig

CHAT = "/v1/chat/completions"
MIB = 1024 * 1024


async def talk(url: str, request: bytes, *, within_s: float = 10, eof: bool = False) -> bytes:
    """Everything that the server says to these bytes until it closes the connection; fails if it leaves it open."""
    reader, writer = await connect(url)
    try:
        writer.write(request)
        if eof:
            writer.write_eof()
        async with asyncio.timeout(within_s):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


async def connect(url: str, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urllib.parse.urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port, **options)


def chat_request(customer: Customer, body: bytes, *headers: str, length: bool = True) -> bytes:
    """A chat completion as bytes, with these headers besides."""
    lines = [f"POST {CHAT} HTTP/1.1", "Host: gateway.test", f"Authorization: {customer.headers['Authorization']}"]
    lines += ["Content-Type: application/json", *([f"Content-Length: {len(body)}"] if length else []), *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chat_body(model: str, **fields: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}).encode()


async def events_of(session: aiohttp.ClientSession, rig: Rig, customer: Customer, model: str) -> AsyncIterator[bytes]:
    """The data of each event of a streamed completion, as it comes; ends where the connection does, however it does."""
    body = chat_body(model, stream=True)
    headers = {**customer.headers, "Content-Type": "application/json"}
    async with session.post(rig.url + CHAT, data=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: "):
                yield line[6:].rstrip()


def route_id(rig: Rig, alias: str, position: int = 1) -> int:
    routes = rig.desk.catalog.routes(alias)
    return int(routes[routes["position"] == position].iloc[0]["id"])
