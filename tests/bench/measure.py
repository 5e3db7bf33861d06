"""One measurement: a load of so many requests against one server, and what it took of time, processor and memory."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from tests.bench.load import LoadResult, LoadSpec
from tests.bench.servers import ROOT, Server

SETTLING_S = 0.3


@dataclass(frozen=True)
class Scenario:
    """A kind of request (json, stream, paced) at a number of connections, with a fixed number of requests."""

    kind: str
    connections: int
    requests: int

    @property
    def stream(self) -> bool:
        return self.kind != "json"

    @property
    def manner(self) -> str:
        return "paced" if self.kind == "paced" else "instant"

    @property
    def warmup_requests(self) -> int:
        return max(self.connections, self.requests // 10)


@dataclass(frozen=True)
class Sample:
    requests_per_s: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    rss_mib: float


@dataclass(frozen=True)
class OpenStreams:
    streams: int
    before_mib: float
    open_mib: float

    @property
    def kib_each(self) -> float:
        return (self.open_mib - self.before_mib) * 1024 / self.streams


class MeasurementFailed(Exception):
    """The load saw an answer that no customer may get."""


def measure(server: Server, scenario: Scenario) -> Sample:
    senders = server.senders[scenario.manner]
    spec = LoadSpec(
        port=server.port,
        connections=scenario.connections,
        requests=scenario.requests,
        warmup_requests=max(scenario.warmup_requests, len(senders)),
        stream=scenario.stream,
        senders=senders,
    )
    with load_process(spec) as load:
        expect(load, "ready")
        cpu_before_s = server.cpu_s()
        proceed(load)
        result = msgspec.json.decode(next_line(load), type=LoadResult)
        # What the server does after the last byte (usage rows, counters) belongs to the requests as well.
        time.sleep(SETTLING_S)
        cpu_s = server.cpu_s() - cpu_before_s
    return Sample(
        requests_per_s=result.requests / result.elapsed_s,
        cpu_ms=1000 * cpu_s / result.requests,
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        rss_mib=server.rss_mib(),
    )


def measure_open_streams(server: Server, provider: Server, streams: int) -> OpenStreams:
    """How much memory a stream takes while it is open: all are held by the provider after their first event."""
    measure(server, Scenario("stream", 64, 200))
    before_mib = server.rss_mib()
    spec = LoadSpec(
        port=server.port,
        connections=streams,
        requests=streams,
        warmup_requests=0,
        stream=True,
        senders=server.senders["hold"],
        hold=True,
    )
    with load_process(spec) as load:
        expect(load, "ready")
        proceed(load)
        expect(load, "open")
        open_mib = server.rss_mib()
        held = ask_provider(provider, "GET", "held")
        if held != streams:
            raise MeasurementFailed(f"{held} of {streams} streams are open at the provider")
        ask_provider(provider, "POST", "release")
        proceed(load)
        next_line(load)
    return OpenStreams(streams, before_mib, open_mib)


def ask_provider(provider: Server, method: str, what: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{provider.port}/control/{what}", method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(answer.read())


@contextmanager
def load_process(spec: LoadSpec) -> Iterator[subprocess.Popen[bytes]]:
    """The load generator, given its specification, and gone at the end whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(spec) + b"\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.communicate()


def next_line(load: subprocess.Popen[bytes]) -> bytes:
    assert load.stdout is not None
    line = load.stdout.readline().strip()
    if not line:
        raise MeasurementFailed("the load generator stopped; its reason stands above")
    return line


def expect(load: subprocess.Popen[bytes], word: str) -> None:
    line = next_line(load).decode()
    if line != word:
        raise MeasurementFailed(f"the load generator said {line!r} instead of {word!r}")


def proceed(load: subprocess.Popen[bytes]) -> None:
    assert load.stdin is not None
    load.stdin.write(b"go\n")
    load.stdin.flush()
