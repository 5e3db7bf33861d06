"""The rig: real processes to test against. A simulated provider, a gateway on a database of its own, and a desk.

`Rig` belongs to a test session; tests make their own customers and aliases in it, so that they do not meet each other.
A test that needs settings or crashes of its own starts another `Rig` with `start_rig`. What it stands on, SQLite under one
worker or PostgreSQL and Redis under two, is for `stores` to say.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import psutil

import ops
from models.prices import NANO_PER_CREDIT
from tests.stores import SQLITE, Sql, Stores, fresh_stores
from tests.workers import Workers, gone

ROOT = Path(__file__).parents[1]
READY_WITHIN_S = 30
FEED_READ_WITHIN_S = 10
_count = itertools.count(1)
_rigs: list[Rig] = []


class Process:
    """A child process of this project, which printed its first line."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._file = log.open("ab")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "OPS_", "STRIPE_"))}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "gateway", *arguments],
            cwd=log.parent,
            env={**inherited, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=self._file,
            text=True,
        )
        assert self.popen.stdout is not None
        self.first_line = self.popen.stdout.readline()
        if not self.first_line:
            raise AssertionError(f"{arguments} ended with {self.popen.wait()}: {log.read_text()[-3000:]}")

    @property
    def url(self) -> str:
        """The address that the first line names."""
        return next(word for word in self.first_line.split() if word.startswith("http")).rstrip("/")

    def stop(self, *, within_s: float = 40) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM, within_s)

    def kill(self) -> None:
        """SIGKILL of the main process: no chance to tidy up, and its workers must notice by themselves."""
        self._end(signal.SIGKILL, 10)

    def _end(self, number: signal.Signals, within_s: float) -> int:
        children: list[psutil.Process] = []
        if self.popen.poll() is None:
            children = psutil.Process(self.popen.pid).children(recursive=True)
            self.popen.send_signal(number)
        try:
            code = self.popen.wait(within_s)
            gone(children, 10)
            return code
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still running {within_s} s after its signal: {self.log.read_text()[-3000:]}"
            ) from None
        finally:
            for process in (self.popen, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.popen.wait()
            assert self.popen.stdout is not None
            self.popen.stdout.close()
            self._file.close()


class Provider:
    """The simulated provider, and the log of what reached it."""

    def __init__(self, folder: Path) -> None:
        self.process = Process(["simulate-provider", "--port", "0"], {}, folder / "provider.log")
        self.root = self.process.url.removesuffix("/v1")
        self.base_url = self.root + "/v1"

    async def calls(self, model: str) -> list[dict[str, Any]]:
        """Every call for this upstream model, oldest first; its `state`, `headers`, `body`, `usage`."""
        return await self._get("/calls", model=model)

    async def wait(
        self, model: str, *, count: int = 1, state: str | None = None, timeout: float = 10
    ) -> list[dict[str, Any]]:
        """Wait until `count` calls (in `state`) were logged."""
        asked = {"model": model, "count": count, "timeout": timeout} | ({"state": state} if state else {})
        return await self._get("/calls/wait", **asked)

    async def served(self, model: str) -> int:
        """How many calls for this upstream model were served, those included that the log has forgotten."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.root}/calls/count", params={"model": model, "state": "served"}) as r,
        ):
            r.raise_for_status()
            return int((await r.json())["count"])

    async def release(self, model: str) -> None:
        """Let the gated calls of this model go on."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.root}/release", params={"model": model}) as r,
        ):
            r.raise_for_status()

    async def script(self, name: str, *, status: int = 200, headers: dict[str, str] | None = None,
                     chunks: list[Any], then: str = "close") -> str:  # fmt: skip
        """Upload exact bytes to replay (str, or {"text"|"base64", "after_ms"}); returns the upstream model for them."""
        pieces = [{"text": chunk} if isinstance(chunk, str) else chunk for chunk in chunks]
        body = {"status": status, "headers": headers or {}, "chunks": pieces, "then": then}
        async with aiohttp.ClientSession() as session, session.put(f"{self.root}/scripts/{name}", json=body) as r:
            assert r.status < 300, await r.text()
        return f"script:{name}"

    async def _get(self, path: str, **asked: Any) -> list[dict[str, Any]]:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self.root + path, params=asked) as r:
            assert r.status == 200, f"{path} {asked}: {await r.text()}"
            found: Any = await r.json()
            return found if isinstance(found, list) else found["calls"]


@dataclass(frozen=True)
class Customer:
    email: str
    key_id: int
    key: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    input: str = "1"
    output: str = "2"
    cached: str | None = None
    written: str | None = None

    def charge_nano(self, fresh: int = 0, output: int = 0, cached: int = 0, written: int = 0) -> int:
        rates = [
            Decimal(x) * 100_000
            for x in (self.input, self.output, self.cached or self.input, self.written or self.input)
        ]
        total = rates[0] * fresh + rates[1] * output + rates[2] * cached + rates[3] * written
        assert total == int(total)
        return int(total)


class Rig:
    def __init__(self, folder: Path, stores: Stores, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.kind = stores.kind
        self.database_url = stores.database_url
        self.environment = {"GATEWAY_DATABASE_URL": self.database_url, **stores.environment, **(settings or {})}
        self.provider = Provider(folder)
        self._migrate()
        self._desk: ops.Desk | None = None
        self._witness: _Witness | None = None
        self._others: list[Workers] = []
        _rigs.append(self)
        self.desk.catalog.add_provider("fp", base_url=self.provider.base_url, api_key="canary-provider-credential")
        self.start()

    def _migrate(self) -> None:
        """By the command, the first time; later SQLite files of a process are copies of what that has made."""
        if self.kind != SQLITE:
            self.run("migrate")
            return
        database = Path(self.database_url.removeprefix("sqlite://"))
        template = _templates() / "migrated.db"
        if template.exists():
            shutil.copy(template, database)
            return
        self.run("migrate")
        shutil.copy(database, template)

    @property
    def desk(self) -> ops.Desk:
        """The operators' desk; opened again if `close_desks` has closed it."""
        if self._desk is None:
            # A process talks to one kind of database at a time.
            for other in _rigs:
                if other.kind != self.kind:
                    other.close_desk()
            self._desk = self.connect("tests")
        return self._desk

    def connect(self, operator: str) -> ops.Desk:
        """Another desk, as a notebook would open it."""
        with _variable("GATEWAY_SECRET_KEY", self.environment.get("GATEWAY_SECRET_KEY")):
            return ops.connect(self.database_url, operator=operator)

    def close_desk(self) -> None:
        if self._desk is not None:
            self._desk.close()
            self._desk = None

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the database, whatever it is; `?` for values."""
        with Sql(self.database_url) as database:
            return database.rows(query, *values)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `gateway` command to its end."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "OPS_", "STRIPE_"))}
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            cwd=self.folder,
            env={**inherited, "PYTHONPATH": str(ROOT), **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def start(self, **settings: str) -> None:
        """The server; `settings` add to those of the rig."""
        self.server = Process(["serve", "--port", "0"], {**self.environment, **settings}, self.folder / "gateway.log")
        self.url = self.server.url
        self.workers = Workers(self.server.popen.pid, self.url)
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url + "/readyz", timeout=5):
                return
            time.sleep(0.05)
        raise AssertionError("the gateway did not get ready: " + self.server.log.read_text()[-3000:])

    @contextlib.contextmanager
    def second_server(self, **settings: str) -> Iterator[tuple[Process, Workers]]:
        """Another server process on the same database and Redis, as on a second machine; `settle_feed` waits for it too."""
        environment = {**self.environment, **settings}
        server = Process(["serve", "--port", "0"], environment, self.folder / "second.log")
        workers = Workers(server.popen.pid, server.url)
        self._others.append(workers)
        try:
            yield server, workers
        finally:
            self._others.remove(workers)
            workers.thaw_all()
            workers.hang_up()
            server.stop()

    def kill(self) -> None:
        """SIGKILL of everything at once, as when the machine loses its power."""
        workers = self.workers.pids
        self.server.popen.kill()
        for worker in workers:
            if worker != self.server.popen.pid:
                self.workers.kill(worker)
        self.server.kill()

    def close(self) -> None:
        # What a failed test has frozen would not hear that it shall end.
        self.workers.thaw_all()
        self.workers.hang_up()
        try:
            self.server.stop()
        finally:
            self.provider.process.stop()
            self.close_desk()
            _rigs.remove(self)

    # ── customers and aliases ─────────────────────────────────────────────────────────────────────────────────────

    def customer(self, *, credits: str = "1000", models: list[str]) -> Customer:
        email = f"customer-{os.getpid()}-{next(_count)}@example.com"
        # Without a password: hashing one takes longer than all the rest.
        self.desk.accounts.create(email)
        if Decimal(credits):
            self.desk.credits.grant(email, credits=credits, reason="test", grant_key=f"grant-{email}")
        issued = self.desk.keys.issue(email, name="test", models=models)
        return Customer(email, issued.id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})

    def alias(
        self,
        *upstream_models: str,
        price: Price | None = Price(),
        context_tokens: int = 64_000,
        max_output_tokens: int = 8_192,
        published: bool = True,
        settled: bool = True,
        **route: Any,
    ) -> str:
        """An alias with a route to each upstream model, in this order; in force when this returns, if `settled`."""
        name = f"alias-{os.getpid()}-{next(_count)}"
        self.desk.catalog.add_model(
            name, context_tokens=context_tokens, max_output_tokens=max_output_tokens, published=published
        )
        for position, upstream_model in enumerate(upstream_models, start=1):
            self.desk.catalog.add_route(
                name, provider="fp", upstream_model=upstream_model, position=position, weight=1, **route
            )
        if price is not None:
            self.desk.catalog.propose_price(
                name, input_usd=price.input, output_usd=price.output, cached_input_usd=price.cached or price.input,
                cache_write_usd=price.written or price.input,
            ).publish(reason="test", accept_warnings=True)  # fmt: skip
        if settled:
            self.settle_feed()
        return name

    def settle_feed(self) -> None:
        """Wait until every worker of every server has read every change made so far: the last makes an alias come or go."""
        if self._witness is None:
            self._witness = _Witness(self.desk)
        self._witness.turn(self.desk)
        witness = self._witness

        deadline = time.monotonic() + FEED_READ_WITHIN_S
        # One after the other: who has read a change once has read it for good.
        for workers in (self.workers, *self._others):
            for worker in workers.pids:
                while bool(workers.models(worker, witness.headers)) != witness.is_listed:
                    assert time.monotonic() < deadline, f"not every worker has read a change in {FEED_READ_WITHIN_S} s"
                    time.sleep(0.01)

    # ── what an accountant looks at ───────────────────────────────────────────────────────────────────────────────

    def balance_nano(self, customer: Customer) -> int:
        return int(self._balance(customer)["balance_nano"])

    def held_nano(self, customer: Customer) -> int:
        return int(self._balance(customer)["held_nano"])

    def spent_nano(self, customer: Customer, granted: str = "1000") -> int:
        return int(Decimal(granted) * NANO_PER_CREDIT) - self.balance_nano(customer)

    def records(self, customer: Customer, outcome: str | None = None) -> list[dict[str, Any]]:
        frame = self.desk.usage.records(outcome=outcome)
        return frame[frame["account"] == customer.email].to_dict("records")

    async def settled(self, customer: Customer, *, records: int | None = None, within_s: float = 15) -> None:
        """Wait until nothing is held for this customer (and, if given, so many usage records are there)."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self.held_nano(customer) == 0 and (records is None or len(self.records(customer)) >= records):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(
            f"{self.held_nano(customer)} nano-credits still held, {len(self.records(customer))} records"
        )

    async def recorded(self, customer: Customer, records: int, *, within_s: float = 30) -> None:
        """Wait until there are so many usage records of this customer."""
        async with asyncio.timeout(within_s):
            while len(self.records(customer)) < records:
                await asyncio.sleep(0.05)

    def reconcile(self) -> None:
        """R of faults.md: every invariant holds, as the command says it."""
        done = self.run("reconcile")
        assert done.returncode == 0, done.stdout + done.stderr

    def _balance(self, customer: Customer) -> dict[str, Any]:
        frame = self.desk.accounts.balances()
        return frame[frame["email"] == customer.email].iloc[0].to_dict()

    # ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def chat(
        self, customer: Customer, model: str, *, over: aiohttp.ClientSession | None = None, **fields: Any
    ) -> Answer:
        """One call to chat completions, read to its end; on a connection of its own, unless it is to go `over` another."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return await self.post(customer.headers, json.dumps(body).encode(), over=over)

    async def everywhere(self, customer: Customer, model: str, **fields: Any) -> list[Answer]:
        """The same call at each worker."""
        return [await self.at(worker, customer, model, **fields) for worker in self.workers.pids]

    async def at(self, worker: int, customer: Customer, model: str, **fields: Any) -> Answer:
        """One call to chat completions at this worker."""
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}).encode()
        headers = {"Content-Type": "application/json", **customer.headers}
        answer = await asyncio.to_thread(self.workers.ask, worker, "POST", "/v1/chat/completions", body, headers)
        return Answer(*answer)

    async def post(
        self,
        headers: dict[str, str],
        body: bytes,
        path: str = "/v1/chat/completions",
        *,
        over: aiohttp.ClientSession | None = None,
    ) -> Answer:
        headers = {"Content-Type": "application/json", **headers}
        async with contextlib.AsyncExitStack() as opened:
            session = over or await opened.enter_async_context(client())
            async with session.post(self.url + path, data=body, headers=headers) as response:
                text = await response.read()
                return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, text)


class _Witness:
    """An alias that is published and withdrawn in turn, and a key by which that is seen."""

    def __init__(self, desk: ops.Desk) -> None:
        self._name = f"witness-{os.getpid()}-{next(_count)}"
        email = f"{self._name}@example.com"
        desk.accounts.create(email)
        desk.catalog.add_model(self._name, context_tokens=1000, max_output_tokens=100)
        desk.catalog.add_route(self._name, provider="fp", upstream_model="sim", position=1, weight=1)
        desk.catalog.propose_price(self._name, input_usd="1", output_usd="1").publish(reason="test")
        secret = desk.keys.issue(email, name="witness", models=[self._name]).secret
        self.headers = {"Authorization": f"Bearer {secret}"}
        self.is_listed = False

    def turn(self, desk: ops.Desk) -> None:
        self.is_listed = not self.is_listed
        (desk.catalog.publish if self.is_listed else desk.catalog.unpublish)(self._name)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def data(self) -> list[bytes]:
        """The data of every event; fails on anything but `data:` lines and comments, LF, one blank line."""
        assert b"\r" not in self.body
        assert not self.body or self.body.endswith(b"\n\n")
        blocks = [block for block in self.body.split(b"\n\n") if block and not block.startswith(b":")]
        assert all(block.startswith(b"data: ") and b"\n" not in block for block in blocks), blocks
        return [block[6:] for block in blocks]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON events, without `[DONE]`."""
        return [json.loads(data) for data in self.data if data != b"[DONE]"]

    @property
    def is_done(self) -> bool:
        return bool(self.data) and self.data[-1] == b"[DONE]"

    @property
    def text(self) -> str:
        return "".join(c["delta"].get("content") or "" for e in self.events for c in e.get("choices", []))


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def close_desks() -> None:
    """Close the desks of all rigs: a process talks to one kind of database at a time."""
    for rig in _rigs:
        rig.close_desk()


@contextlib.contextmanager
def start_rig(
    folder: Path, *, database_url: str | None = None, redis_url: str | None = None, **settings: str
) -> Iterator[Rig]:
    """A rig of one's own. The URLs are of servers that a test brings along, where rigs stand on such; `settings` go first."""
    folder.mkdir(parents=True, exist_ok=True)
    with fresh_stores(folder, database_url=database_url, redis_url=redis_url) as stores:
        rig = Rig(folder, stores, settings)
        try:
            yield rig
        finally:
            rig.close()


@functools.cache
def _templates() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gateway-rigs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """An environment variable, for a moment; unset if there is no value."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
