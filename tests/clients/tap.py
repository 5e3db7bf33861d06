"""Owns a tap in front of the gateway: it passes everything on, and notes when each request came and its answer had gone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

_HOP = {"transfer-encoding", "content-length", "connection", "host", "content-encoding", "keep-alive"}


@dataclass
class Request:
    key: str
    model: str
    came_at: float
    status: int = 0
    answered_at: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


class Tap:
    """`url` is the gateway's, by way of the tap."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.url = ""
        self.requests: list[Request] = []

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        came_at = time.monotonic()
        body = await request.json()
        noted = Request(request.headers.get("Authorization", "").removeprefix("Bearer "), body["model"], came_at)
        self.requests.append(noted)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, self._target + request.raw_path, data=await request.read(), headers=headers
            ) as got,
        ):
            noted.status, noted.headers = got.status, {name.lower(): value for name, value in got.headers.items()}
            kept = {name: value for name, value in got.headers.items() if name.lower() not in _HOP}
            response = web.StreamResponse(status=got.status, headers=kept)
            await response.prepare(request)
            async for piece in got.content.iter_any():
                await response.write(piece)
            noted.answered_at = time.monotonic()
            await response.write_eof()
        return response


@asynccontextmanager
async def tapped(target: str) -> AsyncIterator[Tap]:
    tap = Tap(target)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", tap.pass_on)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        tap.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield tap
    finally:
        await runner.cleanup()
