"""Records a release for the upgrade drill: its program, and databases that it filled. By hand, once when a release is made.

    python -m tests.deployment.record COMMIT VERSION sqlite postgres      (the databases that its server can serve)

The commit's own code runs: its verbs make the business of `stock.py`, its server takes the calls below and is killed in the
middle of one, so that a hold is open. Needs PostgreSQL and pg_dump. What is kept in `releases/VERSION/`:

    program.tar.xz    `gateway`, `models` and `ops` of that commit, without the pages that a browser loads
    sqlite.sql.gz     the database that its server wrote
    postgres.sql.gz   the same rows in the tables that its `gateway migrate` makes on PostgreSQL
    facts.json        its keys and its secret key, which are of no use anywhere else
"""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import os
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import orjson

from tests.deployment.stock import UPSTREAMS
from tests.rig import ROOT, Process, Provider
from tests.servers import free_port, fresh_postgres, postgres_client
from tests.stores import Sql

RELEASES = Path(__file__).parent / "releases"
SECRET_KEY = "the secret key of a recorded release"
# The provider's address in the records. Where it really is, is put past the audit log, whose rows prove themselves.
NOWHERE = "http://provider.invalid/v1"
LEFT_OUT = (":!gateway/static", ":!gateway/dashboard/screenshots", ":!gateway/simulator")


def main(commit: str, version: str, *serves: str) -> None:
    folder = RELEASES / version
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, fresh_postgres() as postgres_url:
        work = Path(name)
        archive = subprocess.run(
            ["git", "archive", commit, "gateway", "models", "ops", *LEFT_OUT],
            cwd=ROOT, check=True, capture_output=True,
        ).stdout  # fmt: skip
        (folder / "program.tar.xz").write_bytes(lzma.compress(archive, preset=9 | lzma.PRESET_EXTREME))
        program = unpack(folder / "program.tar.xz", work / "program")
        sqlite_url = f"sqlite://{work / 'gateway.db'}"
        provider = Provider(work)
        try:
            keys = record_sqlite(program, sqlite_url, provider)
        finally:
            provider.process.stop()
        run(program, postgres_url, work, "-m", "gateway", "migrate")
        copy_rows(work / "gateway.db", postgres_url)
        keep(folder / "sqlite.sql.gz", dump_sqlite(work / "gateway.db"))
        keep(folder / "postgres.sql.gz", dump_postgres(postgres_url))
        facts = {"version": version, "commit": commit, "serves": serves, "secret_key": SECRET_KEY, "keys": keys}
        (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>9,}  {path.relative_to(ROOT)}")


# ── the release's own program ─────────────────────────────────────────────────────────────────────────────────────


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder


def environment(program: Path, database_url: str) -> dict[str, str]:
    """In which `python -m gateway` is the release's, with the libraries of today."""
    return {"PYTHONPATH": str(program), "GATEWAY_DATABASE_URL": database_url, "GATEWAY_SECRET_KEY": SECRET_KEY}


def run(program: Path, database_url: str, folder: Path, *arguments: str) -> str:
    """What the release's Python prints."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "OPS_"))}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={**inherited, **environment(program, database_url)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def serve(program: Path, database_url: str, folder: Path) -> Process:
    settings = {"GATEWAY_DRAIN_S": "5", "GATEWAY_COOLDOWN_AFTER": "1000000"}
    # 0.1.0 cannot choose a port itself.
    arguments = ["serve", "--port", str(free_port())]
    return Process(arguments, {**environment(program, database_url), **settings}, folder / "release.log")


def call(url: str, key: str, model: str, *, within_s: float = 30, **fields: Any) -> tuple[int, bytes]:
    """Status and body of one completion, read to its end."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 800, **fields}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=within_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def record_sqlite(program: Path, database_url: str, provider: Provider) -> dict[str, str]:
    """Fill it by the release's verbs and calls to its server; its keys."""
    work = provider.process.log.parent
    run(program, database_url, work, "-m", "gateway", "migrate")
    stock = Path(__file__).with_name("stock.py")
    keys: dict[str, str] = json.loads(run(program, database_url, work, str(stock), NOWHERE))
    lead_to(database_url, provider.base_url)
    server = serve(program, database_url, work)
    for alias in UPSTREAMS:
        if alias != "gated-chat":
            for stream in (False, True):
                call(server.url, keys["ada"], alias, stream=stream)
    for _ in range(3):
        call(server.url, keys["narrow"], "small-chat")
        call(server.url, keys["bob"], "small-chat")
    # Killed in the middle of a request: a hold is left open, and nobody was there to end it.
    with contextlib.suppress(TimeoutError):
        call(server.url, keys["ada"], "gated-chat", stream=False, within_s=1)
    with contextlib.suppress(TimeoutError):
        call(server.url, keys["ada"], "gated-chat", stream=True, within_s=1)
    server.kill()
    lead_to(database_url, NOWHERE)
    return keys


def lead_to(database_url: str, provider_url: str) -> None:
    with Sql(database_url) as database:
        database.rows("UPDATE provider SET base_url = ?", provider_url)


# ── what is kept of it ────────────────────────────────────────────────────────────────────────────────────────────


def dump_sqlite(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


def dump_postgres(url: str) -> str:
    """As statements that any client can send; `psql` alone understands the rest."""
    options = ["--no-owner", "--no-privileges", "--inserts", "--rows-per-insert=100"]
    text = subprocess.run(
        [postgres_client() / "pg_dump", *options, url], check=True, capture_output=True, text=True
    ).stdout
    return "\n".join(line for line in text.splitlines() if line and not line.startswith(("\\", "--")))


def keep(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def copy_rows(path: Path, postgres_url: str) -> None:
    """Every row of a SQLite database into the tables of the same names, and counters that go on after the last."""
    with contextlib.closing(sqlite3.connect(path)) as source, Sql(postgres_url) as target:
        source.row_factory = sqlite3.Row
        kinds: dict[str, dict[str, str]] = {}
        for table, column, kind in target.rows(
            "SELECT c.table_name, c.column_name, c.data_type FROM information_schema.columns c"
            " JOIN information_schema.tables t USING (table_schema, table_name)"
            " WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE'"
        ):
            kinds.setdefault(table, {})[column] = kind
        parents = ("account", "user", "provider", "model", "api_key")
        present = {row[0] for row in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in sorted(
            present & set(kinds), key=lambda t: (t not in parents, parents.index(t) if t in parents else 0)
        ):
            if "migration" in table:
                continue
            for row in source.execute(f'SELECT * FROM "{table}"'):
                names = list(row.keys())
                target.rows(
                    f'INSERT INTO "{table}" ({", ".join(names)}) VALUES ({", ".join("?" * len(names))})'
                    " ON CONFLICT DO NOTHING",
                    *(_value(row[name], kinds[table][name]) for name in names),
                )  # fmt: skip
            if kinds[table].get("id") == "bigint":
                target.rows(
                    f"SELECT setval(pg_get_serial_sequence('\"{table}\"', 'id'), GREATEST(MAX(id), 1)) FROM \"{table}\""
                    " HAVING pg_get_serial_sequence(?, 'id') IS NOT NULL",
                    f'"{table}"',
                )


def _value(value: Any, kind: str) -> Any:
    if kind == "boolean":
        return bool(value)
    if kind in ("json", "jsonb") and value is not None:
        return orjson.dumps(orjson.loads(value)).decode()
    return value


if __name__ == "__main__":
    main(*sys.argv[1:])
