"""Owns what can go wrong, in the domain's words; which status and text that becomes is `gateway/errors.py`.

DomainError
├── BadInput                 a value that an operator or a caller gave is wrong; nothing was changed
│   ├── AlreadyExists        the name is taken
│   ├── NotFound             nothing has that name or id
│   ├── Conflict             the record was changed meanwhile, or a key was reused for something else
│   └── NeedsConfirmation    allowed, but only when said twice
├── RequestRefused           a caller's request that is answered without calling a provider
│   ├── InvalidRequest       cannot be parsed or billed (`param`, `code`)
│   │   └── UnreadableBody   it comes in an encoding that is not understood
│   ├── InvalidKey           missing, malformed, unknown, disabled, expired or revoked
│   ├── InsufficientCredits  available credits do not cover the hold
│   ├── ModelNotAllowed      out of scope, unknown, unpublished, unpriced, no enabled route
│   ├── ModelNotFound        the same, asked for by `GET /v1/models/{alias}`
│   └── LimitExceeded        a key, account or route limit (`retry_after_s`)
├── UpstreamUnavailable      every route failed
├── UpstreamRejected         the provider says that the request itself is wrong (400, 413, 422)
├── LedgerUnavailable        our own database is away or locked
└── SetupError               settings or database not ready; the message names the remedy
    └── MissingRights        the database role may not do what was asked of it
"""

from __future__ import annotations


class DomainError(Exception):
    """Base of all errors that this product raises on purpose. `str(error)` says what to do about it."""


class BadInput(DomainError):
    """A given value is wrong. `field` names it."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class AlreadyExists(BadInput):
    """The name is taken."""


class NotFound(BadInput):
    """Nothing has that name or id."""


class Conflict(BadInput):
    """The record was changed meanwhile, or an idempotency key was reused for something else."""


class NeedsConfirmation(BadInput):
    """Allowed, but only when confirmed; the message lists the warnings."""


class RequestRefused(DomainError):
    """A caller's request that is answered without calling a provider."""


class InvalidRequest(RequestRefused):
    """The body cannot be parsed or billed. `param` names the field."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class UnreadableBody(InvalidRequest):
    """The body comes in an encoding that is not understood."""


class InvalidKey(RequestRefused):
    """The API key is missing, malformed, unknown, disabled, expired or revoked."""


class InsufficientCredits(RequestRefused):
    """Available credits do not cover what the request can cost. Amounts in nano-credits."""

    def __init__(self, message: str, *, available_nano: int = 0, needed_nano: int = 0) -> None:
        super().__init__(message)
        self.available_nano = available_nano
        self.needed_nano = needed_nano


class ModelNotAllowed(RequestRefused):
    """The key may not call this alias, or the alias cannot be called at all."""


class ModelNotFound(RequestRefused):
    """The alias asked for does not exist for this key."""


class LimitExceeded(RequestRefused):
    """A limit is used up. `retry_after_s` says when one request fits again."""

    def __init__(self, message: str, *, retry_after_s: float, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.headers = headers or {}


class UpstreamUnavailable(DomainError):
    """Every route failed, or the answer was an error, cut or stalled. Never charged."""


class UpstreamRejected(DomainError):
    """The provider refused the request as the client's own mistake. Never charged, never retried."""

    def __init__(self, message: str, *, status: int, param: str | None, code: str | None, type: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.type = type


class LedgerUnavailable(DomainError):
    """Our own database is away or locked. Never charged."""


class SetupError(DomainError):
    """Settings or database are not ready; the message is one line that names the remedy."""


class MissingRights(SetupError):
    """The database role may not do that, such as creating or dropping tables."""
