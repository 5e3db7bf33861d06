"""`make bench`: starts the provider, the floor and the gateway, loads them in turn, and prints the medians.

Servers are started in `servers` and `paid`, one measurement is in `measure`, the words are in `report`.
"""

import argparse
import os
import resource
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench import report
from tests.bench.measure import MeasurementFailed, Sample, Scenario, measure, measure_open_streams
from tests.bench.paid import start_gateway
from tests.bench.servers import ROOT, Server, ServerFailed, pin, start_floor, start_provider

FILES_WANTED = 20_000
REQUESTS = {
    "json": {1: 1_500, 64: 5_000, 512: 5_000},
    "stream": {1: 400, 64: 2_048, 512: 1_024},
    "paced": {1: 8, 64: 384, 512: 1_024},
}
USUAL = [("json", 1), ("json", 64), ("json", 512), ("stream", 1), ("stream", 64), ("stream", 512), ("paced", 64)]
CATALOG_SCENARIO = Scenario("json", 64, REQUESTS["json"][64])


def main() -> int:
    options = parse_options()
    raise_file_limit()
    pin(os.getpid(), measured=False)
    # Beside the demo's data and not in a temporary folder, which is often memory: commits must reach a disk.
    folder = ROOT / "var" / "bench"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with ExitStack() as running:
            run(options, folder, running)
        shutil.rmtree(folder)
    except (MeasurementFailed, ServerFailed) as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace, folder: Path, running: ExitStack) -> None:
    def keep(server: Server) -> Server:
        running.callback(server.stop)
        return server

    provider = keep(start_provider(folder))
    servers = []
    if options.only != "gateway":
        servers.append(keep(start_floor(folder, provider)))
    if options.only != "floor":
        servers.append(keep(start_gateway(folder, provider)))
    if options.open_streams:
        for server in servers:
            measured = measure_open_streams(server, provider, options.open_streams)
            print(report.render_open_streams(server.name, measured), flush=True)
    elif options.catalog:
        small = servers[-1]
        large = keep(start_gateway(folder, provider, large=True))
        by_server = measure_rounds([small, large], [CATALOG_SCENARIO], options.rounds)[CATALOG_SCENARIO]
        print(report.render_catalog(by_server[small.name], by_server[large.name]))
    else:
        samples = measure_rounds(servers, choose_scenarios(options), options.rounds)
        print(f"{report.describe_machine(options.rounds)}\n\n{report.render_table(samples)}")


def measure_rounds(
    servers: Sequence[Server], scenarios: Sequence[Scenario], rounds: int
) -> dict[Scenario, dict[str, list[Sample]]]:
    """Each round loads every server with every scenario; who goes first changes from round to round."""
    samples = {scenario: {server.name: list[Sample]() for server in servers} for scenario in scenarios}
    for number in range(rounds):
        for scenario in scenarios:
            print(
                f"round {number + 1}/{rounds}: {scenario.kind}, {scenario.connections} connections",
                file=sys.stderr,
                flush=True,
            )
            for server in servers if number % 2 == 0 else reversed(servers):
                samples[scenario][server.name].append(measure(server, scenario))
    return samples


def choose_scenarios(options: argparse.Namespace) -> list[Scenario]:
    share = 5 if options.quick else 1
    return [
        Scenario(kind, connections, max(connections, requests_for(kind, connections) // share))
        for kind, connections in choose_pairs(options)
    ]


def choose_pairs(options: argparse.Namespace) -> list[tuple[str, int]]:
    """The usual pairs, narrowed to the kind asked for; connections that were named are taken as they are."""
    kinds = [options.scenario] if options.scenario else ["json", "stream"]
    if options.connections:
        return [(kind, connections) for kind in kinds for connections in options.connections]
    return [(kind, connections) for kind, connections in USUAL if options.scenario in (None, kind)]


def requests_for(kind: str, connections: int) -> int:
    known = REQUESTS[kind]
    return known[max((count for count in known if count <= connections), default=1)]


def raise_file_limit() -> None:
    """Thousands of connections need as many open files; the servers inherit what is set here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, help="rounds to take medians of (5; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="one round of fewer requests: a rough look")
    parser.add_argument("--scenario", choices=list(REQUESTS), help="only this kind of request")
    parser.add_argument("--connections", type=numbers, help="such as 1,64")
    parser.add_argument("--only", choices=["floor", "gateway"], help="only this server")
    parser.add_argument("--open-streams", type=int, metavar="N", help="instead: memory for each of N streams held open")
    parser.add_argument("--catalog", action="store_true", help="instead: 1,000 aliases and 100,000 keys against few")
    options = parser.parse_args()
    if options.catalog and options.only == "floor":
        parser.error("--catalog measures the gateway")
    if options.catalog:
        options.only = "gateway"
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
