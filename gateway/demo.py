"""Owns `gateway demo`: everything on one machine without configuration, kept between starts. Wares: `demo_catalog.py`.

The database stores only hashes, so the demo keeps its key and password in `demo.json` beside it, to print them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from gateway.demo_catalog import ALIASES, OPERATOR, set_default_limits, stock_catalog
from gateway.server import run_server, start_logs
from gateway.settings import Settings, load_settings
from gateway.simulator import serve_simulator
from models.accounts import create_account, find_account, make_reset_link
from models.credits import grant
from models.database import Database, open_database
from models.errors import NotFound, SetupError
from models.keys import issue_key, key_rows, set_key_models
from models.prices import NANO_PER_CREDIT, credits_text
from models.records import ApiKey
from models.schema import migrate
from models.secrets import Seal, hash_key_secret, load_secret_key

EMAIL = "demo@example.com"
WELCOME_CREDITS = 1_000
WELCOME_KEY = "demo-welcome"


class Memory(msgspec.Struct):
    """What `demo.json` remembers."""

    api_key: str = ""
    password: str = ""


class Welcome(msgspec.Struct):
    """What the newcomer is told."""

    api_key: str
    password: str
    reset_path: str
    balance_nano: int


def run_demo(host: str, port: int) -> None:
    """Serve the demo until SIGTERM or SIGINT."""
    settings = _demo_settings()
    start_logs(settings)
    path = settings.database.path
    assert path is not None
    given = settings.secret_key.get_secret_value() if settings.secret_key else None
    asyncio.run(migrate(settings.database))
    seal = Seal(load_secret_key(settings.database, given, create=True))
    told: list[Welcome] = []

    @contextlib.asynccontextmanager
    async def simulated_provider() -> AsyncIterator[None]:
        """In the server's own process, so that neither outlives the other."""
        simulator = await serve_simulator("127.0.0.1", 0)
        async with open_database(settings.database) as database:
            told.append(await _prepare(database, seal, simulator.base_url, path.with_name("demo.json")))
        yield
        await simulator.close()

    def banner(url: str) -> None:
        print(_describe(url, told[0], path), flush=True)

    run_server(settings, host, port, banner=banner, beside=simulated_provider)


def prepare_demo() -> None:
    """Make the demo's database where it is missing, with everything that `gateway demo` would put into it, and end.

    One that is there is only brought to the current schema, and one on PostgreSQL is somebody's own: it stays as it is.
    """
    settings = load_settings()
    path = settings.database.path
    if path is None:
        return
    is_new = not path.exists()
    asyncio.run(migrate(settings.database))
    if is_new:
        given = settings.secret_key.get_secret_value() if settings.secret_key else None
        asyncio.run(_stock(settings, Seal(load_secret_key(settings.database, given, create=True)), path))
    print(f"The demo's database is {path}; start the gateway with: make run", flush=True)


async def _stock(settings: Settings, seal: Seal, path: Path) -> None:
    """`gateway demo` puts its simulated provider's address in the place of this one, where nobody listens."""
    async with open_database(settings.database) as database:
        await _prepare(database, seal, "http://127.0.0.1:9", path.with_name("demo.json"))


def _demo_settings() -> Settings:
    settings = load_settings(workers=1)
    if settings.database.path is None:
        raise SetupError("GATEWAY_DATABASE_URL: the demo keeps its data in SQLite; unset it, or use: gateway serve")
    # What the demo printed at its start should stay in sight.
    usual = {"signup": "open", "log_requests": False}
    return settings.model_copy(update={k: v for k, v in usual.items() if k not in settings.model_fields_set})


async def _prepare(database: Database, seal: Seal, simulator_url: str, memory_path: Path) -> Welcome:
    """Add what is missing: the catalog, the account, its credits, a key. Started again, nothing is given twice."""
    added = await stock_catalog(database, seal, simulator_url)
    memory = _load(memory_path)
    reset_path = await _open_account(database, memory, memory_path)
    granted = await grant(
        database, OPERATOR, EMAIL, WELCOME_CREDITS * NANO_PER_CREDIT, "welcome to the demo", WELCOME_KEY
    )
    known = await ApiKey.filter(
        secret_hash=hash_key_secret(memory.api_key), revoked_us__isnull=True, disabled_us__isnull=True
    ).first()
    if known is None:
        issued = await issue_key(database, OPERATOR, EMAIL, name="demo", models=[entry.alias for entry in ALIASES])
        memory.api_key = issued.secret
        _save(memory_path, memory)
    elif added:
        scope = next(row["models"] for row in await key_rows(database, EMAIL) if row["id"] == known.id)
        await set_key_models(database, OPERATOR, known.id, [*scope, *added], reason="new in the demo")
    return Welcome(memory.api_key, memory.password, reset_path, granted.balance_nano)


async def _open_account(database: Database, memory: Memory, memory_path: Path) -> str:
    """The path to choose a password at, where it is not remembered. It is saved first, so that a crash cannot lose it."""
    try:
        await find_account(database, EMAIL)
    except NotFound:
        memory.password = secrets.token_urlsafe(12)
        _save(memory_path, memory)
        await set_default_limits(database)
        await create_account(database, OPERATOR, EMAIL, password=memory.password, name="Demo")
    return "" if memory.password else await make_reset_link(database, OPERATOR, EMAIL)


def _load(path: Path) -> Memory:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Memory)
    except FileNotFoundError:
        return Memory()
    except msgspec.DecodeError as error:
        raise SetupError(f"{path} cannot be read ({error}); delete it, and the demo makes a new key") from None


def _save(path: Path, memory: Memory) -> None:
    """Whole or not at all, readable by its owner only."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(memory) + b"\n")
    draft.replace(path)


def _describe(url: str, welcome: Welcome, path: Path) -> str:
    def curl(options: str, fields: str) -> str:
        body = f'{{"model": "deepseek-chat", "messages": [{{"role": "user", "content": "Hello"}}], {fields}}}'
        return (
            f'curl {options} {url}/v1/chat/completions -H "Authorization: Bearer {welcome.api_key}"'
            f" -H \"Content-Type: application/json\" -d '{body}'"
        )

    login = f"password {welcome.password}" if welcome.password else f"choose a password at {url}{welcome.reset_path}"
    return f"""\
The gateway is ready on {url}

  Base URL   {url}/v1
  API key    {welcome.api_key}
  Balance    {credits_text(welcome.balance_nano)} credits
  Dashboard  {url}/  {EMAIL}, {login}
  Docs       {url}/docs

Paste a request:

{curl("-sS", '"max_tokens": 160')}

The same as a stream:

{curl("-sSN", '"max_tokens": 160, "stream": true')}

Data is kept in {path.parent}; remove that folder to begin anew. Stop with Ctrl-C.
"""
