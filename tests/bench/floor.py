"""The floor: a bare Sanic and aiohttp pass-through, written as well as one can and checking nothing.

What the gateway costs above it is the price of being paid: keys, scope, limits, holds, metering, charges.
"""

import sys
from typing import Any

import aiohttp
from sanic import HTTPResponse, Request, Sanic
from sanic.response import raw, text
from yarl import URL

PROVIDER_HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer provider-key"}


def create_floor(provider_url: str) -> Sanic[Any, Any]:
    app: Sanic[Any, Any] = Sanic("floor")
    app.config.RESPONSE_TIMEOUT = 600
    app.config.REQUEST_TIMEOUT = 600
    app.config.KEEP_ALIVE_TIMEOUT = 600
    target = URL(f"{provider_url}/v1/chat/completions", encoded=True)

    @app.before_server_start
    async def open_session(app: Sanic[Any, Any]) -> None:
        app.ctx.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            auto_decompress=False,
        )

    @app.after_server_stop
    async def close_session(app: Sanic[Any, Any]) -> None:
        await app.ctx.session.close()

    @app.get("/healthz")
    async def tell_health(_: Request) -> HTTPResponse:
        return text("ok")

    @app.post("/v1/chat/completions")
    async def pass_through(request: Request) -> HTTPResponse | None:
        async with app.ctx.session.post(target, data=request.body, headers=PROVIDER_HEADERS) as answer:
            content_type = answer.headers["Content-Type"]
            if not content_type.startswith("text/event-stream"):
                return raw(await answer.read(), status=answer.status, content_type=content_type)
            response = await request.respond(status=answer.status, content_type=content_type)
            async for chunk in answer.content.iter_any():
                await response.send(chunk)
            await response.eof()
            return None

    return app


if __name__ == "__main__":
    create_floor(sys.argv[2]).run(
        host="127.0.0.1", port=int(sys.argv[1]), single_process=True, access_log=False, motd=False, backlog=4096
    )
