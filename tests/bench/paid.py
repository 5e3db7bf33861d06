"""The gateway of the benchmark: its database, catalog, account and keys, made with the operators' own calls.

Everything that a paying customer's request meets is switched on: price, scope, limits by key and by account, a balance.
`python -m tests.bench.paid` prepares a database and prints the keys; `start_gateway` starts a server on it.
"""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

from models.secrets import hash_key_secret, new_key_secret
from tests.bench.provider import MANNERS
from tests.bench.servers import ROOT, Server, ServerFailed, clean_environment, free_port, start_server

EMAIL = "bench@example.com"
PLENTY = 100_000_000
LARGE_ALIASES = 1_000
LARGE_KEYS = 100_000
LARGE_BUSY_KEYS = 64
"""Of a large catalog's keys, those that send requests, one a connection; the others stand in the database. With
thousands taking turns, what is measured is the processor's cache: each request then finds none of its objects there."""


def start_gateway(folder: Path, provider: Server, *, large: bool = False) -> Server:
    """A gateway on a fresh database. `large` gives it 1,000 aliases and 100,000 keys, and many of both to the load."""
    name = "gateway-large" if large else "gateway"
    port = free_port()
    database_path = folder / f"{name}.db"
    environment = {
        "GATEWAY_DATABASE_URL": f"sqlite://{database_path}",
        "GATEWAY_UPSTREAM_FIRST_BYTE_TIMEOUT_S": "300",
        "GATEWAY_UPSTREAM_IDLE_TIMEOUT_S": "300",
    }
    run_module(["gateway", "migrate"], environment)
    senders = json.loads(
        run_module(
            ["tests.bench.paid", str(database_path), str(provider.port), *(["large"] if large else [])], environment
        )
    )
    return start_server(
        name,
        ["gateway", "serve", "--host", "127.0.0.1", "--port", str(port)],
        port=port,
        folder=folder,
        environment=environment,
        senders={manner: [(key, model) for key, model in pairs] for manner, pairs in senders.items()},
        ready_path="/readyz",
    )


def run_module(arguments: list[str], environment: dict[str, str]) -> bytes:
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=clean_environment(environment),
        capture_output=True,
        check=False,
    )
    if ended.returncode:
        raise ServerFailed(f"{' '.join(arguments)} ended with {ended.returncode}:\n{ended.stderr.decode()[-2000:]}")
    return ended.stdout


def prepare_gateway(database_path: Path, provider_port: int) -> tuple[str, Any]:
    """One provider, an alias for each of its manners with a route and a price, a rich account, a fully limited key."""
    import ops

    desk = ops.connect(f"sqlite://{database_path}", operator="bench")
    desk.catalog.add_provider("instant", base_url=f"http://127.0.0.1:{provider_port}/v1", api_key="provider-key")
    for manner in MANNERS:
        add_alias(desk, alias_of(manner), upstream_model=manner)
    desk.accounts.create(EMAIL, password="a password for the benchmark")
    desk.credits.grant(EMAIL, credits="1000000", reason="benchmark", grant_key="bench")
    issued = desk.keys.issue(EMAIL, name="bench", models=[alias_of(manner) for manner in MANNERS])
    for subject in ({"key": issued.id}, {"account": EMAIL}):
        desk.limits.set(**subject, unit="requests", quota=PLENTY, window_s=60)
        desk.limits.set(**subject, unit="tokens", quota=PLENTY, window_s=60)
        desk.limits.set(**subject, unit="concurrent", quota=10_000)
    return issued.secret, desk


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


def main(database_path: Path, provider_port: int, *, large: bool) -> None:
    secret, desk = prepare_gateway(database_path, provider_port)
    senders = {manner: [(secret, alias_of(manner))] for manner in MANNERS}
    if large:
        senders["instant"] = enlarge(desk, database_path, secret)
    print(json.dumps(senders), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), large=sys.argv[3:] == ["large"])
