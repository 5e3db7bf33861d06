"""Owns what the wire tests share: a shelf of aliases put up at once, its customer, the shape of a whole stream, raw bytes."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from typing import Any
from urllib.parse import urlsplit

from tests.rig import Answer, Customer, Price, Rig

_count = itertools.count(1)
HELLO = [{"role": "user", "content": "Hello"}]


class Shelf:
    """Aliases by a short name, each with an upstream model that nobody else calls, and one customer who may use them all.

    `scripted` replays whatever the test uploaded last.
    """

    def __init__(self, rig: Rig, models: dict[str, str], **settings: Any) -> None:
        self.rig = rig
        mark = f"shelf-{os.getpid()}-{next(_count)}"
        self.upstream = {name: _tagged(model, f"{mark}-{name}") for name, model in models.items()}
        self.upstream["scripted"] = f"script:{mark}"
        self.alias = {
            name: rig.alias(model, price=Price(), settled=False, **settings) for name, model in self.upstream.items()
        }
        rig.settle_feed()
        self.customer: Customer = rig.customer(models=list(self.alias.values()))

    async def chat(self, name: str, **fields: Any) -> Answer:
        return await self.rig.chat(self.customer, self.alias[name], **fields)

    def body(self, name: str, **fields: Any) -> bytes:
        return json.dumps({"model": self.alias[name], "messages": HELLO, **fields}).encode()

    async def script(self, *chunks: Any, **reply: Any) -> None:
        """What the provider of `scripted` will answer, byte by byte."""
        await self.rig.provider.script(self.upstream["scripted"].removeprefix("script:"), chunks=list(chunks), **reply)

    async def calls(self, name: str) -> list[dict[str, Any]]:
        return await self.rig.provider.calls(self.upstream[name])

    async def last_call(self, name: str) -> dict[str, Any]:
        return (await self.calls(name))[-1]


def strict_events(answer: Answer, alias: str, *, n: int = 1) -> list[dict[str, Any]]:
    """Checks of lines 11, 12 and 14 that hold for every whole stream; its events."""
    blocks = answer.body.split(b"\n\n")
    assert blocks.pop() == b""
    assert all(b"\n" not in block and block.startswith((b"data: {", b"data: [DONE]", b": ")) for block in blocks)
    assert [block for block in blocks if block.startswith(b"data: [")] == blocks[-1:] == [b"data: [DONE]"]
    events = answer.events
    assert all(isinstance(event["choices"], list) for event in events)
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert {event["model"] for event in events} == {alias}
    assert len({event["id"] for event in events}) == 1
    for index in range(n):
        choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
        assert choices[0]["delta"]["role"] == "assistant"
        assert len([choice for choice in choices if choice["finish_reason"]]) == 1
        assert choices[-1]["finish_reason"]
    return events


def _tagged(model: str, tag: str) -> str:
    return f"{model}{',' if ':' in model else ':'}tag={tag}"


class Wire:
    """One connection, byte by byte, for what no client library would send."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)

    async def __aenter__(self) -> Wire:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next response."""
        async with asyncio.timeout(15):
            text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.strip().split("\r\n")
        found = re.match(r"HTTP/1\.1 (\d{3})", first)
        assert found is not None, first
        return int(found[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}

    async def response(self, *, bodyless: bool = False) -> Answer:
        """The next response, with its body; the connection is ready for another one."""
        status, headers = await self.head()
        body = b""
        async with asyncio.timeout(15):
            if not bodyless and headers.get("transfer-encoding") == "chunked":
                while size := int(await self._reader.readuntil(b"\r\n"), 16):
                    body += (await self._reader.readexactly(size + 2))[:-2]
                await self._reader.readexactly(2)
            elif not bodyless:
                body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)

    async def read(self, count: int = 65_536) -> bytes:
        """What comes next; empty when the server closed."""
        async with asyncio.timeout(15):
            return await self._reader.read(count)


def post(body: bytes, headers: dict[str, str], path: str = "/v1/chat/completions") -> bytes:
    """A POST as bytes; its length is announced unless the headers say how the body comes."""
    lines = {"Host": "gateway.test", "Content-Type": "application/json", **headers}
    if "Transfer-Encoding" not in lines:
        lines["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body
