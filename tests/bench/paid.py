"""The gateway of the benchmark: its database, catalog, account and keys, made with the operators' own calls.

Everything that a paying customer's request meets is switched on: price, scope, limits by key and by account, a balance.
`python -m tests.bench.paid` prepares the database of the settings and prints the keys; `start_gateway` starts a server on it.
"""

import argparse
import json
import os
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

from models.database import parse_url
from models.secrets import hash_key_secret, new_key_secret
from tests.bench.provider import MANNERS
from tests.bench.servers import ROOT, Server, ServerFailed, module, start_server
from tests.bench.stores import Stores
from tests.bench.visitors import PASSWORD, VISITOR
from tests.servers import free_port

PLENTY = 100_000_000
LARGE_ALIASES = 1_000
LARGE_KEYS = 100_000
LARGE_BUSY_KEYS = 64
"""Of a large catalog's keys, those that send requests, one a connection; the others stand in the database. With
thousands taking turns, what is measured is the processor's cache: each request then finds none of its objects there."""
PATIENCE = {"GATEWAY_UPSTREAM_FIRST_BYTE_TIMEOUT_S": "300", "GATEWAY_UPSTREAM_IDLE_TIMEOUT_S": "300"}


def start_gateway(
    folder: Path,
    provider: Server,
    stores: Stores,
    *,
    name: str = "gateway",
    workers: int = 1,
    accounts: int = 1,
    large: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Server:
    """A gateway on fresh stores. Its load takes turns among so many accounts with a key each.

    `large` gives it 1,000 aliases and 100,000 keys, and many of both to the load; `settings` are further variables.
    """
    run_module(["gateway", "migrate"], stores.environment)
    wanted = ["--accounts", str(accounts), *(["--large"] if large else [])]
    senders = json.loads(run_module(["tests.bench.paid", str(provider.port), *wanted], stores.environment))
    port = free_port()
    return start_server(
        name,
        module("gateway", "serve", "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)),
        port=port,
        folder=folder,
        environment=stores.environment
        | PATIENCE
        | {"GATEWAY_SPOOL_DIR": str(folder / f"{name}-spool")}
        | dict(settings or {}),
        senders={manner: [(key, model) for key, model in pairs] for manner, pairs in senders.items()},
        ready_path="/readyz",
        # The first of several workers answers before the last one is there.
        ready_word=b"gateway: serving",
        pinned=workers == 1,
    )


def reconcile(stores: Stores) -> str:
    """What `gateway reconcile` says. Raises ServerFailed when an invariant does not hold."""
    return run_module(["gateway", "reconcile"], stores.environment).decode().rstrip()


def run_module(arguments: list[str], environment: Mapping[str, str]) -> bytes:
    ended = subprocess.run(module(*arguments), cwd=ROOT, env=environment, capture_output=True, check=False)
    if ended.returncode:
        said = (ended.stdout + ended.stderr).decode()[-2000:]
        raise ServerFailed(f"{' '.join(arguments)} ended with {ended.returncode}:\n{said}")
    return ended.stdout


def prepare_gateway(desk: Any, provider_port: int, accounts: int) -> list[str]:
    """One provider, an alias for each of its manners with a route and a price, rich accounts, a fully limited key each."""
    desk.catalog.add_provider("instant", base_url=f"http://127.0.0.1:{provider_port}/v1", api_key="provider-key")
    for manner in MANNERS:
        add_alias(desk, alias_of(manner), upstream_model=manner)
    return [add_customer(desk, f"bench-{number}@example.com") for number in range(accounts)]


def add_customer(desk: Any, email: str) -> str:
    # Hashing a password takes its time; one of them signs in.
    desk.accounts.create(email, password=PASSWORD if email == VISITOR else None)
    desk.credits.grant(email, credits="1000000", reason="benchmark", grant_key=email)
    issued = desk.keys.issue(email, name="bench", models=[alias_of(manner) for manner in MANNERS])
    for subject in ({"key": issued.id}, {"account": email}):
        desk.limits.set(**subject, unit="requests", quota=PLENTY, window_s=60)
        desk.limits.set(**subject, unit="tokens", quota=PLENTY, window_s=60)
        desk.limits.set(**subject, unit="concurrent", quota=10_000)
    return str(issued.secret)


def alias_of(manner: str) -> str:
    return f"bench-{manner}"


def add_alias(desk: Any, alias: str, *, upstream_model: str) -> None:
    desk.catalog.add_model(alias, context_tokens=64_000, max_output_tokens=8_192, published=True)
    desk.catalog.add_route(
        alias, provider="instant", upstream_model=upstream_model, cost_input_usd="0.20", cost_output_usd="0.80"
    )
    proposal = desk.catalog.propose_price(alias, input_usd="0.27", cached_input_usd="0.07", output_usd="1.10")
    proposal.publish(reason="benchmark")


def enlarge(desk: Any, database_path: Path, like_secret: str) -> list[tuple[str, str]]:
    """Add the aliases one by one, as an operator would, and the keys by plain SQL: only their number matters."""
    aliases = [f"bench-instant-{number}" for number in range(LARGE_ALIASES)]
    for alias in aliases:
        add_alias(desk, alias, upstream_model="instant")
    for unit in ("requests", "tokens"):
        desk.limits.set(default="key", unit=unit, quota=PLENTY, window_s=60)
    desk.limits.set(default="key", unit="concurrent", quota=10_000)
    secrets = insert_keys(database_path, like_secret, aliases)
    return list(zip(secrets, cycle(aliases), strict=False))


def insert_keys(database_path: Path, like_secret: str, aliases: list[str]) -> list[str]:
    """Insert keys of the same account, one alias each, and return the secrets of those that the load uses."""
    secrets = [new_key_secret() for _ in range(LARGE_KEYS)]
    with closing(sqlite3.connect(database_path, timeout=30)) as database, database:
        account_id, hint, created_us = database.execute(
            "SELECT account_id, hint, created_us FROM api_key WHERE secret_hash = ?", (hash_key_secret(like_secret),)
        ).fetchone()
        (last_id,) = database.execute("SELECT max(id) FROM api_key").fetchone()
        model_ids = dict(database.execute("SELECT alias, id FROM model"))
        ids = range(last_id + 1, last_id + 1 + LARGE_KEYS)
        database.executemany(
            "INSERT INTO api_key (id, account_id, name, secret_hash, hint, created_us) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (key_id, account_id, f"key {key_id}", hash_key_secret(secret), hint, created_us)
                for key_id, secret in zip(ids, secrets, strict=True)
            ),
        )
        database.executemany(
            "INSERT INTO key_model (api_key_id, model_id) VALUES (?, ?)",
            ((key_id, model_ids[alias]) for key_id, alias in zip(ids, cycle(aliases), strict=False)),
        )
    return secrets[:LARGE_BUSY_KEYS]


def main() -> None:
    import ops

    parser = argparse.ArgumentParser()
    parser.add_argument("provider_port", type=int)
    parser.add_argument("--accounts", type=int, default=1)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    desk = ops.connect(operator="bench")
    secrets = prepare_gateway(desk, options.provider_port, options.accounts)
    senders = {manner: [(secret, alias_of(manner)) for secret in secrets] for manner in MANNERS}
    if options.large:
        path = parse_url(os.environ["GATEWAY_DATABASE_URL"]).path
        assert path is not None
        senders["instant"] = enlarge(desk, path, secrets[0])
    print(json.dumps(senders), flush=True)


if __name__ == "__main__":
    main()
