"""Owns the way of log lines to stderr: a queue, and a thread that writes. Whoever logs neither waits nor fails.

What nobody reads in time (a full pipe) and what cannot be written (a full disk, a closed pipe) is left out, counted, and
told of in a line as soon as lines are written again. The last lines are written when the process exits.
"""

from __future__ import annotations

import atexit
import itertools
import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog

_GATHERED_S = 0.1
_MOST_WAITING = 20_000
_RENDERED_AT_ONCE = 500
_MOST_AT_ONCE = 256 * 1024
_CLOSED_WITHIN_S = 1.0
log = structlog.get_logger()


class LogLines:
    """A stream for loggers. Nothing that is called from outside raises, or waits, but for the end."""

    def __init__(self) -> None:
        self.lost = 0
        self._waiting: deque[Any] = deque()
        self._render: Callable[[Sequence[Any]], Sequence[bytes]] = _nothing
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write what comes, and what came, until this process exits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=[_stderr()], name="log", daemon=True)
            self._thread.start()
            atexit.register(self._close)

    def render_by(self, render: Callable[[Sequence[Any]], Sequence[bytes]]) -> None:
        """Let `render` make whole lines of what is put here and is no line yet: in the thread, many at a time."""
        self._render = render

    def put(self, line: Any) -> None:
        """A line with its end, or what one is made of."""
        if len(self._waiting) >= _MOST_WAITING:
            self.lost += 1
            return
        self._waiting.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def write(self, text: str) -> None:
        """As a file has it; loggers write whole lines."""
        self.put(text.rstrip("\n").encode("utf-8", "replace") + b"\n")

    def flush(self) -> None:
        """It is done soon anyway."""

    def _close(self) -> None:
        """Everything is written, unless nobody reads it."""
        assert self._thread is not None
        self._closing.set()
        self._wake.set()
        self._thread.join(_CLOSED_WITHIN_S)

    # ── its thread ────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, stderr: int | None) -> None:
        told = 0
        closing = False
        most = _most_at_once(stderr)
        while not closing:
            self._wake.wait()
            self._wake.clear()
            # Asked before the lines are taken: what came before the end is among them.
            closing = self._closing.wait(_GATHERED_S)
            written = True
            while lines := self._lines():
                for piece in _pieces(lines, most):
                    left = _write(stderr, piece)
                    written = not left
                    self.lost += left.count(b"\n")
            if written and self.lost > told:
                count, told = self.lost - told, self.lost
                log.warning("lines of this log are missing: they were not read in time, or not written", count=count)

    def _lines(self) -> list[bytes]:
        """The oldest that wait; none when none do. Made in few calls: the event loop wants the processor."""
        lines: list[bytes] = []
        while self._waiting and not lines:
            waiting = [self._waiting.popleft() for _ in range(min(_RENDERED_AT_ONCE, len(self._waiting)))]
            for is_line, alike in itertools.groupby(waiting, lambda line: isinstance(line, bytes)):
                run = list(alike)
                lines += run if is_line else self._rendered(run)
        return lines

    def _rendered(self, told: list[Any]) -> list[bytes]:
        try:
            return list(self._render(told))
        except Exception:
            if len(told) > 1:
                return [line for each in told for line in self._rendered([each])]
            self.lost += 1
            return []


def _pieces(lines: Sequence[bytes], most: int) -> Iterator[bytes]:
    """Whole lines of so many bytes, if not one is longer."""
    start = size = 0
    for end, line in enumerate(lines):
        if size and size + len(line) > most:
            yield b"".join(lines[start:end])
            start, size = end, 0
        size += len(line)
    yield b"".join(lines[start:])


def _nothing(_told: Sequence[Any]) -> list[bytes]:
    """Nobody has said yet how such lines are made."""
    raise LookupError


def _most_at_once(stderr: int | None) -> int:
    """Several processes write to one pipe, which keeps together only so much at a time; a file keeps everything."""
    try:
        is_file = stderr is not None and stat.S_ISREG(os.fstat(stderr).st_mode)
    except OSError:
        is_file = False
    return _MOST_AT_ONCE if is_file else select.PIPE_BUF


def _stderr() -> int | None:
    """None where it was closed: its number may be another file's by now."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _write(stderr: int | None, text: bytes) -> bytes:
    """What is left of it, from the line on that could not be written; nothing mostly."""
    try:
        while text and stderr is not None:
            text = text[os.write(stderr, text) :]
    except OSError:
        pass
    return text


lines = LogLines()
