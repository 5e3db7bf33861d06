"""The load: a process with N kept-alive connections, each sending its next request when its answer is whole.

It checks every answer (status 200, and a stream's `data: [DONE]`), and parses no more than that, so that the machine's
time goes to the server that is measured. `Load` below is run as `python -m tests.bench.load`; `servers` and `measure`
start it and read what it prints: "ready", then after a line on its standard input the result as JSON.
"""

import asyncio
import re
import sys
from time import perf_counter
from typing import cast

import msgspec
import uvloop

DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"
CHUNK_BORDER = re.compile(rb"\r\n[0-9a-fA-F]+\r\n")
TAIL_BYTES = 128


class LoadSpec(msgspec.Struct, frozen=True):
    """What to send: `senders` are pairs of key and model, used in turn; `headers` go with every request.

    `hold` opens every stream and keeps it open.
    """

    port: int
    connections: int
    requests: int
    warmup_requests: int
    stream: bool
    senders: list[tuple[str, str]]
    headers: dict[str, str] = {}
    hold: bool = False


class LoadResult(msgspec.Struct, frozen=True):
    requests: int
    elapsed_s: float
    p50_ms: float
    p99_ms: float


class LoadFailed(Exception):
    """An answer was not what a customer must get; the message shows it."""


class Load:
    """What all connections share: the requests still to send, the latencies, and the end of the phase."""

    def __init__(self, spec: LoadSpec) -> None:
        self.spec = spec
        self.loop = asyncio.get_running_loop()
        self.messages = [request_bytes(spec, key, model) for key, model in spec.senders]
        self.sent = 0
        self.left = 0
        self.latencies_s: list[float] = []
        self.started = 0
        self.finished: asyncio.Future[None] = self.loop.create_future()
        self.all_started: asyncio.Future[None] = self.loop.create_future()

    def next_message(self) -> bytes | None:
        if self.left == 0:
            return None
        self.left -= 1
        self.sent += 1
        return self.messages[self.sent % len(self.messages)]

    def note_start(self) -> None:
        self.started += 1
        if self.started == self.spec.connections and not self.all_started.done():
            self.all_started.set_result(None)

    def note_end(self, latency_s: float) -> None:
        self.latencies_s.append(latency_s)
        if len(self.latencies_s) == self.expected and not self.finished.done():
            self.finished.set_result(None)

    def fail(self, message: str) -> None:
        for future in (self.finished, self.all_started):
            if not future.done():
                future.set_exception(LoadFailed(message))

    async def run_phase(self, connections: list["Connection"], requests: int) -> None:
        self.begin_phase(connections, requests)
        if requests:
            await self.finished

    def begin_phase(self, connections: list["Connection"], requests: int) -> None:
        self.left = self.expected = requests
        self.latencies_s = []
        self.finished = self.loop.create_future()
        for connection in connections:
            connection.send_next()


class Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self.load = load
        self.stream = load.spec.stream
        self.head = b""
        self.tail = b""
        self.body_left: int | None = None
        self.in_body = False
        self.begun = False
        self.sent_at = 0.0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.load.fail(f"the server closed the connection in the middle of an answer: {(self.head + self.tail)!r}")

    def send_next(self) -> None:
        message = self.load.next_message()
        if message is None:
            return
        self.busy = True
        self.sent_at = perf_counter()
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        if not self.in_body:
            self.head += data
            head, separator, data = self.head.partition(b"\r\n\r\n")
            if not separator:
                return
            self.open_body(head, data)
        if self.stream and not self.begun and b"data:" in data:
            self.begun = True
            self.load.note_start()
        if self.body_left is None:
            self.tail = (self.tail + data)[-TAIL_BYTES:]
            if self.tail.endswith(LAST_CHUNK):
                self.close_body()
        else:
            self.body_left -= len(data)
            if self.body_left <= 0:
                self.close_body()

    def open_body(self, head: bytes, beginning: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 200 "):
            self.load.fail(f"not a 200: {head!r} {beginning[:500]!r}")
        _, has_length, rest = head.lower().partition(b"content-length:")
        self.body_left = int(rest.partition(b"\r\n")[0]) if has_length else None
        self.in_body = True

    def close_body(self) -> None:
        if self.stream and not ends_with_done(self.tail):
            self.load.fail(f"a stream ended without [DONE]: {self.tail!r}")
        latency_s = perf_counter() - self.sent_at
        self.head = self.tail = b""
        self.in_body = self.busy = self.begun = False
        self.load.note_end(latency_s)
        self.send_next()


def ends_with_done(tail: bytes) -> bool:
    """True when the body's last bytes are `[DONE]`, also where a server put a chunk border inside of it."""
    body = tail.removesuffix(LAST_CHUNK)
    return body.endswith(DONE) or CHUNK_BORDER.sub(b"", body).endswith(DONE)


def request_bytes(spec: LoadSpec, key: str, model: str) -> bytes:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Say a few words about the sea, please, and be brief."},
    ]
    request: dict[str, object] = {"model": model, "messages": messages, "max_tokens": 256, "temperature": 0.7}
    if spec.stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    body = msgspec.json.encode(request)
    more = "".join(f"{name}: {value}\r\n" for name, value in spec.headers.items()).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n"
        b"Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: bench\r\n"
        b"%sContent-Length: %d\r\n\r\n%s"
    ) % (spec.port, key.encode(), more, len(body), body)


def percentile_ms(sorted_s: list[float], share: float) -> float:
    return 1000 * sorted_s[min(len(sorted_s) - 1, int(len(sorted_s) * share))]


def await_word(word: str) -> None:
    """Say where we are and wait for the parent, who measures the server between two such words."""
    print(word, flush=True)
    sys.stdin.readline()


async def generate_load(spec: LoadSpec) -> LoadResult:
    load = Load(spec)
    connections = [
        (await load.loop.create_connection(lambda: Connection(load), "127.0.0.1", spec.port))[1]
        for _ in range(spec.connections)
    ]
    await load.run_phase(connections, spec.warmup_requests)
    await_word("ready")
    started_at = perf_counter()
    load.begin_phase(connections, spec.requests)
    if spec.hold:
        await load.all_started
        await_word("open")
    await load.finished
    elapsed_s = perf_counter() - started_at
    latencies_s = sorted(load.latencies_s)
    return LoadResult(spec.requests, elapsed_s, percentile_ms(latencies_s, 0.5), percentile_ms(latencies_s, 0.99))


def main() -> int:
    spec = msgspec.json.decode(sys.stdin.readline(), type=LoadSpec)
    try:
        result = uvloop.run(generate_load(spec))
    except LoadFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    print(msgspec.json.encode(result).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
