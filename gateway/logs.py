"""Owns the logs: to stderr, as lines for people or as JSON, and a line for each request that is over.

Nothing that a customer or a provider wrote stands in them, nor any secret: requests are told by ids and numbers, an
exception by its kind and the places in our code, and words only where they are the system's or the database's own.

A thread writes them, a moment later (see `log_lines.py`): whatever becomes of our stderr, nobody waits for it or fails. The
lines of requests are made there as well, which costs a request microseconds.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO, cast

import asyncpg
import msgspec
import orjson
import structlog

from gateway.log_lines import lines
from models.ids import SECOND_US
from models.prices import credits_text

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.turn import Turn

_OWN_WORDS = (OSError, sqlite3.Error, asyncpg.PostgresError)
Render = Callable[[Any, str, MutableMapping[str, Any]], str | bytes]


def write_logs(settings: Settings) -> None:
    """From now on, in this process. Those of libraries as well."""
    render = renderer(settings)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _set_exception,
            structlog.processors.TimeStamper(fmt="iso"),
            render,
        ],
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, lines)),
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(_OfLibraries(render))
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(True)
    # A record that cannot be formatted is left out, and not told of on stderr by whoever made it.
    logging.raiseExceptions = False
    lines.start()


def renderer(settings: Settings) -> Render:
    if settings.log_format == "json":
        return structlog.processors.JSONRenderer(_json)
    colors = sys.stderr is not None and sys.stderr.isatty()
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def _json(event: Any, **_: Any) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except TypeError:
        # Half a character, as in the name of a file, or a number beyond all bounds.
        return json.dumps(event, default=repr)


class Line(msgspec.Struct, gc=False):
    """A request that is over: ids and numbers, and no reference to the request itself. In this order, always all of it."""

    timestamp: str
    request_id: str
    status: int
    outcome: str
    level: str = "info"
    event: str = "request"
    error: str | None = None
    model: str | None = None
    route: int | None = None
    stream: bool | None = None
    attempts: int = 0
    account_id: int | None = None
    key_id: int | None = None
    first_byte_ms: float = 0
    duration_ms: float = 0
    added_ms: float = 0
    fresh_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    output_tokens: int = 0
    credits: str = "0"
    estimated: bool = False


_encoder = msgspec.json.Encoder()
_TOLD = sorted(set(Line.__struct_fields__) - {"timestamp", "level", "event"})


class RequestLog:
    """One line a request, written within a moment."""

    def __init__(self, settings: Settings) -> None:
        lines.render_by(_as_json if settings.log_format == "json" else _for_people)
        self._second, self._second_text = 0, ""

    def tell(self, turn: Turn) -> None:
        """Called when it is over."""
        meters, ended_s, route = turn.meters, turn.ended_s, turn.route
        line = Line(
            self._timestamp(turn.at_us + int(ended_s * SECOND_US)),
            turn.request_id,
            turn.status,
            turn.outcome,
            error=turn.error or None,
            model=turn.alias_name,
            route=None if route is None else route.id,
            attempts=len(turn.attempts),
            first_byte_ms=_ms(turn.first_byte_s),
            duration_ms=_ms(ended_s),
            added_ms=_ms(ended_s - turn.provider_s),
            fresh_tokens=meters.fresh,
            cached_tokens=meters.cached,
            written_tokens=meters.written,
            output_tokens=meters.output,
            credits=credits_text(turn.charged_nano),
            estimated=turn.estimated,
        )
        # A request may be refused before either is known.
        caller, ask = getattr(turn, "caller", None), getattr(turn, "ask", None)
        if caller is not None:
            line.account_id, line.key_id = caller.account_id, caller.key_id
        if ask is not None:
            line.stream = ask.stream
        lines.put(line)

    def tell_error(self, at_us: int, request_id: str, status: int) -> None:
        """Of what came to no endpoint."""
        outcome = "failed" if status >= 500 else "refused"
        lines.put(Line(self._timestamp(at_us), request_id, status, outcome))

    def _timestamp(self, at_us: int) -> str:
        second, us = divmod(at_us, SECOND_US)
        if second != self._second:
            self._second, self._second_text = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{us:06d}Z"


def _as_json(told: Sequence[Line]) -> list[bytes]:
    return _encoder.encode_lines(told).splitlines(keepends=True)


def _for_people(told: Sequence[Line]) -> list[bytes]:
    """As structlog writes all the others, at a tenth of what that takes."""
    lines = []
    for line in told:
        words = [f"{name}={value}" for name in _TOLD if (value := getattr(line, name)) is not None]
        text = f"{line.timestamp} [{line.level:<9}] {line.event:<30} {' '.join(words)}\n"
        lines.append(text.encode("utf-8", "replace"))
    return lines


def _ms(seconds: float) -> float:
    return int(seconds * 10_000) / 10


# ── exceptions, without what they quote ───────────────────────────────────────────────────────────────────────────


def without_words(error: BaseException) -> str:
    """Where it happened and of what kind; its text may quote what a customer or a provider wrote."""
    parts = []
    chain: BaseException | None = error
    while chain is not None:
        words = f": {str(chain).partition(chr(10))[0]}" if isinstance(chain, _OWN_WORDS) else ""
        frames = "".join(traceback.format_tb(chain.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{type(chain).__qualname__}{words}")
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    return "\n\nwhich came of:\n\n".join(parts)


def _set_exception(_logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    given = event.pop("exc_info", name == "exception")
    error = sys.exc_info()[1] if given is True else given
    if isinstance(error, BaseException):
        event["exception"] = without_words(error)
    return event


class _OfLibraries(logging.Formatter):
    """A record of another's logger as a line like ours: its first line, for more may quote what nobody should read."""

    def __init__(self, render: Render) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage().partition("\n")[0],
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[1] is not None:
            event["exception"] = without_words(record.exc_info[1])
        return str(self._render(None, event["level"], event))
