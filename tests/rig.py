"""The rig: real processes to test against. A simulated provider, a gateway on a database of its own, and a desk.

`Rig` belongs to a test session; tests make their own customers and aliases in it, so that they do not meet each other.
A test that needs settings or crashes of its own starts another `Rig` with `start_rig`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

import ops
from models.prices import NANO_PER_CREDIT

ROOT = Path(__file__).parents[1]
READY_WITHIN_S = 30
_count = itertools.count(1)
_rigs: list[Rig] = []


class Process:
    """A child process of this project, which printed its first line."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._file = log.open("ab")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "OPS_"))}
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
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        return self._ended(within_s)

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        self.popen.kill()
        self._ended(10)

    def _ended(self, within_s: float) -> int:
        try:
            return self.popen.wait(within_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(
                f"still running {within_s} s after its signal: {self.log.read_text()[-3000:]}"
            ) from None
        finally:
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
    def __init__(self, folder: Path, settings: dict[str, str] | None = None, database_url: str | None = None) -> None:
        self.folder = folder
        self.database_url = database_url or f"sqlite://{folder / 'gateway.db'}"
        self.environment = {"GATEWAY_DATABASE_URL": self.database_url, **(settings or {})}
        self.provider = Provider(folder)
        self.run("migrate")
        self._desk: ops.Desk | None = None
        _rigs.append(self)
        self.desk.catalog.add_provider("fp", base_url=self.provider.base_url, api_key="canary-provider-credential")
        self.start()

    @property
    def desk(self) -> ops.Desk:
        """The operators' desk; opened again if `close_desks` has closed it."""
        if self._desk is None:
            self._desk = ops.connect(self.database_url, operator="tests")
        return self._desk

    def close_desk(self) -> None:
        if self._desk is not None:
            self._desk.close()
            self._desk = None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `gateway` command to its end."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "OPS_"))}
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
        port = ["--port", str(free_port())]
        self.server = Process(["serve", *port], {**self.environment, **settings}, self.folder / "gateway.log")
        self.url = self.server.url
        deadline = time.monotonic() + READY_WITHIN_S
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                import urllib.request

                with urllib.request.urlopen(self.url + "/readyz", timeout=5):
                    return
        raise AssertionError("the gateway did not get ready: " + self.server.log.read_text()[-3000:])

    def close(self) -> None:
        self.server.stop()
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
        """Wait until the server has read every change made so far: an alias made last of all is listed."""
        witness = f"witness-{os.getpid()}-{next(_count)}"
        email = f"{witness}@example.com"
        self.desk.accounts.create(email)
        self.desk.catalog.add_model(witness, context_tokens=1000, max_output_tokens=100, published=True)
        self.desk.catalog.add_route(witness, provider="fp", upstream_model="sim", position=1, weight=1)
        self.desk.catalog.propose_price(witness, input_usd="1", output_usd="1").publish(reason="test")
        key = self.desk.keys.issue(email, name="witness", models=[witness]).secret
        import urllib.request

        request = urllib.request.Request(f"{self.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with urllib.request.urlopen(request, timeout=10) as answer:
                if json.load(answer)["data"]:
                    return
            time.sleep(0.01)
        raise AssertionError("a change did not reach the server within 10 s")

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

    def reconcile(self) -> None:
        """R of faults.md: every invariant holds, as the command says it."""
        done = self.run("reconcile")
        assert done.returncode == 0, done.stdout + done.stderr

    def _balance(self, customer: Customer) -> dict[str, Any]:
        frame = self.desk.accounts.balances()
        return frame[frame["email"] == customer.email].iloc[0].to_dict()

    # ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def chat(self, customer: Customer, model: str, **fields: Any) -> Answer:
        """One call to chat completions, read to its end."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return await self.post(customer.headers, json.dumps(body).encode())

    async def post(self, headers: dict[str, str], body: bytes, path: str = "/v1/chat/completions") -> Answer:
        headers = {"Content-Type": "application/json", **headers}
        async with client() as session, session.post(self.url + path, data=body, headers=headers) as response:
            text = await response.read()
            return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, text)


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
def start_rig(folder: Path, **settings: str) -> Iterator[Rig]:
    folder.mkdir(parents=True, exist_ok=True)
    rig = Rig(folder, settings)
    try:
        yield rig
    finally:
        rig.close()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
