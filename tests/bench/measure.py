"""One measurement: a load of so many requests against one server, and what it took of time, processor and memory."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import linear_regression

import msgspec

from tests.bench.load import LoadResult, LoadSpec
from tests.bench.servers import ROOT, Server
from tests.bench.visitors import visitors

SETTLING_S = 0.3
MEMORY_PARTS = 20


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


@dataclass(frozen=True)
class Memory:
    """The memory of a server after so many requests, at several moments of a long run."""

    requests: list[int]
    rss_mib: list[float]

    @property
    def slope_mib(self) -> float:
        """MiB per 100,000 requests: the line through the later three quarters, when caches and pools have filled."""
        later = len(self.requests) // 4
        return 100_000 * linear_regression(self.requests[later:], self.rss_mib[later:]).slope


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
        headers=dict(server.headers),
    )
    with load_process(server, spec) as load, visitors(server):
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


def warm_up(server: Server, scenario: Scenario, for_s: float) -> None:
    """Load it unmeasured for a while: Node.js compiles what is called often, and costs half after some 10,000 requests."""
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        measure(server, scenario)


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
    with load_process(server, spec) as load:
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


def measure_memory(server: Server, requests: int) -> Memory:
    """Load the server in equal parts, and look at its memory after each."""
    part = Scenario("json", 64, max(64, requests // MEMORY_PARTS))
    seen, rss_mib = list[int](), list[float]()
    while not seen or seen[-1] < requests:
        sample = measure(server, part)
        seen.append((seen[-1] if seen else 0) + part.requests + part.warmup_requests)
        rss_mib.append(sample.rss_mib)
    return Memory(seen, rss_mib)


def ask_provider(provider: Server, method: str, what: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{provider.port}/control/{what}", method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(answer.read())


@contextmanager
def load_process(server: Server, spec: LoadSpec) -> Iterator[subprocess.Popen[bytes]]:
    """The load generator, given its specification, and gone at the end whatever happens. Failures name the server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(spec) + b"\n")
        process.stdin.flush()
        yield process
    except MeasurementFailed as failure:
        raise MeasurementFailed(f"{server.name}: {failure}") from None
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
