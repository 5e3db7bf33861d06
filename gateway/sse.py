"""Owns server-sent events on the wire, pure: bytes in, the data of whole events out; and how our own events look."""

from __future__ import annotations

DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
# Real providers send events of 1.5 MB (a large tool call at once). An endless line must not eat memory.
MOST_EVENT_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """A provider sent more than MOST_EVENT_BYTES without ending an event."""


class EventSplitter:
    """Tolerates what providers do: CRLF, a BOM, comments, `data:` without a space, events cut anywhere by packets."""

    __slots__ = ("_rest", "_searched", "_started")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0
        self._started = False

    @property
    def is_between_events(self) -> bool:
        return not self._rest

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that is whole now. Raises EventTooLarge."""
        if not self._rest and chunk[-2:] == b"\n\n" and self._started and b"\r" not in chunk:
            blocks = chunk[:-2].split(b"\n\n")
        else:
            blocks = self._gather(chunk)
        events = []
        for block in blocks:
            if block[:6] == b"data: " and block[6:7] > b" " and b"\n" not in block:
                events.append(block[6:])
            else:
                data = _data_of(block)
                if data:
                    events.append(data)
        return events

    def close(self) -> list[bytes]:
        """What stood unfinished when the connection ended cleanly: some providers end without the last blank line."""
        rest = bytes(self._rest).replace(b"\r", b"\n")
        self._rest.clear()
        data = _data_of(rest)
        return [data] if data else []

    def _gather(self, chunk: bytes) -> list[bytes]:
        rest = self._rest
        rest += chunk
        if not self._started:
            if len(rest) < len(_BOM) and _BOM.startswith(rest):
                return []
            self._started = True
            if rest.startswith(_BOM):
                del rest[: len(_BOM)]
        if b"\r" in rest:
            # The last CR may be half of a CRLF; it stays as it is until the next packet tells.
            held = b"\r" if rest[-1:] == b"\r" else b""
            whole = bytes(rest[: len(rest) - len(held)]).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            rest[:] = whole + held
            self._searched = 0
        end = rest.rfind(b"\n\n", max(0, self._searched - 1))
        if end < 0:
            self._searched = len(rest)
            if len(rest) > MOST_EVENT_BYTES:
                raise EventTooLarge
            return []
        blocks = bytes(rest[:end]).split(b"\n\n")
        del rest[: end + 2]
        self._searched = 0
        return blocks


def _data_of(block: bytes) -> bytes:
    """The `data:` lines of a block; comments, `event:`, `id:` and `retry:` are dropped.

    Joined by a space, so that JSON written over several lines becomes one line: its line breaks mean nothing.
    """
    lines = []
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value[:1] == b" " else value)
    return b" ".join(lines).strip()


def usual_data(event: bytes) -> bytes:
    """The data of a whole event that is one plain `data: ` line; nothing for any other, which is the splitter's."""
    data = event[6:-2]
    is_usual = event[:6] == b"data: " and data[:1] > b" " and b"\n" not in data and b"\r" not in data
    return data if is_usual else b""


def event(data: bytes) -> bytes:
    """One event of ours: one `data:` line, LF, one blank line."""
    return b"data: " + data + b"\n\n"
