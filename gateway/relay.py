"""Owns one streamed answer on its way to the client: under the alias's name, one id, one finish a choice, usage held back.

A well-formed event passes with its own bytes, but for the model's name. What providers get wrong is put right here, so
that clients need to know one dialect. Nothing here does input or output.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from gateway.chunks import read_usual_chunk
from gateway.loose_json import NotJson, read_fields
from gateway.metering import meters_from_usage
from gateway.runs import Shape, shape_of
from gateway.sse import DONE, DONE_EVENT, EventSplitter, event, usual_data
from models.prices import Meters


class StreamBroken(Exception):
    """The stream is an error, or not a stream of completion chunks. `str()` is for our log: it quotes nothing of the stream."""


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_encode = msgspec.json.Encoder().encode
_MOST_CUTS = 8
_NULL, _NOTHING = Raw(b"null"), Raw()
_EMPTY_LIST = Raw(b"[]")
_ERROR = Raw(b'"error"')


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
        self._frame = b""  # the event whose fields our own chunks repeat
        self._shape: Shape | None = None

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
        if self._shape is not None and self._splitter.is_between_events:
            run = self._shape.pass_run(chunk)
            if run is not None:
                self.text += run[1]
                return run[0]
        out: list[bytes] = []
        # A packet often begins or ends with an event that is not like the others (a role, a finish): those one by one,
        # what stands between them as a run. When that does not help soon, all of the rest event by event.
        for _ in range(_MOST_CUTS):
            if not chunk or self.ended or not self._splitter.is_between_events:
                break
            shape = self._shape
            if shape is not None and chunk.startswith(shape.before):
                end = chunk.rfind(shape.after) + len(shape.after)
                run = shape.pass_run(chunk[:end])
                if run is None:
                    break
                out.append(run[0])
                self.text += run[1]
            else:
                end = chunk.find(b"\n\n") + 2
                if end < 2:
                    break
                whole = chunk[:end]
                data = usual_data(whole)
                if data:
                    self._relay_event(data, whole, out)
                else:
                    self._relay(self._splitter.feed(whole), out)
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
                usage = _fields_of(bytes(self.usage))
            if not usage:
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
            self._relay_event(data, event(data), out)

    def _relay_event(self, data: bytes, whole: bytes, out: list[bytes]) -> None:
        if data == DONE:
            self.ended = self._done = True
            return
        try:
            sent = self._relay_one(data, whole)
        except StreamBroken as fault:
            # The client gets what came before it in the same packet; if that is the first, another route may serve.
            if not out or not (self.began or self.is_whole):
                raise
            self.ended, self._fault = True, fault
            return
        if sent:
            out.append(sent)

    def _relay_one(self, data: bytes, whole: bytes) -> bytes:
        run = self._shape.pass_run(whole) if self._shape is not None else None
        if run is not None:
            self.text += run[1]
            return run[0]
        roles, finished = len(self._roles), len(self._finished)
        out = (b'"usage":{' not in data and self._pass(data)) or self._rebuild(data)
        if not out:
            return b""
        sent = event(out)
        # The first event of a choice and its last are like no other.
        is_between = roles == len(self._roles) and finished == len(self._finished)
        self._shape = shape_of(whole, sent) if is_between else None
        return sent

    def _pass(self, data: bytes) -> bytes:
        """A well-formed event with its own bytes, but for the model's name; nothing when it must be looked at closely."""
        chunk = read_usual_chunk(data)
        if chunk is None or chunk.id != (self._id or chunk.id):
            return b""
        choice = chunk.choices[0]
        delta = choice.delta
        if (
            choice.finish_reason == "error"
            or choice.index in self._finished
            or (delta.role != "assistant" and choice.index not in self._roles)
        ):
            return b""
        name = b'"model":' + _encode(chunk.model)
        if data.count(name) != 1:
            return b""
        out = data.replace(name, b'"model":' + self._alias)
        if chunk.usage not in (_NOTHING, _NULL):
            return b""
        if chunk.usage == _NULL:
            # What includes usage says null in every event but the last; clients that did not ask would not see it.
            if out.count(b',"usage":null') != 1:
                return b""
            out = out.replace(b',"usage":null', b"")
        if self._id is None:
            self._id = chunk.id
            self._frame = data
        self._roles.add(choice.index)
        if choice.finish_reason is not None:
            self._finished.add(choice.index)
        if delta.content:
            self.text += delta.content.encode("utf-8", "replace")
        return out

    # ── the careful way: take the event apart, put right what is wrong, put it together ───────────────────────────

    def _rebuild(self, data: bytes) -> bytes:
        if not data.isascii():
            # Bytes that are no text are read as browsers read them.
            data = data.decode("utf-8", "replace").encode()
        try:
            fields = read_fields(data)
        except NotJson as error:
            raise StreamBroken(str(error)) from None
        error_raw = fields.get("error", _NULL)
        if error_raw != _NULL:
            raise StreamBroken("an error event")
        usage = fields.pop("usage", _NULL)
        if usage != _NULL:
            self.usage = usage.copy()
        choices = self._choices(fields)
        if not choices and usage != _NULL:
            # A usage chunk. Ours is made at the end, of this one's other fields.
            self._frame = data
            return b""
        if not choices and fields.get("choices", _NULL) not in (_NULL, _EMPTY_LIST):
            # Nothing is left of it, and clients reach for the first choice of whatever comes.
            return b""
        if fields.get("choices", _NULL) == _NULL and "object" not in fields:
            raise StreamBroken("not a chunk")
        if self._id is None:
            self._id = self._read_id(fields)
            self._frame = data
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
        except msgspec.DecodeError:
            raise StreamBroken("choices of another shape") from None

    def _put_right(self, choice: dict[str, Raw]) -> bool:
        """False for a choice that says nothing."""
        if not choice:
            return False
        index = _value(choice.get("index", _NULL)) or 0
        if type(index) is not int:
            raise StreamBroken("a choice's index is no number")
        finish = choice.get("finish_reason", _NULL)
        if choice.get("error", _NULL) != _NULL or finish == _ERROR:
            raise StreamBroken("an error in a choice")
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
        frame = _fields_of(self._frame)
        fields = {
            "id": Raw(_encode(self._id or f"chatcmpl-{self._request_id}")),
            "object": Raw(b'"chat.completion.chunk"'),
            "created": frame.get("created", Raw(b"%d" % self._created_s)),
            "model": Raw(self._alias),
        }
        for name in ("system_fingerprint", "service_tier"):
            if name in frame:
                fields[name] = frame[name]
        fields["choices"] = choices
        if usage is not None:
            fields["usage"] = usage
        return _encode(fields)


def _fields_of(data: bytes) -> dict[str, Raw]:
    """None of what cannot be read: the answer was paid for, and its end must not fail for what it repeats."""
    try:
        return read_fields(data)
    except NotJson:
        return {}


def _tool_text(raw: Raw) -> bytes:
    """What the model wrote of its tool calls: the names and arguments, without the JSON around them."""
    calls = _value(raw)
    written = []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            written += [part for part in (function.get("name"), function.get("arguments")) if isinstance(part, str)]
    return "".join(written).encode("utf-8", "replace")


def _value(raw: Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError):
        raise StreamBroken("not JSON") from None
