"""Owns how errors look on the wire: one table from each domain error to status, type and code, and the JSON around it.

SDKs read three things: the status (to choose an exception class), `error.message` (all that most users ever see) and
`x-should-retry`. Whatever waiting cannot mend says so, or clients would send it again and again.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
from sanic.response import HTTPResponse

from gateway.reply import ALLOW_ORIGIN, EXPOSE
from models.errors import (
    BadInput,
    DomainError,
    InsufficientCredits,
    InvalidKey,
    InvalidRequest,
    LedgerUnavailable,
    LimitExceeded,
    ModelNotAllowed,
    ModelNotFound,
    RequestRefused,
    SetupError,
    UnreadableBody,
    UpstreamRejected,
    UpstreamUnavailable,
)


class Row(NamedTuple):
    status: int
    type: str
    code: str
    retry: bool = False


TABLE: dict[type[DomainError], Row] = {
    InvalidRequest: Row(400, "invalid_request_error", "invalid_request"),
    UnreadableBody: Row(415, "invalid_request_error", "unsupported_media_type"),
    InvalidKey: Row(401, "authentication_error", "invalid_api_key"),
    InsufficientCredits: Row(402, "insufficient_credits", "insufficient_credits"),
    ModelNotAllowed: Row(403, "permission_error", "model_not_allowed"),
    ModelNotFound: Row(404, "invalid_request_error", "model_not_found"),
    LimitExceeded: Row(429, "rate_limit_error", "rate_limit_exceeded", retry=True),
    UpstreamRejected: Row(400, "invalid_request_error", "invalid_request"),
    UpstreamUnavailable: Row(502, "upstream_error", "upstream_unavailable", retry=True),
    LedgerUnavailable: Row(503, "server_error", "service_unavailable", retry=True),
    BadInput: Row(400, "invalid_request_error", "invalid_request"),
    RequestRefused: Row(400, "invalid_request_error", "invalid_request"),
    SetupError: Row(503, "server_error", "service_unavailable", retry=True),
    DomainError: Row(500, "server_error", "internal_error"),
}
# Refusals of HTTP itself, by status.
HTTP_CODES = {
    400: ("invalid_request_error", "invalid_request"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    417: ("invalid_request_error", "expectation_failed"),
    503: ("server_error", "service_unavailable"),
}
INTERNAL_MESSAGE = (
    "Something went wrong on our side. This request was not charged; please try again, and quote the x-request-id."
)
CORS_HEADERS = dict([ALLOW_ORIGIN, EXPOSE])


def row_of(error: DomainError) -> Row:
    """The nearest row in the error's class line."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    raise AssertionError(f"{type(error).__name__} has no row")


def error_object(error: DomainError) -> dict[str, Any]:
    """`{"message", "type", "param", "code"}` of a domain error."""
    row = row_of(error)
    return {
        "message": str(error),
        "type": getattr(error, "type", None) or row.type,
        "param": getattr(error, "param", None) or getattr(error, "field", None),
        "code": getattr(error, "code", None) or row.code,
    }


def error_response(error: DomainError, headers: dict[str, str]) -> HTTPResponse:
    """The whole response of a domain error; `headers` are those of the request (its id, its limits)."""
    row = row_of(error)
    status = getattr(error, "status", row.status)
    headers = {**headers, **CORS_HEADERS}
    if isinstance(error, LimitExceeded):
        headers |= retry_headers(error.retry_after_s)
        headers |= error.headers
    if not row.retry:
        headers["x-should-retry"] = "false"
    return HTTPResponse(error_body(**error_object(error)), status, headers, "application/json")


def plain_error(status: int, message: str, headers: dict[str, str], *, param: str | None = None) -> HTTPResponse:
    """An error of HTTP itself: unknown endpoint, wrong method, too large."""
    type_, code = HTTP_CODES.get(status, ("server_error", "internal_error"))
    if status < 500:
        headers = {**headers, "x-should-retry": "false"}
    return HTTPResponse(error_body(message, type_, param, code), status, headers, "application/json")


def error_body(message: str, type: str, param: str | None, code: str | None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": type, "param": param, "code": code}})


def retry_headers(retry_after_s: float) -> dict[str, str]:
    """Whole seconds between 1 and 60: some SDKs ignore anything else and retry at once."""
    seconds = min(60, max(1, math.ceil(retry_after_s)))
    return {"retry-after": str(seconds), "retry-after-ms": str(seconds * 1000)}
