"""What `make bench` can be asked, and which of it cannot be asked together."""

import argparse

from tests.bench.rounds import REQUESTS


def parse_options(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=description)
    parser.add_argument("--rounds", type=int, help="rounds to take medians of (5; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="one round of fewer requests: a rough look")
    parser.add_argument("--scenario", choices=list(REQUESTS), help="only this kind of request")
    parser.add_argument("--connections", type=numbers, help="such as 1,64")
    parser.add_argument("--only", choices=["floor", "gateway"], help="only this server")
    parser.add_argument("--postgres", action="store_true", help="the gateway on PostgreSQL and Redis, not on SQLite")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes of the gateway")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--open-streams", type=int, metavar="N", help="instead: memory for each of N streams held open"
    )
    instead.add_argument("--catalog", action="store_true", help="instead: 1,000 aliases and 100,000 keys against few")
    instead.add_argument("--peers", action="store_true", help="instead: beside LiteLLM's proxy and Portkey's gateway")
    instead.add_argument("--accounts", type=int, metavar="N", help="instead: one hot account against N accounts")
    instead.add_argument("--usage-rows", type=int, metavar="N", help="instead: N past requests in the tables or none")
    instead.add_argument("--memory", type=int, metavar="N", help="instead: how memory grows over N JSON requests")
    instead.add_argument("--pages", type=float, metavar="N", help="instead: N pages of the dashboard a second, or none")
    instead.add_argument(
        "--watched", action="store_true", help="instead: with logs, and with traces of a tenth, or none"
    )
    options = parser.parse_args()
    apart = (
        options.catalog,
        options.peers,
        options.accounts,
        options.usage_rows,
        options.memory,
        options.pages,
        options.watched,
    )
    if options.only and any(apart):
        parser.error("--only chooses a server of the table and of --open-streams")
    if options.workers > 1 and not options.postgres:
        parser.error("--workers needs --postgres: SQLite is served by one worker")
    if options.usage_rows and not options.postgres:
        parser.error("--usage-rows needs --postgres")
    if options.catalog and options.postgres:
        parser.error("--catalog is measured on SQLite")
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
