"""Owns one streamed answer on its way to the client: under the alias's name, one id, one finish a choice, usage held back.

A well-formed event passes with its own bytes, but for the model's name. What providers get wrong is put right here, so
that clients need to know one dialect. Nothing here does input or output.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Raw

from gateway.metering import meters_from_usage
from gateway.sse import DONE, DONE_EVENT, EventSplitter, event
from models.prices import Meters


class StreamBroken(Exception):
    """The stream is an error, or not a stream of completion chunks. `str()` is for our log, never for the client."""


class _Shape(msgspec.Struct, frozen=True):
    """The bytes before, between and after the words of events, as they came and as they go out."""

    before: bytes
    between: bytes
    after: bytes
    own_before: bytes
    own_between: bytes
    own_after: bytes


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_encode = msgspec.json.Encoder().encode
_MOST_CUTS = 8
_NULL, _NOTHING = Raw(b"null"), Raw()
_EMPTY_LIST = Raw(b"[]")
# Every escape of a JSON string; the group is half of a character beyond U+FFFF, without its other half.
_ESCAPES = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)


class StreamRelay:
    """Feed it the provider's bytes; send what it returns. Then ask whether the answer was whole, and what it used."""

    def __init__(self, alias: str, request_id: str, created_s: int, *, wants_usage: bool, choices: int = 1) -> None:
        self.began = False  # something of the answer was returned
        self.ended = False  # nothing more is to come: [DONE] came, or what is no chunk
        self._done = False  # [DONE] came
        self._fault: StreamBroken | None = None
        self._asked_choices = choices
        self.usage: Raw = _NOTHING
        self.text = bytearray()  # what the model wrote, in case nobody counted it
        self._alias = _encode(alias)
        self._created_s = created_s
        self._wants_usage = wants_usage
        self._splitter = EventSplitter()
        self._id: str | None = None
        self._request_id = request_id
        self._roles: set[int] = set()
        self._finished: set[int] = set()
        self._last_fields: dict[str, Raw] = {}
        self._shape: _Shape | None = None

    @property
    def is_whole(self) -> bool:
        """Every choice was finished, or the provider said that it is done."""
        return self._done or (len(self._finished) >= self._asked_choices and self._roles <= self._finished)

    @property
    def meters(self) -> Meters | None:
        """What the provider counted; the last count stands, for some count up as they go."""
        return None if self.usage == _NOTHING else meters_from_usage(self.usage)

    def feed(self, chunk: bytes) -> bytes:
        """What to send now. Raises StreamBroken for an error event or for something that is no chunk."""
        out: list[bytes] = []
        # A packet often begins or ends with an event that is not like the others (a role, a finish): those one by one,
        # what stands between them as a run. When that does not help soon, all of the rest event by event.
        for _ in range(_MOST_CUTS):
            if not chunk or not self._splitter.is_between_events:
                break
            shape = self._shape
            if shape is not None and chunk.startswith(shape.before):
                end = chunk.rfind(shape.after) + len(shape.after)
                run = self._relay_run(shape, chunk[:end])
                if not run:
                    break
                out.append(run)
            else:
                end = chunk.find(b"\n\n") + 2
                if end < 2:
                    break
                self._relay(self._splitter.feed(chunk[:end]), out)
            chunk = chunk[end:]
        if chunk:
            self._relay(self._splitter.feed(chunk), out)
        return self._joined(out)

    def close(self) -> bytes:
        """The provider closed the connection cleanly, or nothing more is to come. Raises what broke the stream, if it did."""
        if self._fault is not None:
            raise self._fault
        out: list[bytes] = []
        self._relay(self._splitter.close(), out)
        return self._joined(out)

    def tail(self, meters: Meters, cost_credits: str) -> bytes:
        """The end of a whole answer: missing finish reasons, usage if it was asked for, `[DONE]`."""
        parts = []
        for index in sorted(self._roles - self._finished):
            choice = [{"index": index, "delta": {}, "finish_reason": "stop"}]
            parts.append(event(self._own_chunk(Raw(_encode(choice)))))
        if self._wants_usage:
            usage = {}
            if self.usage != _NOTHING and self.meters is not None:
                usage = _decode_fields(self.usage)
            else:
                counts = (meters.input, meters.output, meters.total)
                names = ("prompt_tokens", "completion_tokens", "total_tokens")
                usage = {name: Raw(b"%d" % count) for name, count in zip(names, counts, strict=True)}
            usage["cost_credits"] = Raw(_encode(cost_credits))
            parts.append(event(self._own_chunk(_EMPTY_LIST, Raw(_encode(usage)))))
        parts.append(DONE_EVENT)
        return b"".join(parts)

    # ── event by event ────────────────────────────────────────────────────────────────────────────────────────────

    def _joined(self, out: list[bytes]) -> bytes:
        if out:
            self.began = True
        return b"".join(out)

    def _relay(self, events: list[bytes], out: list[bytes]) -> None:
        for data in events:
            if self.ended:
                break
            if data == DONE:
                self.ended = self._done = True
                break
            whole = event(data)
            try:
                sent = (self._shape and self._relay_run(self._shape, whole)) or self._relay_one(data)
            except StreamBroken as fault:
                # The client gets what came before it in the same packet; if that is the first, another route may serve.
                if not out or not (self.began or self.is_whole):
                    raise
                self.ended, self._fault = True, fault
                break
            if sent:
                out.append(sent)

    def _relay_run(self, shape: _Shape, chunk: bytes) -> bytes:
        """Most events differ from the one before in their few words alone; a run of those is passed without parsing.

        Cut at the bytes that stand between the words of two such events, nothing but words may be left. Text without a
        quote cannot end the JSON string it stands in, so it is that string's content and nothing else.
        """
        if not (chunk.startswith(shape.before) and chunk.endswith(shape.after)):
            return b""
        words = chunk[len(shape.before) : len(chunk) - len(shape.after)].split(shape.between)
        text = b"".join(words)
        if b'"' in text:
            return b""
        if b"\\" in text:
            # A backslash may belong to what follows; half an emoji must be looked at.
            if any(word.endswith(b"\\") for word in words) or b"\\ud" in text or b"\\uD" in text:
                return b""
            text = _text_of(text)
        self.text += text
        return shape.own_before + shape.own_between.join(words) + shape.own_after

    def _relay_one(self, data: bytes) -> bytes:
        out = self._rebuild(data)
        if not out:
            return b""
        sent = event(out)
        self._shape = _shape_of(event(data), sent)
        return sent

    # ── the careful way: take the event apart, put right what is wrong, put it together ───────────────────────────

    def _rebuild(self, data: bytes) -> bytes:
        try:
            fields = _decode_chunk(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StreamBroken(f"not a chunk ({error}): {data[:200]!r}") from None
        error_raw = fields.get("error", _NULL)
        if error_raw != _NULL:
            raise StreamBroken(f"error event: {bytes(error_raw)[:500]!r}")
        usage = fields.pop("usage", _NULL)
        if usage != _NULL:
            self.usage = usage.copy()
        choices = self._choices(fields)
        if not choices and usage != _NULL:
            # A usage chunk. Ours is made at the end, of this one's other fields.
            self._last_fields = {name: raw.copy() for name, raw in fields.items()}
            return b""
        if not choices and fields.get("choices", _NULL) not in (_NULL, _EMPTY_LIST):
            # Nothing is left of it, and clients reach for the first choice of whatever comes.
            return b""
        if fields.get("choices", _NULL) == _NULL and "object" not in fields:
            raise StreamBroken(f"not a chunk: {data[:200]!r}")
        if self._id is None:
            self._id = self._read_id(fields)
            self._last_fields = {name: raw.copy() for name, raw in fields.items()}
        fields["id"] = Raw(_encode(self._id))
        fields["model"] = Raw(self._alias)
        fields["choices"] = Raw(_encode(choices))
        return _encode(fields)

    def _choices(self, fields: dict[str, Raw]) -> list[dict[str, Raw]]:
        raw = fields.get("choices", _NULL)
        if raw == _NULL:
            return []
        try:
            return [choice for choice in _decode_list(raw) if self._put_right(choice)]
        except msgspec.DecodeError as error:
            raise StreamBroken(f"choices: {error}") from None

    def _put_right(self, choice: dict[str, Raw]) -> bool:
        """False for a choice that says nothing."""
        if not choice:
            return False
        index = _value(choice.get("index", _NULL)) or 0
        if type(index) is not int:
            raise StreamBroken(f"a choice's index is {index!r}")
        finish = choice.get("finish_reason", _NULL)
        delta_raw = choice.get("delta", _NULL)
        delta: dict[str, Raw] = _decode_fields(delta_raw) if delta_raw != _NULL else {}
        if index in self._finished:
            # A second finish is dropped; text after the end would confuse every client.
            return False
        if index not in self._roles:
            self._roles.add(index)
            delta = {"role": Raw(b'"assistant"')} | delta
            if delta["role"] == _NULL:
                delta["role"] = Raw(b'"assistant"')
        for name in ("content", "reasoning_content", "reasoning", "refusal"):
            if name in delta and delta[name] != _NULL:
                value = _value(delta[name])
                self.text += value.encode("utf-8", "replace") if isinstance(value, str) else bytes(delta[name])
        if "tool_calls" in delta:
            self.text += _tool_text(delta["tool_calls"])
        if finish != _NULL:
            self._finished.add(index)
        choice["index"] = Raw(b"%d" % index)
        choice["delta"] = Raw(_encode(delta))
        choice["finish_reason"] = finish
        return True

    def _read_id(self, fields: dict[str, Raw]) -> str:
        given = _value(fields.get("id", _NULL))
        return given if isinstance(given, str) and given else f"chatcmpl-{self._request_id}"

    def _own_chunk(self, choices: Raw, usage: Raw | None = None) -> bytes:
        fields = {
            "id": Raw(_encode(self._id or f"chatcmpl-{self._request_id}")),
            "object": Raw(b'"chat.completion.chunk"'),
            "created": self._last_fields.get("created", Raw(b"%d" % self._created_s)),
            "model": Raw(self._alias),
        }
        for name in ("system_fingerprint", "service_tier"):
            if name in self._last_fields:
                fields[name] = self._last_fields[name]
        fields["choices"] = choices
        if usage is not None:
            fields["usage"] = usage
        return _encode(fields)


# What may not stand beside the words of events that are passed alike: it would be repeated blindly.
_SPECIAL = re.compile(rb'"(?:finish_reason":\s*"|tool_calls"|role"|reasoning|index":.*"index")')


def _shape_of(came: bytes, out: bytes) -> _Shape | None:
    """The shape of a plain text event, seen in what came and in what went out; None when it is not that plain."""
    if b"\\" in came or _SPECIAL.search(out):
        return None
    came_parts, out_parts = _around_words(came), _around_words(out)
    if came_parts is None or out_parts is None or came_parts[1] != out_parts[1]:
        return None
    (before, _, after), (own_before, _, own_after) = came_parts, out_parts
    return _Shape(before, after + before, after, own_before, own_after + own_before, own_after)


def _around_words(text: bytes) -> tuple[bytes, bytes, bytes] | None:
    found = _WORDS.findall(text)
    if len(found) != 1:
        return None
    before, _, rest = text.partition(found[0])
    words, _, after = rest.partition(b'"')
    return before + found[0], words, b'"' + after


_WORDS = re.compile(rb'"content": ?"')


def _decode_chunk(data: bytes) -> dict[str, Raw]:
    try:
        return _decode_fields(data)
    except msgspec.DecodeError:
        # Providers that cut text between UTF-16 halves send each half as an escape. Neither means anything alone.
        mended = _ESCAPES.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)
        if mended == data:
            raise
        return _decode_fields(mended)


def _tool_text(raw: Raw) -> bytes:
    """What the model wrote of its tool calls: the names and arguments, without the JSON around them."""
    calls = _value(raw)
    written = []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            written += [part for part in (function.get("name"), function.get("arguments")) if isinstance(part, str)]
    return "".join(written).encode("utf-8", "replace")


def _text_of(words: bytes) -> bytes:
    value = _value(Raw(b'"' + words + b'"'))
    return str(value).encode("utf-8", "replace")


def _value(raw: Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError) as error:
        raise StreamBroken(f"not JSON: {error}") from None
