"""`make bench`: starts the provider, the floor and the gateway, loads them in turn, and prints the medians.

Servers are started in `servers`, `paid` and `peers`, one measurement is in `measure`, rounds of them in `rounds`, the
words are in `report`.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.bench import report
from tests.bench.archive import fill_archive
from tests.bench.measure import Scenario, measure_memory, measure_open_streams, warm_up
from tests.bench.options import parse_options
from tests.bench.paid import reconcile, start_gateway
from tests.bench.peers import PEERS
from tests.bench.rounds import (
    QUICK_SHARE,
    Rounds,
    choose_scenarios,
    measure_rounds,
    run_on_quiet_machine,
    sittings,
    tell,
)
from tests.bench.servers import Server, start_floor, start_provider
from tests.bench.stores import Stores, postgres_stores, sqlite_stores
from tests.bench.watched import BOUND, scraped, ways
from tests.stores import fresh_redis

AT_64 = [("json", 64), ("stream", 64)]
# LiteLLM's proxy answers some ten streams a second here: more of them would take an hour.
PEER_REQUESTS = {"json": 2_000, "stream": 320, "paced": 128}
PEER_WARMUP_S = 30.0


def main() -> int:
    options = parse_options((__doc__ or "").partition("\n")[0])
    # Several workers are to run on several cores.
    pinned = options.workers == 1
    return run_on_quiet_machine(lambda folder, running: Bench(options, folder, running).run(), pinned=pinned)


class Bench:
    """One run: what was asked, and the servers started for it, which end with it."""

    def __init__(self, options: argparse.Namespace, folder: Path, running: ExitStack) -> None:
        self.options = options
        self.folder = folder
        self.running = running
        self.numbers = itertools.count()  # of databases
        self.provider = self.keep(start_provider(folder))

    def run(self) -> None:
        options = self.options
        if options.open_streams:
            self.compare_open_streams()
        elif options.catalog:
            self.compare_catalogs()
        elif options.peers:
            self.compare_peers()
        elif options.accounts:
            self.compare_accounts()
        elif options.usage_rows:
            self.compare_archives()
        elif options.pages:
            self.compare_pages()
        elif options.watched:
            self.compare_watched()
        elif options.memory:
            print(report.render_memory(measure_memory(self.gateway(), options.memory)))
        else:
            self.compare_with_floor()

    def servers(self) -> list[Server]:
        servers = []
        if self.options.only != "gateway":
            servers.append(self.keep(start_floor(self.folder, self.provider, pinned=self.options.workers == 1)))
        if self.options.only != "floor":
            servers.append(self.gateway())
        return servers

    def compare_with_floor(self) -> None:
        samples: Rounds = {}
        for rounds in sittings(self.options.rounds):
            servers = self.servers()
            samples = measure_rounds(servers, self.scenarios(), rounds, samples)
            for server in servers:
                server.stop()
        print(f"{report.describe_machine(self.options)}\n\n{report.render_table(samples)}")

    def compare_open_streams(self) -> None:
        for server in self.servers():
            measured = measure_open_streams(server, self.provider, self.options.open_streams)
            print(report.render_open_streams(server.name, measured), flush=True)

    def compare_catalogs(self) -> None:
        small, large = self.gateway(), self.gateway("gateway-large", large=True)
        samples = measure_rounds([small, large], self.scenarios(AT_64[:1]), self.options.rounds)
        for by_server in samples.values():
            print(report.render_catalog(by_server[small.name], by_server[large.name]))

    def compare_peers(self) -> None:
        ours = self.gateway()
        # Installed and started before the first round, so that no round has an installation beside it.
        redis_url = self.running.enter_context(fresh_redis()) if self.options.postgres else None
        theirs = [self.keep(peer.start(self.folder, self.provider, redis_url)) for peer in PEERS]
        share = QUICK_SHARE if self.options.quick else 1
        scenarios = [
            replace(each, requests=max(each.connections, PEER_REQUESTS[each.kind] // share))
            for each in self.scenarios(AT_64)
        ]
        for scenario in scenarios:
            for server in (ours, *theirs):
                tell(f"{server.name} is warmed up: {scenario.kind}, {scenario.connections} connections")
                warm_up(server, scenario, PEER_WARMUP_S / share)
        samples = measure_rounds([ours, *theirs], scenarios, self.options.rounds)
        print(f"{report.describe_machine(self.options)}\n\n{report.render_peers(samples, PEERS)}")

    def compare_accounts(self) -> None:
        many = self.gateway(accounts=self.options.accounts)
        hot = replace(many, name="one account", senders={kind: pairs[:1] for kind, pairs in many.senders.items()})
        many = replace(many, name=f"{self.options.accounts} accounts")
        samples = measure_rounds([hot, many], self.scenarios(AT_64), self.options.rounds)
        print(f"{report.describe_machine(self.options)}\n\n{report.render_hot(samples, hot.name, many.name)}")

    def compare_archives(self) -> None:
        empty = self.gateway("gateway")
        stores = self.stores("gateway-full")
        full = self.gateway("gateway-full", stores=stores)
        fill_archive(stores.database_url, self.options.usage_rows)
        samples = measure_rounds([empty, full], self.scenarios(AT_64), self.options.rounds)
        print(f"{report.describe_machine(self.options)}\n\n{report.render_archives(samples, self.options.usage_rows)}")
        full.stop()
        print(reconcile(stores))

    def compare_pages(self) -> None:
        quiet = self.gateway()
        visited = replace(quiet, name="with visitors", pages_per_s=self.options.pages)
        samples = measure_rounds([quiet, visited], self.scenarios(AT_64), self.options.rounds)
        print(f"{report.describe_machine(self.options)}\n\n{report.render_pages(samples, self.options.pages)}")

    def compare_watched(self) -> None:
        with ways() as settings:
            servers = [self.gateway(f"gateway-{n}", settings=each) for n, each in enumerate(settings.values())]
            servers = [replace(server, name=name) for server, name in zip(servers, settings, strict=True)]
            with scraped(servers[1:]):
                samples = measure_rounds(servers, self.scenarios(AT_64), self.options.rounds)
            print(f"{report.describe_machine(self.options)}\n\n{report.render_watched(samples, BOUND)}")
            # Their last traces are sent while the collector is there.
            for server in servers:
                server.stop()

    # ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def keep(self, server: Server) -> Server:
        self.running.callback(server.stop)
        return server

    def stores(self, name: str) -> Stores:
        if self.options.postgres:
            return self.running.enter_context(postgres_stores())
        return sqlite_stores(self.folder, f"{name}-{next(self.numbers)}")

    def gateway(
        self,
        name: str = "gateway",
        *,
        stores: Stores | None = None,
        large: bool = False,
        accounts: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> Server:
        stores = stores or self.stores(name)
        workers = self.options.workers
        return self.keep(
            start_gateway(
                self.folder,
                self.provider,
                stores,
                name=name,
                workers=workers,
                large=large,
                accounts=accounts,
                settings=settings,
            )
        )

    def scenarios(self, usual: list[tuple[str, int]] | None = None) -> list[Scenario]:
        options = self.options
        share = QUICK_SHARE if options.quick else 1
        return choose_scenarios(
            options.scenario, options.connections, share=share, **({"usual": usual} if usual else {})
        )


if __name__ == "__main__":
    sys.exit(main())
