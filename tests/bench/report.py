"""The benchmark's words: a markdown table of medians, and the ratios of the gateway to the floor."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import median

from tests.bench.measure import OpenStreams, Sample, Scenario

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


def describe_machine(rounds: int) -> str:
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {platform.system()}, "
        f"{os.cpu_count()} cores, medians of {rounds} rounds; the server on one core, load and provider on the others."
    )


def render_table(samples: Samples) -> str:
    lines = [row(HEADINGS), row(["---"] * 3 + ["---:"] * 6)]
    for scenario, by_server in samples.items():
        for name, rounds in by_server.items():
            ratio = ratio_to_floor(by_server, name)
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


def ratio_to_floor(by_server: Mapping[str, Sequence[Sample]], name: str) -> float | None:
    """The median of the rounds' own ratios: what disturbs a whole round disturbs both of its halves."""
    if name == "floor" or "floor" not in by_server:
        return None
    pairs = zip(by_server[name], by_server["floor"], strict=True)
    return median(ours.cpu_ms / floor.cpu_ms for ours, floor in pairs)


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


def row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
