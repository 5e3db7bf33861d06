"""The fault proxy itself: what it passes, what it keeps back, and that what was kept back is delivered in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.proxy import Proxy

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that says what it hears, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""
        self.clients = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        try:
            while data := await reader.read(65_536):
                self.heard += data
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            self.clients -= 1
            writer.close()


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    with Proxy(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/3") as standing:
        yield standing
    server.close()


async def connect(proxy: Proxy) -> Ends:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def says(ends: Ends, word: bytes, *, within_s: float = 5) -> bytes:
    """What comes back for this word; nothing if it takes too long."""
    ends[1].write(word)
    return await hears(ends, len(word), within_s=within_s)


async def hears(ends: Ends, count: int, *, within_s: float = 5) -> bytes:
    try:
        async with asyncio.timeout(within_s):
            return await ends[0].readexactly(count)
    except TimeoutError:
        return b""


async def until(condition: object, *, within_s: float = 5) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_it_passes_everything_and_the_end_of_everything(proxy: Proxy, echo: Echo) -> None:
    ends = await connect(proxy)
    large = bytes(range(256)) * 40_000
    sending = asyncio.create_task(says(ends, large))
    assert await sending == large == echo.heard
    ends[1].write_eof()
    assert await ends[0].read() == b""
    await until(lambda: proxy.connections == echo.clients == 0)
    assert proxy.url == f"redis://127.0.0.1:{proxy.port}/3"


async def test_cut_resets_all_and_refuses_new_ones_until_it_passes_again(proxy: Proxy, echo: Echo) -> None:
    ends = await connect(proxy)
    assert await says(ends, b"one") == b"one"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await ends[0].read()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await connect(proxy)
    await until(lambda: proxy.connections == echo.clients == 0)
    proxy.pass_on()
    assert await says(await connect(proxy), b"two") == b"two"


async def test_what_freezes_is_delivered_on_thaw_and_nothing_is_noticed_before(proxy: Proxy, echo: Echo) -> None:
    ends = await connect(proxy)
    assert await says(ends, b"one") == b"one"
    proxy.freeze()
    assert await says(ends, b"two", within_s=0.1) == b""
    late, gone = await connect(proxy), await connect(proxy)
    late[1].write(b"three")
    gone[1].close()
    assert await hears(ends, 1, within_s=0.1) == b""
    assert echo.heard == b"one"
    proxy.pass_on()
    assert await hears(ends, 3) == b"two"
    assert await hears(late, 5) == b"three"
    await until(lambda: proxy.connections == echo.clients == 2)


async def test_one_way_the_server_hears_and_its_answers_stay_stuck(proxy: Proxy, echo: Echo) -> None:
    ends = await connect(proxy)
    proxy.freeze_answers()
    assert await says(ends, b"one", within_s=0.1) == b""
    assert echo.heard == b"one"
    proxy.pass_on()
    assert await hears(ends, 3) == b"one"


async def test_a_delay_is_a_delay_each_way_and_keeps_the_order(proxy: Proxy) -> None:
    ends = await connect(proxy)
    proxy.slow_down(0.05)
    began = time.monotonic()
    words = b"".join(bytes([n]) for n in range(100))
    for n in range(100):
        ends[1].write(bytes([n]))
        await asyncio.sleep(0)
    assert await hears(ends, 100) == words
    assert 0.1 <= time.monotonic() - began < 0.6
    proxy.slow_down(0)
    assert await says(ends, b"quick") == b"quick"


async def test_a_client_that_does_not_read_fills_no_memory(proxy: Proxy, echo: Echo) -> None:
    _, writer = await connect(proxy)
    proxy.freeze_answers()

    async def send_on() -> None:
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send_on(), 0.5)
    assert len(echo.heard) < 100 << 20
    writer.transport.abort()


async def test_it_carries_thousands_of_requests_a_second(proxy: Proxy) -> None:
    async def one_after_another(count: int) -> None:
        ends = await connect(proxy)
        for _ in range(count):
            assert await says(ends, b"x" * 300) == b"x" * 300

    began = time.monotonic()
    await asyncio.gather(*[one_after_another(100) for _ in range(30)])
    assert 3_000 / (time.monotonic() - began) > 1_500
