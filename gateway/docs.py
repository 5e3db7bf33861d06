"""Owns `/docs/api`: the page of the API, its OpenAPI document, and the files under `/static`.

Nothing is loaded from elsewhere, and no script stands in the page, so the content security policy can be strict.
"""

from __future__ import annotations

import html
from pathlib import Path

import msgspec
from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from gateway.openapi import openapi_document
from models.ids import new_request_id, now_us

STATIC = Path(__file__).parent / "static"
# The page's library sets inline style attributes, and draws its icons from data URLs.
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{brand} API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/static/swagger-ui/swagger-ui.css">
<link rel="stylesheet" href="/static/docs/api.css">
<script src="/static/docs/api.js"></script>
<script src="/static/swagger-ui/swagger-ui-bundle.js" defer></script>
</head>
<body>
<header class="top">
  <a class="brand" href="/">{brand}</a>
  <nav aria-label="Pages"><ul><li><a href="/">Dashboard</a></li><li><a href="/docs">Docs</a></li></ul></nav>
</header>
<noscript>This page needs JavaScript; see <a href="/docs/api/openapi.json">openapi.json</a>.</noscript>
<div id="api"></div>
</body>
</html>
"""


def blueprint(brand: str) -> Blueprint:
    page = _PAGE.format(brand=html.escape(brand)).encode()
    routes = Blueprint("docs")

    async def show_page(_: Request) -> HTTPResponse:
        return HTTPResponse(page, 200, None, "text/html; charset=utf-8")

    async def show_document(request: Request) -> HTTPResponse:
        # It names the host that it was asked for, so no cache may give it to another.
        document = openapi_document(f"{request.scheme}://{request.host}", brand)
        headers = {"vary": "host", "access-control-allow-origin": "*"}
        return HTTPResponse(msgspec.json.encode(document), 200, headers, "application/json")

    routes.add_route(show_page, "/docs/api", methods=["GET", "HEAD"])
    routes.add_route(show_document, "/docs/api/openapi.json", methods=["GET", "HEAD"])
    for file in sorted([*STATIC.glob("docs/*.*"), *STATIC.glob("swagger-ui/*.*")]):
        # One by one: nothing else is served, whatever the path says.
        name = file.relative_to(STATIC).as_posix()
        routes.static(f"/static/{name}", file, name=name.replace("/", "-"))
    routes.middleware(_add_headers, "response")
    return routes


async def _add_headers(_: Request, response: HTTPResponse) -> None:
    response.headers.update(
        {
            "x-request-id": new_request_id(now_us()),
            "content-security-policy": POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }
    )
