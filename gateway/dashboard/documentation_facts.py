"""Owns what the documentation quotes from the code, so that a page cannot say something else than the server does."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.asks import MOST_CHOICES, TOKENS_PER_MESSAGE, UNBILLABLE
from gateway.catalog import Snapshot
from gateway.errors import HTTP_CODES, TABLE
from gateway.limits import Limit
from gateway.openapi import HEADERS, RATE_HEADERS, REASONS
from gateway.openapi_schemas import ERROR_CODES
from gateway.routing import MOST_ATTEMPTS
from models.ids import DAY_US
from models.passwords import LEAST_PASSWORD
from models.prices import CREDITS_PER_USD
from models.sessions import IDLE_US, LONGEST_US

# Codes that say more than their status's own ones.
FINER_CODES = {400: ("invalid_json", "unsupported_parameter", "responses_body")}
# What a client's author does about each status.
_REMEDIES = {
    400: "Mend the field that `param` names; the message says how. Sending the same again gives the same.",
    401: "Check that the whole key was pasted, that it is enabled, and that the header is `Authorization: Bearer …`.",
    402: "Top up, or ask for less: a smaller `max_tokens` or a shorter prompt needs less set aside.",
    403: "Compare with `GET /v1/models` for this key; add the model to the key's scope, or use one that is listed.",
    404: "Check the base URL (it ends in `/v1`) and the model's name.",
    405: "Use the method that this reference names.",
    408: "Send the request again, over a better line or in one piece.",
    413: "Send less text, or smaller images.",
    415: "Send plain JSON, uncompressed, as `application/json`.",
    417: "Leave the `Expect` header out.",
    422: "Read the message, which is the provider's own, and change the request.",
    429: "Wait as long as `Retry-After` says, then try again, waiting longer each time.",
    500: "Try once more; if it stays, tell us the `x-request-id`.",
    502: "Try again with growing pauses; use another model if it lasts.",
    503: "Try again in a few seconds.",
}


class ErrorRow(NamedTuple):
    status: int
    codes: tuple[str, ...]
    meaning: str
    remedy: str
    retried: bool


def error_rows() -> list[ErrorRow]:
    """Every status that a client can meet, in their order. `retried`: what OpenAI's SDKs send again by themselves."""
    retried = {row.status for row in TABLE.values() if row.retry}
    return [
        ErrorRow(
            status,
            tuple(dict.fromkeys((*ERROR_CODES.get(status, ()), *FINER_CODES.get(status, ())))),
            meaning,
            _REMEDIES[status],
            status in retried,
        )
        for status, meaning in REASONS.items()
    ]


def limit_words(snapshot: Snapshot) -> dict[str, list[str]]:
    """The limits of those without limits of their own, as customers read them; by subject."""
    return {subject: [_words(limit) for limit in snapshot.defaults[subject]] for subject in ("key", "account")}


def _words(limit: Limit) -> str:
    if limit.unit == "concurrent":
        return f"{limit.quota:,} requests at once"
    return f"{limit.quota:,} {limit.unit} {'a minute' if limit.window_s == 60 else f'in {limit.window_s:,} seconds'}"


FACTS: dict[str, Any] = {
    "credits_per_usd": CREDITS_PER_USD,
    "most_choices": MOST_CHOICES,
    "most_attempts": MOST_ATTEMPTS,
    "tokens_per_message": TOKENS_PER_MESSAGE,
    "unbillable": sorted(UNBILLABLE),
    "rate_headers": [(name, HEADERS[name]["description"]) for name in RATE_HEADERS],
    "least_password": LEAST_PASSWORD,
    "idle_days": IDLE_US // DAY_US,
    "longest_days": LONGEST_US // DAY_US,
}

assert set(_REMEDIES) == set(REASONS) >= set(HTTP_CODES)
