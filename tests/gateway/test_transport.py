"""What is read of a provider's connection, whatever the moment of its pauses and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from gateway.transport import Connector, Request, read_some

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
# As many unread pieces as the client library takes before it pauses, and one more.
MANY_PIECES = 16_385


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Provider:
    """One connection to it, of which the test says what is sent and when it ends."""

    def __init__(self, response: aiohttp.ClientResponse, writer: asyncio.StreamWriter) -> None:
        self.content = response.content
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def came(self, count: int) -> None:
        """Until so many bytes of the body are there, unread."""
        async with asyncio.timeout(10):
            while self.content.total_bytes < count:
                await asyncio.sleep(0.001)

    async def broke(self) -> None:
        async with asyncio.timeout(10):
            while self.content.exception() is None:
                await asyncio.sleep(0.001)

    async def rest(self) -> bytes:
        read = b""
        async with asyncio.timeout(10):
            while some := await read_some(self.content):
                read += some
        return read


@asynccontextmanager
async def streaming() -> AsyncIterator[Provider]:
    writers: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(HEAD)
        await writers.put(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with aiohttp.ClientSession(connector=Connector(), request_class=Request) as session:
        response = await session.post(
            f"http://{host}:{port}/", data=b"{}", headers={"Content-Type": "application/json"}
        )
        yield Provider(response, await writers.get())
        response.close()
    server.close()


async def test_what_came_before_a_connection_broke_is_read() -> None:
    """A finished answer is whole and charged, though its provider hangs up without the last bytes of HTTP."""
    async with streaming() as provider:
        await provider.send(piece(b"the words"))
        assert await read_some(provider.content) == b"the words"
        await provider.send(piece(b" and") + piece(b" the end"))
        await provider.close()
        await provider.broke()
        assert await read_some(provider.content) == b" and the end"
        with pytest.raises(aiohttp.ClientError):
            await read_some(provider.content)


@pytest.mark.parametrize("pieces", [1, MANY_PIECES - 1, MANY_PIECES, MANY_PIECES + 1])
async def test_what_comes_after_a_pause_is_read_to_its_end(pieces: int) -> None:
    """Of a provider that sends a character at a time, to a client that reads nothing for a while."""
    async with streaming() as provider:
        await provider.send(piece(b"a") * pieces)
        await provider.came(min(pieces, MANY_PIECES))
        # The pause ends here, and the rest comes in one packet.
        read = await read_some(provider.content)
        await provider.send(piece(b"b") + piece(b"final") + END)
        assert read + await provider.rest() == b"a" * pieces + b"bfinal"


async def test_packets_that_nobody_reads_yet_are_kept_in_order() -> None:
    async with streaming() as provider:
        words = [b"w%d " % number for number in range(400)]
        for packet in range(0, 400, 20):
            await provider.send(b"".join(map(piece, words[packet : packet + 20])))
            await provider.came(sum(map(len, words[: packet + 20])))
        await provider.send(END)
        assert await provider.rest() == b"".join(words)
