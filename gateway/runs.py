"""Owns the short way of a stream: events that differ from the one before in their few words alone. Pure.

Nearly all of a stream is such events. A run of them is cut at the bytes that stand between the words of two, and if only
words are left it is put together again under our name: no event is parsed, and the cost of one is a tenth.
"""

from __future__ import annotations

import re

import msgspec

_NEEDLE = 16
_WORDS = re.compile(rb'"(?:content|reasoning_content|reasoning)": ?"')
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


class Shape(msgspec.Struct, frozen=True):
    """The bytes before, between and after the words of events, as they came and as they go out."""

    before: bytes
    between: bytes
    after: bytes
    own_before: bytes
    own_between: bytes
    own_after: bytes

    def pass_run(self, chunk: bytes) -> tuple[bytes, bytes] | None:
        """(what goes out, the words as UTF-8), or None when the chunk is anything but a run of this shape.

        Words without a quote cannot end the JSON string they stand in, so they are that string's content, nothing else.
        """
        if not (chunk.startswith(self.before) and chunk.endswith(self.after)):
            return None
        middle = chunk[len(self.before) : len(chunk) - len(self.after)]
        if not _is_text(middle):
            return None
        if b'"' not in middle and b"\\" not in middle:
            return self.own_before + middle + self.own_after, middle
        # Splitting at a few bytes is quicker than at hundreds; joining again proves that those few stood for all.
        first, *others = middle.split(self.between[:_NEEDLE])
        skipped = len(self.between) - _NEEDLE
        words = [first, *[other[skipped:] for other in others]]
        text = b"".join(words)
        if b'"' in text or self.between.join(words) != middle:
            return None
        if b"\\" in text:
            # A backslash may belong to what follows, and half an emoji must be looked at.
            if any(word.endswith(b"\\") for word in words) or _HALF_CHARACTER.search(text):
                return None
            try:
                text = msgspec.json.decode(b'"' + text + b'"', type=str).encode()
            except (msgspec.DecodeError, UnicodeError):
                return None
        return self.own_before + self.own_between.join(words) + self.own_after, text


def _is_text(events: bytes) -> bool:
    """No word has half of a character, or no character at all, in it: not even beside its other half in the next one."""
    try:
        return events.isascii() or bool(events.decode())
    except UnicodeDecodeError:
        return False


def shape_of(came: bytes, out: bytes) -> Shape | None:
    """The shape of a plain text event, seen in what came and in what went out; None when it is not that plain.

    Neither the first event of a choice nor its last: what is beside the words would be repeated blindly.
    """
    if b"\\" in came or b'"tool_calls"' in out or out.count(b'"index"') != 1:
        return None
    came_parts, out_parts = _around_words(came), _around_words(out)
    if came_parts is None or out_parts is None or came_parts[1] != out_parts[1]:
        return None
    (before, _, after), (own_before, _, own_after) = came_parts, out_parts
    return Shape(before, after + before, after, own_before, own_after + own_before, own_after)


def _around_words(text: bytes) -> tuple[bytes, bytes, bytes] | None:
    found = _WORDS.findall(text)
    if len(found) != 1:
        return None
    before, _, rest = text.partition(found[0])
    words, _, after = rest.partition(b'"')
    return before + found[0], words, b'"' + after
