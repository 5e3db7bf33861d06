"""The benchmark's words: a markdown table of medians, and the ratios of the gateway to the floor."""

import argparse
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import median

from tests.bench.measure import Memory, OpenStreams, Sample, Scenario
from tests.bench.peers import Peer

Samples = Mapping[Scenario, Mapping[str, Sequence[Sample]]]

LABELS = {"json": "JSON", "stream": "stream of 100 events", "paced": "the same, an event each 5 ms"}
HEADINGS = [
    "request",
    "connections",
    "server",
    "requests/s",
    "CPU ms/request",
    "× floor",
    "p50 ms",
    "p99 ms",
    "RSS MiB",
]


def describe_machine(options: argparse.Namespace) -> str:
    workers = f"{options.workers} workers" if options.workers > 1 else "one worker"
    stores = "PostgreSQL and Redis, whose processor time is not counted" if options.postgres else "SQLite"
    pinning = (
        "the servers on one core, load and provider on the others"
        if options.workers == 1
        else "nothing bound to a core"
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores, "
        f"medians of {options.rounds} rounds; the gateway with {workers} on {stores}; {pinning}."
    )


def render_table(samples: Samples, *, base: str = "floor", heading: str = "× floor") -> str:
    """`base` is the server that the others' processor time is divided by, under `heading`."""
    headings = [heading if text == "× floor" else text for text in HEADINGS]
    lines = [row(headings), row(["---"] * 3 + ["---:"] * 6)]
    for scenario, by_server in samples.items():
        for name, rounds in by_server.items():
            ratio = ratio_to(by_server, name, base)
            lines.append(row([label(scenario), str(scenario.connections), name, *cells(rounds, ratio)]))
    return "\n".join(lines)


def label(scenario: Scenario) -> str:
    return LABELS[scenario.kind]


def cells(rounds: Sequence[Sample], ratio: float | None) -> list[str]:
    return [
        f"{middle(rounds, lambda sample: sample.requests_per_s):,.0f}",
        f"{middle(rounds, lambda sample: sample.cpu_ms):.3f}",
        "" if ratio is None else f"{ratio:.2f}",
        f"{middle(rounds, lambda sample: sample.p50_ms):.2f}",
        f"{middle(rounds, lambda sample: sample.p99_ms):.2f}",
        f"{middle(rounds, lambda sample: sample.rss_mib):.0f}",
    ]


def middle(rounds: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    return median(value(sample) for sample in rounds)


def ratio_to(
    by_server: Mapping[str, Sequence[Sample]],
    name: str,
    base: str,
    value: Callable[[Sample], float] = lambda sample: sample.cpu_ms,
) -> float | None:
    """The median of the rounds' own ratios: what disturbs a whole round disturbs both of its halves."""
    if name == base or base not in by_server:
        return None
    return median(value(a) / value(b) for a, b in zip(by_server[name], by_server[base], strict=True))


def render_open_streams(name: str, measured: OpenStreams) -> str:
    return (
        f"{name}: {measured.streams:,} open streams take {measured.kib_each:.1f} KiB each "
        f"({measured.before_mib:.0f} → {measured.open_mib:.0f} MiB)"
    )


def render_catalog(small: Sequence[Sample], large: Sequence[Sample]) -> str:
    ratio = median(b.cpu_ms / a.cpu_ms for a, b in zip(small, large, strict=True))
    small_ms, large_ms = (middle(rounds, lambda sample: sample.cpu_ms) for rounds in (small, large))
    return (
        f"1,000 aliases and 100,000 keys: {large_ms:.3f} ms of CPU a JSON request at 64 connections, "
        f"{ratio:.3f} × the small catalog's {small_ms:.3f} ms"
    )


def render_peers(samples: Samples, peers: Sequence[Peer]) -> str:
    """The table, how far each peer is from its target, how each was configured, and what is not compared."""
    lines = [render_table(samples, base="gateway", heading="× gateway"), ""]
    for scenario, by_server in samples.items():
        for peer in peers:
            ratio = ratio_to(by_server, peer.name, "gateway")
            assert ratio is not None
            met = "reached" if ratio >= peer.target else "NOT reached"
            lines.append(
                f"- {label(scenario)}: {peer.name} takes {ratio:.1f} × our processor time a request; the target of "
                f"{peer.target:g} × is {met}."
            )
    lines += [
        "",
        "- gateway: key, scope, limits of key and account, hold, metering, a durable charge for every request.",
    ]
    lines += [f"- {peer.title}: {peer.configured}." for peer in peers]
    lines += ["", "Neither peer keeps a ledger in this run: they hold, meter and charge nothing, and store nothing."]
    return "\n".join(lines)


def render_hot(samples: Samples, hot: str, many: str) -> str:
    """The table, and the throughput of one account that everybody writes to as a share of that of many."""
    lines = [render_table(samples, base=many, heading=f"× {many}"), ""]
    for scenario, by_server in samples.items():
        share = ratio_to(by_server, hot, many, lambda sample: sample.requests_per_s)
        lines.append(
            f"{label(scenario)}, {scenario.connections} connections: {hot} has {share:.2f} × the requests/s of {many}"
        )
    return "\n".join(lines)


def render_archives(samples: Samples, rows: int) -> str:
    empty, full = next(iter(samples.values()))
    lines = [render_table(samples, base=empty, heading="× empty"), ""]
    for scenario, by_server in samples.items():
        cpu, p50, speed = (
            ratio_to(by_server, full, empty, value)
            for value in (lambda s: s.cpu_ms, lambda s: s.p50_ms, lambda s: s.requests_per_s)
        )
        lines.append(
            f"{rows:,} past requests, {label(scenario)}, {scenario.connections} connections: {cpu:.3f} × the CPU, "
            f"{p50:.3f} × the p50, {speed:.3f} × the requests/s of an empty database"
        )
    return "\n".join(lines)


def render_pages(samples: Samples, pages_per_s: float) -> str:
    """The table, and the slowest percent of `/v1` beside a dashboard in use as a multiple of that without."""
    quiet, visited = next(iter(samples.values()))
    lines = [render_table(samples, base=quiet, heading="× without"), ""]
    for scenario, by_server in samples.items():
        p99 = ratio_to(by_server, visited, quiet, lambda sample: sample.p99_ms)
        lines.append(
            f"{label(scenario)}, {scenario.connections} connections: {p99:.2f} × the p99 with {pages_per_s:g} pages of the "
            "dashboard a second"
        )
    return "\n".join(lines)


def render_watched(samples: Samples, bound: float) -> str:
    """The table, and what watching costs of processor time."""
    base, *others = next(iter(samples.values()))
    lines = [render_table(samples, base=base, heading=f"× {base}"), ""]
    for scenario, by_server in samples.items():
        for name in others:
            ratio = ratio_to(by_server, name, base)
            assert ratio is not None
            kept = "within" if ratio <= bound else "NOT within"
            lines.append(f"- {label(scenario)}: {name} take {ratio:.3f} × the CPU; {kept} the bound of {bound:g} ×.")
    return "\n".join(lines)


def render_memory(memory: Memory) -> str:
    seen = ", ".join(f"{rss:.1f}" for rss in memory.rss_mib)
    return (
        f"after each {memory.requests[0]:,} of {memory.requests[-1]:,} requests: {seen} MiB\n"
        f"slope {memory.slope_mib:+.2f} MiB per 100,000 requests, without the first quarter"
    )


def row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
