"""Owns `GET /v1/models` and `GET /v1/models/{alias}`: what this key can call now, and at which price."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import msgspec
from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from gateway.catalog import Alias
from gateway.errors import CORS_HEADERS, error_response
from gateway.gateway import Gateway
from models.errors import DomainError, ModelNotAllowed, ModelNotFound
from models.ids import new_request_id, now_us
from models.prices import CREDITS_PER_USD, NANO_PER_CREDIT, PriceVersion


def blueprint() -> Blueprint:
    routes = Blueprint("listing")
    routes.add_route(list_models, "/v1/models", methods=["GET", "HEAD"])
    routes.add_route(show_model, "/v1/models/<alias:path>", methods=["GET", "HEAD"])
    return routes


async def list_models(request: Request) -> HTTPResponse:
    """Unscoped, unpublished, unpriced and unavailable models are not listed."""
    return await _answer(request, None)


async def show_model(request: Request, alias: str) -> HTTPResponse:
    """One of them, or 404. A slash in the alias may be written as %2F; one behind it means nothing."""
    return await _answer(request, unquote(alias).rstrip("/") or None)


async def _answer(request: Request, alias: str | None) -> HTTPResponse:
    gateway: Gateway = request.app.ctx.gateway
    at_us = now_us()
    headers = {"x-request-id": new_request_id(at_us)}
    try:
        caller = await gateway.keys.authenticate(request.headers.get("authorization"), at_us)
        snapshot = gateway.catalog.snapshot
        document: dict[str, Any]
        if alias is None:
            found = snapshot.listed(caller.scope, at_us)
            document = {"object": "list", "data": [describe(model, price, at_us) for model, price in found]}
        else:
            document = describe(*_find(gateway, alias, caller.scope, at_us), at_us)
    except DomainError as error:
        return error_response(error, headers)
    return HTTPResponse(msgspec.json.encode(document), 200, headers | CORS_HEADERS, "application/json")


def _find(gateway: Gateway, alias: str, scope: frozenset[int], at_us: int) -> tuple[Alias, PriceVersion]:
    try:
        return gateway.catalog.snapshot.find(alias, scope, at_us)
    except ModelNotAllowed:
        raise ModelNotFound(
            f"There is no model {alias[:200]!r} for this API key; GET /v1/models lists those there are."
        ) from None


def describe(alias: Alias, price: PriceVersion, at_us: int) -> dict[str, Any]:
    """A model as clients read it; prices in USD per token, as decimal strings."""
    rates = price.tiers_at(at_us)[0].rates
    return {
        "id": alias.name,
        "object": "model",
        "created": alias.created_s,
        "owned_by": alias.owned_by,
        "context_length": alias.context_tokens,
        "max_output_tokens": alias.max_output_tokens,
        "pricing": {
            "prompt": usd_text(rates.fresh),
            "completion": usd_text(rates.output),
            "input_cache_read": usd_text(rates.cached),
            "input_cache_write": usd_text(rates.written),
        },
    }


def usd_text(rate_nano: int) -> str:
    """USD per token of a rate, without exponent or trailing zeros."""
    text = f"{Decimal(rate_nano) / (NANO_PER_CREDIT * CREDITS_PER_USD):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
