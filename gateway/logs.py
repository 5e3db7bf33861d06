"""Owns the logs: to stderr, as lines for people or as JSON, and a line for each request that is over.

Nothing that a customer or a provider wrote stands in them, nor any secret: requests are told by ids and numbers, an
exception by its kind and the places in our code, and words only where they are the system's or the database's own.

What happens seldom is written at once. The lines of requests are gathered for a moment and written by a thread, which costs
a request a tuple, and lets nobody wait for whoever reads our stderr; what a reader does not take in time is left out, and said.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import structlog

from models.ids import SECOND_US
from models.prices import credits_text

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.turn import Turn

_GATHERED_S = 0.1
_MOST_WAITING = 20_000
_CLOSED_WITHIN_S = 2.0
_FIELDS = (
    *("request_id", "model", "route", "status", "outcome", "error", "stream", "attempts", "account_id", "key_id"),
    *("first_byte_ms", "duration_ms", "added_ms", "fresh_tokens", "cached_tokens", "written_tokens", "output_tokens"),
    *("credits", "estimated"),
)
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
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OfLibraries(render))
    logging.basicConfig(handlers=[handler], force=True)


def renderer(settings: Settings) -> Render:
    if settings.log_format == "json":
        return structlog.processors.JSONRenderer(lambda event, **_: orjson.dumps(event, default=str).decode())
    colors = sys.stderr.isatty()
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


class RequestLog:
    """One line a request, with what `_FIELDS` names; written within a moment."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._waiting: deque[tuple[int, tuple[Any, ...]]] = deque()
        self._left_out = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def tell(self, turn: Turn) -> None:
        """Called when it is over. Ids and numbers only, and no reference to the request itself."""
        caller, ask, meters = getattr(turn, "caller", None), getattr(turn, "ask", None), turn.meters
        told = (
            *(turn.request_id, turn.alias_name, turn.route and turn.route.id, turn.status, turn.outcome, turn.error),
            *(ask and ask.stream, len(turn.attempts), caller and caller.account_id, caller and caller.key_id),
            *(turn.first_byte_s, turn.ended_s, turn.ended_s - turn.provider_s),
            *(meters.fresh, meters.cached, meters.written, meters.output, turn.charged_nano, turn.estimated),
        )
        self._put(turn.at_us + int(turn.ended_s * SECOND_US), told)

    def tell_error(self, at_us: int, request_id: str, status: int) -> None:
        """Of what came to no endpoint."""
        self._put(at_us, (request_id, None, None, status, "refused"))

    def close(self) -> None:
        """Everything is written, unless nobody reads it."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_CLOSED_WITHIN_S)

    def _put(self, at_us: int, told: tuple[Any, ...]) -> None:
        waiting = self._waiting
        if len(waiting) >= _MOST_WAITING:
            self._left_out += 1
            return
        waiting.append((at_us, told))
        if len(waiting) == 1:
            self._wake.set()

    # ── its thread ────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            self._closing.wait(_GATHERED_S)
            lines = []
            while self._waiting:
                lines.append(self._line(*self._waiting.popleft()))
            if self._left_out:
                count, self._left_out = self._left_out, 0
                lines.append(self._rendered(time.time(), "lines of requests were left out", {"count": count}))
            _write("".join(lines).encode("utf-8", "replace"))

    def _line(self, at_us: int, told: tuple[Any, ...]) -> str:
        fields = {name: value for name, value in zip(_FIELDS, told, strict=False) if value is not None and value != ""}
        if "credits" in fields:
            fields["credits"] = credits_text(fields["credits"])
            for name in ("first_byte_ms", "duration_ms", "added_ms"):
                fields[name] = round(fields[name] * 1000, 1)
        return self._rendered(at_us / SECOND_US, "request", fields)

    def _rendered(self, at_s: float, event: str, fields: dict[str, Any]) -> str:
        at = datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")
        line = self._render(None, "info", {"timestamp": at, "level": "info", "event": event, **fields})
        return f"{line}\n"  # type: ignore[str-bytes-safe]


def _write(text: bytes) -> None:
    try:
        while text:
            text = text[os.write(sys.stderr.fileno(), text) :]
    except OSError:
        # Nobody reads it any more (a closed pipe, a full disk): requests go on.
        return


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
