"""Owns the way of log lines to stderr: a queue, and a thread that writes. Whoever logs neither waits nor fails.

What nobody reads in time (a full pipe) and what cannot be written (a full disk, a closed pipe) is left out, counted, and
told of in a line as soon as lines are written again. The last lines are written when the process exits.
"""

from __future__ import annotations

import atexit
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator

import structlog

_GATHERED_S = 0.1
_MOST_WAITING = 20_000
_CLOSED_WITHIN_S = 1.0
log = structlog.get_logger()


class LogLines:
    """A stream for loggers. Nothing that is called from outside raises, or waits, but for the end."""

    def __init__(self) -> None:
        self.lost = 0
        self._waiting: deque[bytes | Callable[[], bytes]] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write what comes, and what came, until this process exits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=[_stderr()], name="log", daemon=True)
            self._thread.start()
            atexit.register(self._close)

    def put(self, line: bytes | Callable[[], bytes]) -> None:
        """A line without its end, or what makes one: called in the thread."""
        if len(self._waiting) >= _MOST_WAITING:
            self.lost += 1
            return
        self._waiting.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def write(self, text: str) -> None:
        """As a file has it; loggers write whole lines."""
        self.put(text.rstrip("\n").encode("utf-8", "replace"))

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
        while not closing:
            self._wake.wait()
            self._wake.clear()
            # Asked before the lines are taken: what came before the end is among them.
            closing = self._closing.wait(_GATHERED_S)
            written = True
            for piece, count in self._pieces():
                written = _write(stderr, piece)
                if not written:
                    self.lost += count
            if written and self.lost > told:
                count, told = self.lost - told, self.lost
                log.warning("lines of this log are missing: they were not read in time, or not written", count=count)

    def _pieces(self) -> Iterator[tuple[bytes, int]]:
        """Whole lines, and how many: several processes write to one pipe, which keeps together only so much at a time."""
        piece, count = b"", 0
        while self._waiting:
            waiting = self._waiting.popleft()
            try:
                line = (waiting if isinstance(waiting, bytes) else waiting()) + b"\n"
            except Exception:
                self.lost += 1
                continue
            if count and len(piece) + len(line) > select.PIPE_BUF:
                yield piece, count
                piece, count = b"", 0
            piece, count = piece + line, count + 1
        if count:
            yield piece, count


def _stderr() -> int | None:
    """None where it was closed: its number may be another file's by now."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _write(stderr: int | None, text: bytes) -> bool:
    try:
        while text and stderr is not None:
            text = text[os.write(stderr, text) :]
    except OSError:
        return False
    return stderr is not None


lines = LogLines()
