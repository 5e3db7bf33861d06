"""What is measured and in which order: the scenarios, the rounds, and the state of the machine while they run."""

import os
import resource
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.measure import MeasurementFailed, Sample, Scenario, measure
from tests.bench.servers import ROOT, Server, ServerFailed, pin

FILES_WANTED = 20_000
REQUESTS = {
    "json": {1: 1_500, 64: 5_000, 512: 5_000},
    "stream": {1: 400, 64: 2_048, 512: 1_024},
    "paced": {1: 8, 64: 384, 512: 1_024},
}
USUAL = [("json", 1), ("json", 64), ("json", 512), ("stream", 1), ("stream", 64), ("stream", 512), ("paced", 64)]
QUICK_SHARE = 5
MOST_SITTINGS = 4

Rounds = dict[Scenario, dict[str, list[Sample]]]


def sittings(rounds: int) -> list[int]:
    """How many rounds each set of fresh servers gets: how a process happens to lie in memory moves all of its numbers, by
    a tenth and more, for as long as it lives."""
    parts = min(rounds, MOST_SITTINGS)
    return [rounds // parts + (number < rounds % parts) for number in range(parts)]


def measure_rounds(
    servers: Sequence[Server], scenarios: Sequence[Scenario], rounds: int, before: Rounds | None = None
) -> Rounds:
    """Each round loads every server with every scenario; who goes first changes from round to round.

    Samples of an earlier sitting come first.
    """
    samples = before or {scenario: {server.name: list[Sample]() for server in servers} for scenario in scenarios}
    for number in range(rounds):
        for scenario in scenarios:
            tell(f"round {number + 1}/{rounds}: {scenario.kind}, {scenario.connections} connections")
            for server in servers if number % 2 == 0 else reversed(servers):
                samples[scenario][server.name].append(measure(server, scenario))
    return samples


def choose_scenarios(
    kind: str | None, connections: Sequence[int] | None, *, usual: Sequence[tuple[str, int]] = USUAL, share: int = 1
) -> list[Scenario]:
    """The usual ones, narrowed to the kind asked for; connections that were named are taken as they are."""
    pairs = [pair for pair in usual if kind in (None, pair[0])]
    if connections:
        kinds = [kind] if kind else ["json", "stream"]
        pairs = [(each, count) for each in kinds for count in connections]
    return [Scenario(each, count, max(count, requests_for(each, count) // share)) for each, count in pairs]


def requests_for(kind: str, connections: int) -> int:
    known = REQUESTS[kind]
    return known[max((count for count in known if count <= connections), default=1)]


def run_on_quiet_machine(run: Callable[[Path, ExitStack], None], *, pinned: bool) -> int:
    """Run in an empty folder; what is entered into the stack is stopped at the end. Failures become exit code 1."""
    raise_file_limit()
    if pinned:
        pin(os.getpid(), measured=False)
    # Beside the demo's data and not in a temporary folder, which is often memory: commits must reach a disk.
    folder = ROOT / "var" / "bench"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with ExitStack() as running:
            run(folder, running)
        shutil.rmtree(folder)
    except (MeasurementFailed, ServerFailed) as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def raise_file_limit() -> None:
    """Thousands of connections need as many open files; the servers inherit what is set here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
