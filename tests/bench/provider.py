"""The instant provider: answers a chat completion at once, so that only the program in front of it is measured.

It speaks just enough HTTP/1.1 for that. The model's name chooses the manner: `instant`, `paced` (a stream that leaves
`PACED_GAP_S` between its events, as a real provider does) and `hold` (a stream that sends one event and waits for
`POST /control/release`; `GET /control/held` tells how many wait). The simulated provider with faults is the product's
own `gateway simulate-provider`; this one only has to be fast.
"""

import asyncio
import sys
from collections.abc import Iterator
from itertools import chain
from typing import ClassVar, cast

import orjson
import uvloop

MANNERS = ("instant", "paced", "hold")
STREAM_EVENTS = 100
PACED_GAP_S = 0.005

TEXT = " ".join(["An instant provider answers the same few words every time, and counts them honestly."] * 2)
JSON_USAGE = {"prompt_tokens": 17, "completion_tokens": 24, "total_tokens": 41}
STREAM_USAGE = {"prompt_tokens": 17, "completion_tokens": STREAM_EVENTS, "total_tokens": 17 + STREAM_EVENTS}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


class Exchange(asyncio.Protocol):
    """One kept-alive connection. Clients here never pipeline, so one request is in hand at a time."""

    held: ClassVar[set["Exchange"]] = set()

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.received = b""
        self.pending: Iterator[bytes] = iter(())
        self.gap_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pending = iter(())
        self.held.discard(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if not separator or len(body) < content_length(head):
            return
        self.received = b""
        if head.startswith(b"POST /v1/chat/completions "):
            self.complete(orjson.loads(body))
        elif head.startswith(b"POST /control/release "):
            self.release_all()
        elif head.startswith(b"GET /control/held "):
            self.transport.write(json_response(str(len(self.held)).encode()))
        else:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def complete(self, request: dict[str, object]) -> None:
        if not request.get("stream"):
            self.transport.write(JSON_ANSWER)
            return
        options = request.get("stream_options")
        asked = isinstance(options, dict) and bool(options.get("include_usage"))
        self.pending = iter(STREAM_WITH_USAGE if asked else STREAM_WITHOUT_USAGE)
        self.gap_s = PACED_GAP_S if request["model"] == "paced" else 0.0
        if request["model"] == "hold":
            self.transport.write(STREAM_HEAD)
            self.transport.write(next(self.pending))
            self.held.add(self)
        else:
            self.transport.write(STREAM_HEAD)
            self.loop.call_soon(self.emit)

    def emit(self) -> None:
        """Write one event, and leave the next to a later turn of the loop: a provider sends tokens one by one."""
        event = next(self.pending, None)
        if event is None:
            return
        self.transport.write(event)
        if self.gap_s:
            self.loop.call_later(self.gap_s, self.emit)
        else:
            self.loop.call_soon(self.emit)

    def release_all(self) -> None:
        released = list(self.held)
        self.held.clear()
        for exchange in released:
            exchange.emit()
        self.transport.write(json_response(str(len(released)).encode()))


def content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def json_response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def event_chunk(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def stream_chunk(choices: list[dict[str, object]], **more: object) -> bytes:
    frame = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1767225600, "model": "instant-1"}
    return event_chunk(orjson.dumps({**frame, "system_fingerprint": "fp_bench", "choices": choices, **more}))


def content_event(position: int) -> bytes:
    delta = {"role": "assistant", "content": "An"} if position == 0 else {"content": f" word{position % 10}"}
    return stream_chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])


def stream_events(*, usage: bool) -> list[bytes]:
    contents = (content_event(position) for position in range(STREAM_EVENTS))
    last = [stream_chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}])]
    if usage:
        last.append(stream_chunk([], usage=STREAM_USAGE))
    return list(chain(contents, last, [event_chunk(b"[DONE]"), STREAM_END]))


JSON_ANSWER = json_response(
    orjson.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1767225600,
            "model": "instant-1",
            "system_fingerprint": "fp_bench",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": TEXT, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": JSON_USAGE,
        }
    )
)
STREAM_WITH_USAGE = stream_events(usage=True)
STREAM_WITHOUT_USAGE = stream_events(usage=False)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Exchange, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
